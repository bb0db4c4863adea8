"""The report as one HTML page: everything is inside it and nothing is fetched; readable in light and dark, on narrow
screens, with a keyboard, with a screen reader, and without its script, which filters tables. `templates` has its form.
"""

import base64
import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from report.figures import Drawing
from utils.errors import MissingFile, UserError

TABLE_ROWS_SHOWN = 130  # of the numbers behind a figure; longer ones are only in the CSV
CSV_BYTES_INSIDE = 300_000  # larger ones are only beside the page
NUMBER = re.compile(r"[+-]?\d[\d,]*(\.\d+)?\s*%?")

FOLDER = Path(__file__).parent / "templates"
SCRIPT = (FOLDER / "page.js").read_text(encoding="utf-8")
TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(FOLDER),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)


@dataclass(frozen=True)
class Paragraph:
    """Plain text."""

    text: str


@dataclass(frozen=True)
class Note:
    """What the reader should know before trusting or missing something."""

    text: str


@dataclass(frozen=True)
class Tiles:
    """The few numbers that matter most: (label, value, a few words on it)."""

    tiles: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class Table:
    """A table; its first column names the rows. Code stands in `backticks`, an `Effect` has the colour of its kind."""

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[Any]]
    folded: bool = False

    @property
    def numeric(self) -> list[bool]:
        """Per column, whether all of its values are numbers."""
        return [all(_is_number(row[column]) for row in self.rows) for column in range(len(self.headings))]


@dataclass(frozen=True)
class Picture:
    """A figure with a sentence on how to read it."""

    name: str  # of its files
    drawing: Drawing
    reading: str
    folded: bool = False

    @property
    def size(self) -> list[int]:
        """Width and height in CSS pixels, 96 an inch."""
        return [round(96 * inches) for inches in self.drawing.figure.get_size_inches()]

    @property
    def svg_uri(self) -> str:
        """The figure itself."""
        return _data_uri("image/svg+xml", self.drawing.svg)

    @property
    def csv_uri(self) -> str:
        """The numbers behind it; empty where they are too many to stand in the page."""
        text = self.drawing.as_csv()
        return _data_uri("text/csv", text) if len(text) <= CSV_BYTES_INSIDE else ""

    @property
    def numbers(self) -> Table | None:
        """The numbers behind it as a table, where they are few."""
        drawing = self.drawing
        few = len(drawing.rows) <= TABLE_ROWS_SHOWN
        return Table(f"Numbers of the figure {self.name}", drawing.columns, drawing.rows) if few else None


Block = Paragraph | Note | Tiles | Table | Picture


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    name: str  # of its anchor
    heading: str
    blocks: Sequence[Block]
    absent: Sequence[str] = ()  # the stages that have not run, where so nothing stands below it
    folded: bool = False

    @property
    def pictures(self) -> list[Picture]:
        """Its figures, in order."""
        return [block for block in self.blocks if isinstance(block, Picture)]


def section(name: str, heading: str, *builders: Callable[[], Iterable[Block]], folded: bool = False) -> Section:
    """A section of what each builder gives; where one raises UserError, its message stands in that place.

    Empty where all that it needs was never made: nobody asked for it.
    """
    blocks: list[Block] = []
    absent: list[str] = []
    for build in builders:
        try:
            blocks += build()
        except UserError as error:
            if isinstance(error, MissingFile):
                absent.append(str(error))
            note = Note(f"Not here: {error}")
            blocks += [] if note in blocks else [note]
    if absent and all(isinstance(block, Note) and block.text.removeprefix("Not here: ") in absent for block in blocks):
        return Section(name, heading, (), tuple(dict.fromkeys(absent)))
    return Section(name, heading, blocks, folded=folded)


def html_page(title: str, subtitle: str, answer: Section, sections: Sequence[Section], footer: str) -> str:
    """The whole page; a section without blocks is left out."""
    page, filled = TEMPLATES.get_template("page.html"), [part for part in sections if part.blocks]
    checksum = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    parts = {"title": title, "subtitle": subtitle, "answer": answer, "sections": filled, "footer": footer}
    return page.render(**parts, script=Markup(SCRIPT), checksum=checksum)  # noqa: S704 - our own


def _data_uri(kind: str, text: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(text.encode()).decode()}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or NUMBER.fullmatch(str(value)) is not None
