"""The classes that a command line names with `--target_class`: by number, by name, or all."""

import unicodedata
from collections.abc import Sequence
from difflib import get_close_matches

from configures.base import Config
from dataset.datasets import load_source
from utils.errors import UserError

HELP = "by number, counted from 0, or by name (a number is never a name, even where the classes are called by numbers)"
SHOWN = 10  # names in a message at the most


def chosen_classes(texts: Sequence[str], config: Config) -> list[int]:
    """The numbers of the classes that the texts name, each once, in order; `all` is every class.

    The dataset is opened only where a text is a name. Raises UserError for a class that the strong model does not have.
    """
    if "all" in texts:
        return list(range(config.num_classes))
    names = _names(config, needed=not all(_number(text) in range(config.num_classes) for text in texts))
    return sorted({class_number(text, names) for text in texts})


def _number(text: str) -> int | None:
    """The whole number that a text is, -1 in place of one that is too long to be a class's; None of another text."""
    if not (text.isascii() and text.removeprefix("-").isdecimal()):
        return None
    return int(text) if len(text) < 10 else -1


def class_number(text: str, names: Sequence[str], option: str = "--target_class") -> int:
    """The number of the class that a text means: a number counts the classes from 0, another text is a name.

    `option` is the command line's. Raises UserError, with the nearest names, where there is no such class.
    """
    number = _number(text)
    if number is not None:
        if 0 <= number < len(names):
            if text in names and names[number] != text:
                called = f"{names[number]}; the class called {text} is number {names.index(text)}"
                print(f"warning: {option} {text} is the class of that number, called {called}", flush=True)
            return number
        hint = f"; the class called {text} is number {names.index(text)}" if text in names else ""
    else:
        name = unicodedata.normalize("NFC", text)
        if name in names:
            return names.index(name)
        folded = [each.casefold() for each in names]
        near = get_close_matches(name.casefold(), folded)
        shown = [f"{number} ({each})" for number, each in enumerate(names) if not near or folded[number] in near]
        more = [f"and {len(shown) - SHOWN} more"] if len(shown) > SHOWN else []
        hint = f"; {'did you mean' if near else 'they are'} {', '.join(shown[:SHOWN] + more)}{'?' if near else ''}"
    raise UserError(f"{option} {text}: expected a class from 0 to {len(names) - 1}, or its name{hint}")


def _names(config: Config, *, needed: bool) -> tuple[str, ...]:
    """The classes' names; where nobody needs them and the configuration does not say them, their numbers."""
    if config.classes or not needed:
        return config.classes or tuple(map(str, range(config.num_classes)))
    return load_source(config, config.image_source).classes
