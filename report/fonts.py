"""Fonts for names in any script: matplotlib's own has no Chinese, Japanese or Korean characters, for example."""

import functools
import sys
from collections.abc import Iterable

from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

OWN_FONT = "DejaVu Sans"  # comes with matplotlib
BOXES = "Last Resort"  # comes with matplotlib, too, and has a box for every character
MOST_SHOWN = 10  # characters in a message


def find_fonts(figure: Figure) -> bool:
    """Give the texts of a figure other installed fonts for the characters that their own lacks; whether any needs them.

    Says once, on stderr, that no installed font has some.
    """
    texts = figure.findobj(Text)
    lacking = frozenset(_lacking(set().union(*(text.get_text() for text in texts))))
    if not lacking:
        return False
    families = [OWN_FONT, *fonts_with(lacking)]
    for text in texts:
        text.set_fontfamily(families)
    return True


def _lacking(characters: Iterable[str]) -> set[str]:
    own = _characters(font_manager.findfont(OWN_FONT))
    return {character for character in characters if character not in own and not character.isspace()}


@functools.cache
def fonts_with(wanted: frozenset[str]) -> tuple[str, ...]:
    """The names of installed fonts that together have the wanted characters, those with most of them first."""
    known = {font.fname: font.name for font in font_manager.fontManager.ttflist if not font.name.startswith(BOXES)}
    # matplotlib remembers which fonts were installed when it was first used.
    paths = [*known, *(path for path in font_manager.findSystemFonts() if path not in known)]
    has = {path: wanted & _characters(path) for path in paths}
    left, found = set(wanted), []
    while left and (best := max(paths, key=lambda path: len(has[path] & left))) and has[best] & left:
        if best not in known:
            font_manager.fontManager.addfont(best)
        found.append(known.get(best) or font_manager.FontProperties(fname=best).get_name())
        left -= has[best]
    if left:
        _say_once("".join(sorted(left)))
    return tuple(found)


def _characters(path: str) -> set[str]:
    try:
        font = FT2Font(path)
        return set(map(chr, font.get_charmap())) if font.scalable else set()
    except (OSError, RuntimeError):  # a damaged font
        return set()


_said: list[str] = []


def _say_once(characters: str) -> None:
    if not _said:
        print(
            f"figures: no installed font has {len(characters)} of the characters, such as {characters[:MOST_SHOWN]}: "
            "boxes stand for them; install a font of that script (Noto Sans CJK has Chinese, Japanese and Korean)",
            file=sys.stderr,
        )
    _said.append(characters)
