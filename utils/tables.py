"""Texts: tables for people on the screen and in Markdown, for machines in CSV; names that others chose, escaped.

A terminal must not obey the control characters in such names.
"""

import csv
import io
import math
import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

WIDTH = 80  # characters of a line on the screen
# A spreadsheet takes a cell that starts so for a formula, unless an apostrophe stands before it.
_FORMULA = re.compile("'*[=+\\-@\t\r\n]")
# Control characters but for tab and end of line; what starts a line elsewhere; what turns the direction of writing.
_CONTROL = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_COMMAND = re.compile(r"\b(?:python|pip|cnn-modules) [^;,()]+")
_WRAPPING: dict[str, Any] = {"subsequent_indent": "    ", "break_long_words": False, "break_on_hyphens": False}
_CONTROL_OR_BLANK = re.compile(f"{_CONTROL.pattern}|[\t\n]")


def show_table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table, its columns as wide as they must be; where that is too wide, headings take several lines."""
    heading, *lines = _texts(headings, rows)
    cells = [max(map(len, column), default=0) for column in zip(*lines, strict=True)] or [0] * len(heading)
    wrapped = [[text] for text in heading]
    widths = [max(len(text), width) for text, width in zip(heading, cells, strict=True)]
    if sum(widths) + 2 * (len(widths) - 1) > WIDTH:
        widths = [max([width, *map(len, text.split())]) for text, width in zip(heading, cells, strict=True)]
        for _ in range(WIDTH - sum(widths) - 2 * (len(widths) - 1)):  # the column with the most lines gets wider
            lengths = [len(textwrap.wrap(text, max(1, width))) for text, width in zip(heading, widths, strict=True)]
            widths[lengths.index(max(lengths))] += 1
        wrapped = [textwrap.wrap(text, max(1, width)) for text, width in zip(heading, widths, strict=True)]
        widths = [max([width, *map(len, texts)]) for texts, width in zip(wrapped, cells, strict=True)]
    height = max(map(len, wrapped))
    lines[:0] = [list(line) for line in zip(*([""] * (height - len(texts)) + texts for texts in wrapped), strict=True)]
    for line in lines:
        print("  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def known(value: float, form: str) -> str:
    """A number in a form; nothing for NaN, which is not known."""
    return "" if math.isnan(value) else format(value, form)


def fitted(parts: Iterable[str], width: int = WIDTH, indent: str = "    ") -> str:
    """Short parts next to each other, in as many lines of `width` characters as they need; no part is broken."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + 2 + len(part) <= width:
            lines[-1] += f"  {part}"
        else:
            lines.append(f"{indent}{part}" if lines else part)
    return "\n".join(lines)


def for_stream(text: str, stream: TextIO) -> str:
    """A text with its long lines wrapped where it goes to a terminal; as it is where it goes to a file or a pipe.

    Commands are not broken, so that they can be copied.
    """
    if not stream.isatty():
        return text
    kept = _COMMAND.sub(lambda found: found[0].replace(" ", "\0"), text)
    lines = (textwrap.wrap(line, WIDTH, **_WRAPPING) if len(line) > WIDTH else [line] for line in kept.split("\n"))
    return "\n".join(line for part in lines for line in part).replace("\0", " ")


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table in Markdown."""
    first, *others = [[text.replace("|", "\\|") for text in line] for line in _texts(headings, rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (first, ["---"] * len(first), *others))


def csv_table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table in CSV; a float64 comes back exactly (repr).

    A text that a spreadsheet would take for a formula gets an apostrophe before it, which `read_csv` removes.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(
        [[_no_formula(value) for value in row] for row in (headings, *rows)]
    )
    return text.getvalue()


def read_csv(text: str) -> list[list[str]]:
    """The cells of a table that `csv_table` wrote, or another program. Raises csv.Error."""
    rows = csv.reader(io.StringIO(text, newline=""))
    return [[cell[1:] if cell[:1] == "'" and _FORMULA.match(cell) else cell for cell in row] for row in rows]


def _no_formula(value: Any) -> Any:
    if not isinstance(value, str) or not _FORMULA.match(value):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def _texts(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[list[str]]:
    return [[printable(str(value)) for value in line] for line in (headings, *rows)]


def printable(text: str) -> str:
    """A name as it can be shown within one line: control characters are escaped, as `\\x1b`."""
    return _CONTROL_OR_BLANK.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


class EscapingStream:
    """A text stream on which control characters are escaped; tabs and line ends are not.

    Args:
        stream: what it writes to, and whatever else it is asked for.
    """

    def __init__(self, stream: TextIO) -> None:
        self.unescaped = stream

    def write(self, text: str) -> int:
        """Write a text, escaped; return its length."""
        self.unescaped.write(_CONTROL.sub(_escaped, text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write texts, escaped."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unescaped, name)


def unescaped(stream: TextIO) -> TextIO:
    """The stream for terminal control of our own."""
    return stream.unescaped if isinstance(stream, EscapingStream) else stream
