"""The report as one HTML page: everything inside it, nothing fetched, no script; readable in light and dark, on narrow
screens, with a keyboard and with a screen reader.
"""

import base64
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from report.figures import Drawing
from utils.errors import UserError

TABLE_ROWS_SHOWN = 130  # of the numbers behind a figure; longer ones are only in the CSV
CSV_BYTES_INSIDE = 300_000  # larger ones are only beside the page

PAGE = string.Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>$title</title>
<style>
:root { color-scheme: light dark; --page: #f6f7f9; --card: #ffffff; --ink: #1d2125; --quiet: #555c66; --line: #d5d9df;
  --link: #0b57a4; --note: #fff6dd; --note-line: #b7791f; }
@media (prefers-color-scheme: dark) { :root { --page: #14171a; --card: #1c2024; --ink: #e8eaed; --quiet: #adb4bd;
  --line: #3a4048; --link: #8cc0ff; --note: #33290f; --note-line: #d9a441; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
body { margin: 0; background: var(--page); color: var(--ink); font: 1rem/1.55 system-ui, sans-serif; }
a { color: var(--link); }
a:focus-visible, summary:focus-visible, [tabindex]:focus-visible { outline: 3px solid var(--link);
  outline-offset: 2px; }
.skip { position: absolute; left: -100rem; }
.skip:focus { left: 1rem; top: 1rem; background: var(--card); padding: .5rem 1rem; z-index: 1; }
header, main, footer { max-width: 66rem; margin: 0 auto; padding: 0 1rem; }
header { padding-top: 2rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.35rem; line-height: 1.3; margin: 2.5rem 0 .5rem; }
h3 { font-size: 1.08rem; margin: 1.5rem 0 .25rem; }
p, ul, ol { max-width: 46rem; }
.quiet { color: var(--quiet); }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.1rem; list-style: none; padding: 0; max-width: none; }
nav a { display: inline-block; padding: .2rem 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(12rem, 1fr)); gap: .75rem; margin: 1rem 0; }
.tiles > div { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .75rem 1rem; }
.tiles dt { color: var(--quiet); }
.tiles dd { margin: 0; }
.tiles .value { font-size: 1.6rem; font-weight: 650; line-height: 1.3; }
figure, .card { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; margin: 1rem 0;
  padding: 1rem; }
figure img { display: block; width: 100%; height: auto; margin: 0 auto; }
figcaption { max-width: 46rem; margin-top: .75rem; }
.wide { overflow-x: auto; }
@media (max-width: 45rem) { figure img { width: auto; max-width: none; min-width: 100%; height: auto; } }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .4rem; color: var(--quiet); }
caption span { display: block; max-width: min(46rem, calc(100vw - 5rem)); }
th, td { text-align: left; vertical-align: top; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid var(--line); }
th { font-weight: 600; }
td.number, th.number { text-align: right; }
code { font-family: ui-monospace, monospace; font-size: .9em; overflow-wrap: anywhere; }
pre { overflow-x: auto; background: var(--page); border: 1px solid var(--line); border-radius: .3rem; padding: .6rem; }
.note { background: var(--note); border-left: .3rem solid var(--note-line); padding: .6rem 1rem; max-width: 46rem;
  overflow-wrap: anywhere; }
summary { cursor: pointer; color: var(--link); padding: .25rem 0; }
footer { padding-bottom: 3rem; }
@media print { nav, .skip { display: none; } figure { break-inside: avoid; } }
</style>
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<header>
<h1>$title</h1>
<p class="quiet">$subtitle</p>
</header>
<main id="content">
$answer
<nav aria-label="Sections"><ul>
$links
</ul></nav>
$sections
</main>
<footer><p class="quiet">$footer</p></footer>
</body>
</html>
""")


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
    """A table; its first column names the rows. Code stands in `backticks`."""

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[Any]]
    folded: bool = False


@dataclass(frozen=True)
class Picture:
    """A figure with a sentence on how to read it."""

    name: str  # of its files
    drawing: Drawing
    reading: str


Block = Paragraph | Note | Tiles | Table | Picture


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    name: str  # of its anchor
    heading: str
    blocks: Sequence[Block]

    @property
    def pictures(self) -> list[Picture]:
        """Its figures, in order."""
        return [block for block in self.blocks if isinstance(block, Picture)]


def section(name: str, heading: str, *builders: Callable[[], Sequence[Block]]) -> Section:
    """A section of what each builder gives; where one raises UserError, its message stands in that place."""
    blocks: list[Block] = []
    for build in builders:
        try:
            blocks += build()
        except UserError as error:
            note = Note(f"Not here: {error}")
            blocks += [] if note in blocks else [note]
    return Section(name, heading, blocks)


def html_page(title: str, subtitle: str, answer: Section, sections: Sequence[Section], footer: str) -> str:
    """The whole page."""
    links = "\n".join(f'<li><a href="#{escape(part.name)}">{escape(part.heading)}</a></li>' for part in sections)
    return PAGE.substitute(
        title=escape(title),
        subtitle=escape(subtitle),
        answer=_section_html(answer),
        links=links,
        sections="\n".join(map(_section_html, sections)),
        footer=with_code(footer),
    )


def with_code(text: str) -> str:
    """Escaped text with what stands in `backticks` as code."""
    parts = escape(text).split("`")
    if len(parts) % 2 == 0:  # an odd backtick is one of the text's own
        return escape(text)
    return "".join(f"<code>{part}</code>" if number % 2 else part for number, part in enumerate(parts))


def _section_html(part: Section) -> str:
    name, blocks = escape(part.name), "\n".join(map(_block_html, part.blocks))
    return (
        f'<section aria-labelledby="{name}">\n<h2 id="{name}" tabindex="-1">{escape(part.heading)}</h2>\n{blocks}\n'
        "</section>"
    )


def _block_html(block: Block) -> str:
    if isinstance(block, Paragraph):
        return f"<p>{with_code(block.text)}</p>"
    if isinstance(block, Note):
        return f'<p class="note" role="note">{with_code(block.text)}</p>'
    if isinstance(block, Tiles):
        tiles = [
            f'<div><dt>{escape(label)}</dt><dd><span class="value">{escape(value)}</span><br>{escape(words)}</dd></div>'
            for label, value, words in block.tiles
        ]
        return f'<dl class="tiles">{"".join(tiles)}</dl>'
    if isinstance(block, Table):
        table = f'<div class="card">{_table_html(block)}</div>'
        if not block.folded:
            return table
        return f"<details><summary>{with_code(block.caption)}</summary>{table}</details>"
    return _picture_html(block)


def _table_html(table: Table) -> str:
    numeric = [all(_is_number(row[column]) for row in table.rows) for column in range(len(table.headings))]
    attributes = [' class="number"' if number else "" for number in numeric]
    head = "".join(
        f'<th scope="col"{attribute}>{with_code(str(heading))}</th>'
        for heading, attribute in zip(table.headings, attributes, strict=True)
    )
    body = []
    for first, *cells in table.rows:
        cells_html = [
            f"<td{attribute}>{with_code(_text(cell))}</td>"
            for cell, attribute in zip(cells, attributes[1:], strict=True)
        ]
        body.append(f'<tr><th scope="row"{attributes[0]}>{with_code(_text(first))}</th>{"".join(cells_html)}</tr>')
    caption = with_code(table.caption)
    return (
        f'<div class="wide" role="group" tabindex="0" aria-label="Table: {escape(table.caption)}">'
        f"<table><caption><span>{caption}</span></caption><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _picture_html(picture: Picture) -> str:
    drawing, name = picture.drawing, escape(picture.name)
    width, height = (round(96 * inches) for inches in drawing.figure.get_size_inches())
    image = _inline("image/svg+xml", drawing.svg)
    text = drawing.as_csv()
    numbers = f"The numbers behind it are in <code>figures/{name}.csv</code> beside this page."
    if len(text) <= CSV_BYTES_INSIDE:
        link = f'<a download="{name}.csv" href="{_inline("text/csv", text)}">{name}.csv</a>'
        numbers = f"The numbers behind it: {link}."
    table = ""
    if len(drawing.rows) <= TABLE_ROWS_SHOWN:
        numbers_table = Table(f"Numbers of the figure {picture.name}", drawing.columns, drawing.rows)
        table = f"<details><summary>Numbers of {name} as a table</summary>{_table_html(numbers_table)}</details>"
    return (
        f'<figure><div class="wide" role="group" tabindex="0" aria-label="Figure {name}">'
        f'<img src="{image}" width="{width}" height="{height}" style="max-width: {width}px" '
        f'alt="{escape(drawing.finding)}"></div>'
        f"<figcaption><p><strong>{escape(drawing.finding)}</strong></p><p>{escape(picture.reading)} {numbers}</p>"
        f"</figcaption>{table}</figure>"
    )


def _inline(kind: str, text: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(text.encode()).decode()}"


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, int | float)
        or str(value).removesuffix("%").strip().replace(",", "").lstrip("+-").replace(".", "", 1).isdecimal()
    )


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
