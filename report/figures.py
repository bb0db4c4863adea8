"""What every figure shares: its numbers and its finding beside it, one look, and how it is saved.

A figure is a function of numbers alone and is drawn without a screen. Its colours are told apart by colour-blind
readers and its marks by their shapes in print; saved as SVG it turns its ink light where the page is dark.
"""

import contextlib
import io
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from report.fonts import find_fonts
from utils.files import save_text, write_whole
from utils.tables import csv_table

# seaborn's "colorblind".
PALETTE = (
    *("#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc"),
    *("#ca9161", "#fbafe4", "#949494", "#ece133", "#56b4e9"),
)
MARKERS = "os^Dv<>pP*hX"
HEAT = "cividis"  # the colour map of every heat map: even in brightness, and the same to colour-blind eyes
DPI = 150
MOST_CELLS_WITH_TEXT = 20  # along either side of a heat map
MOST_NAMES = 25  # along either side of a heat map
WIDTH = 5.8  # inches: a figure that is no wider can be read on a phone
LETTERS = 13  # of a title, in an inch
# Of an effect's kind: colour, mark, words.
MARKS = {"gain": (PALETTE[0], "^", "significant gain"), "loss": (PALETTE[3], "v", "significant loss")}
MARKS |= {"": ("#8a9099", "o", "not significant")}

# One colour for all lines and letters, so that the SVG can change it in one place.
INK, INK_ON_DARK = "#1d2125", "#e8eaed"
STYLE: dict[str, Any] = {
    "axes.edgecolor": INK,
    "axes.facecolor": "none",
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "figure.facecolor": "none",
    "figure.titlesize": "medium",
    "font.size": 10,
    "grid.alpha": 0.35,
    "grid.color": "#8a9099",
    "legend.fontsize": "small",
    "legend.frameon": False,
    "svg.hashsalt": "figure",  # the same figure gives the same bytes
    "text.color": INK,
    "text.parse_math": False,  # a class may be called "$5 to $10"
    "xtick.color": INK,
    "ytick.color": INK,
}
# A decorator: what is drawn inside has the project's look, whatever stands in a matplotlibrc.
styled = matplotlib.style.context(["default", STYLE])

DARK_STYLE = (
    "<style>@media (prefers-color-scheme: dark) {"
    f'[style*="fill: {INK}"] {{fill: {INK_ON_DARK} !important}} '
    f'[style*="stroke: {INK}"] {{stroke: {INK_ON_DARK} !important}}'
    "}</style>"
)


@dataclass(frozen=True)
class Drawing:
    """A figure, what it shows in words, and the numbers behind it."""

    figure: Figure
    finding: str  # for those who do not see the figure: whole sentences
    columns: tuple[str, ...]
    rows: Sequence[Sequence[Any]]

    @cached_property
    def svg(self) -> str:
        """The figure as `as_svg` gives it."""
        return as_svg(self.figure)

    def as_csv(self) -> str:
        """The numbers as CSV, under the names of their columns."""
        return csv_table(self.columns, self.rows)


def drawing_of(figure: Figure, finding: str, kind: type, rows: Sequence[Any]) -> Drawing:
    """A figure of dataclass instances of a kind, whose fields are the columns."""
    return Drawing(figure, finding, tuple(field.name for field in fields(kind)), [astuple(row) for row in rows])


def curve_style(number: int) -> dict[str, Any]:
    """The colour, one of the four told apart best, and the mark of a figure's n-th curve, from 0."""
    return {"color": PALETTE[(0, 1, 2, 4)[number % 4]], "marker": MARKERS[number % len(MARKERS)]}


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches, whose parts make room for each other."""
    return Figure(figsize=(width, height), layout="constrained")


@styled
def as_png(figure: Figure) -> bytes:
    """The figure on white."""
    buffer = io.BytesIO()
    with _laid_out(figure, "white"):
        FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


@styled
def as_svg(figure: Figure) -> str:
    """The figure without a background, its ink light where the reader prefers dark pages."""
    buffer = io.StringIO()
    with _laid_out(figure, "none"):
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    head, defs, rest = buffer.getvalue().partition("<defs>")
    return f"{head}{DARK_STYLE}{defs}{rest}"


@contextlib.contextmanager
def _laid_out(figure: Figure, background: str) -> Iterator[None]:
    """For drawing a figure: its texts have the fonts that they need, and its parts their places.

    `Figure.savefig` would draw it once more before, each time, to find the places that it has by then.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # `find_fonts` says it once
        figure.set(dpi=DPI, facecolor=background)
        if title := figure.get_suptitle():
            figure.suptitle(textwrap.fill(title, round(LETTERS * figure.get_figwidth())))
        layout = figure.get_layout_engine()
        if figure.axes and isinstance(layout, ConstrainedLayoutEngine):
            FigureCanvasAgg(figure)  # which measures texts
            layout.execute(figure)
            if find_fonts(figure):
                layout.execute(figure)
            figure.set_layout_engine("none")
        else:
            find_fonts(figure)
        yield


def save_drawing(drawing: Drawing, path: Path) -> None:
    """Write `path` with .png, .svg and .csv (the numbers) behind its name, each whole."""
    png = as_png(drawing.figure)
    write_whole(path.with_name(f"{path.name}.png"), lambda file: file.write(png))
    save_text(path.with_name(f"{path.name}.svg"), drawing.svg)
    save_text(path.with_name(f"{path.name}.csv"), drawing.as_csv())


def remove_drawings(folder: Path) -> None:
    """Remove what `save_drawing` wrote into a folder, three files of each name, and nothing else."""
    for svg in folder.glob("*.svg"):
        files = [svg.with_name(f"{svg.stem}{suffix}") for suffix in (".png", ".svg", ".csv")]
        if all(file.is_file() for file in files):
            for file in files:
                file.unlink()


def heat_map(
    axes: Axes,
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    label: str,
    texts: np.ndarray | None = None,
    high: float | None = None,
    **more: Any,
) -> None:
    """Draw a labelled heat map of values (rows, columns), from 0 to `high`, with seaborn; NaN leaves a cell empty.

    Each cell shows its text in `texts`, unless there are many; of many names some are left out.
    """
    import seaborn  # takes a second

    few = max(values.shape) <= MOST_CELLS_WITH_TEXT
    shown = {"annot": texts, "fmt": "", "annot_kws": {"size": 8 if max(values.shape) <= 14 else 6}} if few else {}
    options = {"cmap": HEAT, "vmin": 0, "vmax": high, "cbar_kws": {"label": label}, **shown, **more}
    seaborn.heatmap(values, ax=axes, xticklabels=False, yticklabels=False, rasterized=not few, **options)
    for text, color in zip(axes.texts, np.asarray(axes.collections[0].get_facecolor()), strict=False):
        text.set_color(readable_on(color))
    for set_ticks, names in ((axes.set_xticks, columns), (axes.set_yticks, rows)):
        step = -(-len(names) // MOST_NAMES)
        set_ticks(np.arange(0, len(names), step) + 0.5, [short(name) for name in names[::step]], rotation=0)
    if max(map(len, columns)) > 4:
        axes.tick_params(axis="x", rotation=90)
    axes.tick_params(length=0)


def inches_of(rows: int, each: float) -> float:
    """The height of rows: `each` for up to 20, less for each of more; the label of a colour bar needs some."""
    return max(1.9, each * rows if rows <= 20 else each * max(20, rows / 4))


def extremes(values: np.ndarray, most: int = 10) -> np.ndarray:
    """The places (n,) of the `most` least and the `most` largest of many values, in that order; all of up to twice."""
    if len(values) <= 2 * most:
        return np.arange(len(values))
    order = np.argsort(values, kind="stable")
    return np.concatenate([order[:most], order[-most:]])


def short(name: str, most: int = 20) -> str:
    """A name shortened to a number of letters: the middle is left out, because names may differ at the end alone."""
    return name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[-(most - most // 2) :]}"


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Name the rows 0, 1, 2 ... of a figure, the first on top, each with its whole height inside the axes."""
    axes.set_yticks(range(len(names)), [short(name, 30) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)


def end_at_100(axes: Axes, *names: str) -> None:
    """End the axes `x`, `y` of percentages at 0 and 100, where a margin would lead beyond; marks are drawn whole."""
    for name in names:
        getattr(axes, f"set_{name}lim")(np.clip(getattr(axes, f"get_{name}lim")(), 0, 100))
    for artist in (*axes.lines, *axes.collections):
        artist.set_clip_on(False)


def readable_on(background: Sequence[float] | np.ndarray) -> str:
    """Black or white, whichever contrasts more with a colour (red, green, blue, ... from 0 to 1); source: WCAG 2.2."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in background[:3]]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "black" if luminance > 0.179 else "white"
