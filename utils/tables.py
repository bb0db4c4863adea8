"""Tables of any values: for people on the screen and in Markdown, for machines in CSV."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

WIDTH = 80  # characters of a line on the screen


def show_table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table, its columns as wide as they must be."""
    lines = _texts(headings, rows)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def fitted(parts: Iterable[str], width: int = WIDTH, indent: str = "    ") -> str:
    """Short parts next to each other, in as many lines of `width` characters as they need; no part is broken."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + 2 + len(part) <= width:
            lines[-1] += f"  {part}"
        else:
            lines.append(f"{indent}{part}" if lines else part)
    return "\n".join(lines)


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table in Markdown."""
    first, *others = [[text.replace("|", "\\|") for text in line] for line in _texts(headings, rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (first, ["---"] * len(first), *others))


def csv_table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table in CSV; a float64 comes back exactly (repr)."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([headings, *rows])
    return text.getvalue()


def _texts(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[list[str]]:
    return [[str(value) for value in line] for line in (headings, *rows)]
