"""The figure of what a module for one patch costs: the target class's F1 against the module's operations."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

import numpy as np

from report.figures import INK, MARKERS, PALETTE, Drawing, end_at_100, new_figure, styled

BEFORE, NO_MODULE, WHOLE_MODEL = "before", "learned, no module", "learned, whole strong model"
LABEL_HEIGHT = 1.4  # of a class's name in the figure, in points of F1


@dataclass(frozen=True)
class PatchTradeOff:
    """One weak model, patched in one way."""

    target_class: int
    name: str  # of the class
    method: str  # a control, a search method, or `set NAME`
    keep: float  # the mean share of kernels of the modules found together; 0 where no module is, 1 of the strong model
    kernels_kept: float  # the module's share
    flops: float  # of the module, as a share of the strong model's
    f1: float  # of the target class, a share
    others_accuracy: float
    images: int


def ways_of(points: Sequence[PatchTradeOff]) -> list[tuple[str, float]]:
    """The methods, each with the shares of kernels that it was tried with, in the points' order."""
    return list(dict.fromkeys((point.method, point.keep) for point in points))


def mean_f1(points: Sequence[PatchTradeOff], method: str, keep: float | None = None) -> float:
    """Over the target classes, of one method and, where it is given, one share of kernels."""
    return float(np.mean([point.f1 for point in points if point.method == method and keep in (None, point.keep)]))


def apart(heights: Sequence[float], least: float) -> list[float]:
    """Heights in the same order, each moved up as far as it takes to be so far above the next lower one."""
    moved, last = list(heights), -np.inf
    for number in np.argsort(heights, kind="stable"):
        moved[number] = last = max(heights[number], last + least)
    return moved


@styled
def patch_trade_off_figure(points: Sequence[PatchTradeOff], title: str) -> Drawing:
    """F1 against FLOPs: a thick line per method, means over classes; thin ones, a class each, of the first method."""
    figure = new_figure(7, 4.6)
    axes = figure.subplots()
    ways, classes = whole_ways(points), {point.target_class for point in points}
    methods = list(dict.fromkeys(method for method, _ in ways))
    first = [point for point in points if methods and point.method == methods[0]]
    lines = [[point for point in first if point.target_class == target_class] for target_class in classes]
    for line in filter(None, lines):
        axes.plot([100 * p.flops for p in line], [100 * p.f1 for p in line], color=PALETTE[7], linewidth=0.8)
    right = max((100 * line[0].flops for line in lines if line), default=0)
    heights = apart([100 * line[0].f1 for line in lines if line], LABEL_HEIGHT)
    for line, height in zip(filter(None, lines), heights, strict=True):
        axes.annotate(line[0].name, (right + 1, height), fontsize=7, color=PALETTE[7], va="center")
    for number, method in enumerate(methods):
        keeps = [keep for each, keep in ways if each == method]
        flops = [100 * np.mean([p.flops for p in points if (p.method, p.keep) == (method, keep)]) for keep in keeps]
        f1 = [100 * mean_f1(points, method, keep) for keep in keeps]
        style = {"color": PALETTE[number % len(PALETTE)], "marker": MARKERS[number % len(MARKERS)]}
        axes.plot(flops, f1, linewidth=2, label=f"{method}, mean", **style)
    for method, style in ((WHOLE_MODEL, "--"), (NO_MODULE, "-."), (BEFORE, ":")):
        axes.axhline(100 * mean_f1(points, method), color=INK, linewidth=0.8, linestyle=style, label=f"{method}, mean")
    axes.set_xlabel("FLOPs of the module in % of the strong model's")
    axes.set_ylabel("F1 of the target class in %")
    axes.set_xlim(left=0)
    end_at_100(axes, "y")
    axes.grid()
    axes.legend(fontsize=8)
    figure.suptitle(title)
    names = tuple(field.name for field in fields(PatchTradeOff))
    return Drawing(figure, finding(points), names, [astuple(point) for point in points])


def whole_ways(points: Sequence[PatchTradeOff]) -> list[tuple[str, float]]:
    """Those of `ways_of` that have a module for every target class: means of other classes do not compare."""
    classes = {point.target_class for point in points}
    return [
        (method, keep)
        for method, keep in ways_of(points)
        if method not in (BEFORE, NO_MODULE, WHOLE_MODEL)
        and {point.target_class for point in points if (point.method, point.keep) == (method, keep)} == classes
    ]


def finding(points: Sequence[PatchTradeOff]) -> str:
    """The smallest modules within one percentage point of the whole strong model, in words."""
    whole = mean_f1(points, WHOLE_MODEL)
    within = [
        (float(np.mean([p.flops for p in points if (p.method, p.keep) == way])), way[0])
        for way in whole_ways(points)
        if mean_f1(points, *way) >= whole - 0.01
    ]
    if not within:
        return f"No module's mean F1 is within one percentage point of the whole strong model's, {whole:.1%}."
    flops, method = min(within)
    return (
        f"With {flops:.0%} of the FLOPs, modules ({method}) stay within one percentage point of the whole strong "
        f"model's mean F1 of {whole:.1%}."
    )
