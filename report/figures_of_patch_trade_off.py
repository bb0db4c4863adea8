"""The figure of what a module for one patch costs: the target class's F1 against the module's operations."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

import numpy as np

from report.figures import INK, PALETTE, Drawing, end_at_100, new_figure, styled

BEFORE, NO_MODULE, WHOLE_MODEL = "before", "learned, no module", "learned, whole strong model"
FOR_PATCH, JOINT = "module for the patch", "module of the joint search"
FINE_TUNED = "module for the patch, fine-tuned"
LABEL_HEIGHT = 1.4  # of a class's name in the figure, in points of F1


@dataclass(frozen=True)
class PatchTradeOff:
    """One weak model, patched in one way."""

    target_class: int
    name: str  # of the class
    method: str
    keep: float  # the share of the kernels that was asked for; 0 where no module is, 1 of the whole strong model
    kernels_kept: float  # the share
    flops: float  # of the module, as a share of the strong model's
    f1: float  # of the target class, a share
    others_accuracy: float
    images: int


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
    """F1 against FLOPs: a thin line a class, a thick one their mean, and the mean of the controls across."""
    figure = new_figure(7, 4.6)
    axes = figure.subplots()
    own = [point for point in points if point.method == FOR_PATCH]
    of_classes = dict.fromkeys(point.target_class for point in own)
    lines = [[point for point in own if point.target_class == target_class] for target_class in of_classes]
    for line in lines:
        axes.plot([100 * p.flops for p in line], [100 * p.f1 for p in line], color=PALETTE[7], linewidth=0.8)
    right = max((100 * line[0].flops for line in lines), default=0)
    for line, height in zip(lines, apart([100 * line[0].f1 for line in lines], LABEL_HEIGHT), strict=True):
        axes.annotate(line[0].name, (right + 1, height), fontsize=7, color=PALETTE[7], va="center")
    keeps = list(dict.fromkeys(point.keep for point in own))
    flops = [100 * np.mean([point.flops for point in own if point.keep == keep]) for keep in keeps]
    f1 = [100 * mean_f1(points, FOR_PATCH, keep) for keep in keeps]
    axes.plot(flops, f1, color=PALETTE[0], marker="o", linewidth=2, label=f"{FOR_PATCH}, mean")
    classes = {point.target_class for point in points}
    for method, marker, colour in ((JOINT, "s", PALETTE[1]), (FINE_TUNED, "*", PALETTE[2])):
        found = [point for point in points if point.method == method]
        if {point.target_class for point in found} == classes:  # else their means are of different classes
            where = 100 * np.mean([point.flops for point in found]), 100 * mean_f1(points, method)
            axes.plot(*where, color=colour, marker=marker, markersize=9, linestyle="", label=f"{method}, mean")
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


def finding(points: Sequence[PatchTradeOff]) -> str:
    """The smallest modules within one point of the whole strong model, in words."""
    whole = mean_f1(points, WHOLE_MODEL)
    keeps = sorted({point.keep for point in points if point.method == FOR_PATCH})
    within = [keep for keep in keeps if mean_f1(points, FOR_PATCH, keep) >= whole - 0.01]
    if not within:
        return f"No share of kernels stays within one point of the whole strong model's mean F1 of {whole:.1%}."
    chosen = [point for point in points if point.method == FOR_PATCH and point.keep == within[0]]
    flops = np.mean([point.flops for point in chosen])
    return (
        f"With {flops:.0%} of the FLOPs, modules for patches stay within one point of the whole strong model's "
        f"mean F1 of {whole:.1%}."
    )
