"""The figures of what small modules cost: all of them composed, and one that patches a weak model."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from configures.base import Config
from report.figures import INK, PALETTE, WIDTH, Drawing, curve_style, drawing_of, end_at_100, new_figure, styled

BEFORE, NO_MODULE, WHOLE_MODEL = "before", "learned, no module", "learned, whole strong model"
MODULE_SET, FINE_TUNED = "module set", "fine-tuned"
MOST_NAMED = 5  # classes of some of them


@dataclass(frozen=True)
class TradeOff:
    """One set of modules: how small, and how much worse than the strong model."""

    method: str  # the search method, MODULE_SET or FINE_TUNED, see `method_of`; or the paper
    target: str  # what was asked for, in words; the name of a set
    kernels_kept: float  # share, mean over modules
    flops: float  # share of the strong model's, mean over modules; NaN where it is not known
    points_lost: float  # of accuracy, on the images named in the title
    right: int  # 0 where it is not known
    images: int
    distance: float  # mean pairwise Jaccard distance; NaN where it is not known
    seconds: float  # of the search; NaN where it is not known
    auc_mean: float = math.nan  # of the modules for their own classes, on the same images
    auc_least: float = math.nan  # of the module that knows its class least
    weights: float = math.nan  # of a module that are not 0, as a share of the strong model's; mean over modules
    lost_low: float = math.nan  # the 95 % interval of `points_lost`, by a paired bootstrap over the images
    lost_high: float = math.nan
    p_best: float = math.nan  # McNemar's, of the difference to the most accurate modules of the table


def method_of(method: str, target_classes: Sequence[int], num_classes: int) -> str:
    """A method's name, with the classes of its modules if they are some: those of other classes do not compare."""
    if len(target_classes) == num_classes:
        return method
    more = f" and {len(target_classes) - MOST_NAMED} more" if len(target_classes) > MOST_NAMED else ""
    return f"{method}, class {' '.join(map(str, target_classes[:MOST_NAMED]))}{more}"


# The mean over the networks of Qi et al., ASE 2022, at full width, on test images; the share of kernels is derived from
# their tables.
PAPER = TradeOff("paper (mean, full width)", "", 0.5675, math.nan, 2.89, 0, 0, math.nan, math.nan)
PAPER_NETWORKS, PAPER_DATASETS = ("simcnn", "rescnn"), ("cifar10", "svhn")


def is_of_the_paper(config: Config) -> bool:
    """Whether the paper has networks of the same family, for all classes of the same dataset."""
    family = config.network_name.partition("_x")[0]
    return family in PAPER_NETWORKS and config.image_source in PAPER_DATASETS and not config.classes


@styled
def trade_off_figure(points: Sequence[TradeOff], title: str) -> Drawing:
    """Points lost against kernels kept and FLOPs; lines join the targets of a method.

    A vertical line is the 95 % interval.
    """
    figure = new_figure(WIDTH, 3.6)
    panels = figure.subplots(1, 2, sharey=True)
    methods = list(dict.fromkeys(point.method for point in points))
    labels = {"kernels_kept": "kernels kept in %", "flops": "FLOPs of a module\nin % of the strong model's"}
    for axes, (name, label) in zip(panels, labels.items(), strict=True):
        for number, method in enumerate(methods):
            own = sorted((p for p in points if p.method == method), key=lambda p: getattr(p, name))
            axes.plot(
                [100 * getattr(point, name) for point in own],
                [point.points_lost for point in own],
                linestyle="" if method.startswith((MODULE_SET, FINE_TUNED)) else "-",
                label=method,
                **curve_style(number),
            )
            axes.vlines(
                [100 * getattr(point, name) for point in own],
                [point.lost_low for point in own],
                [point.lost_high for point in own],
                color=curve_style(number)["color"],
            )
        axes.axhline(0, color=INK, linewidth=0.8, linestyle="--")
        axes.set_xlabel(label)
        axes.grid()
        end_at_100(axes, "x")
    panels[0].set_ylabel("accuracy lost in percentage points")
    panels[0].legend()
    figure.suptitle(f"{title}; dashed: the strong model; bars: 95 % intervals")
    return drawing_of(figure, smallest_modules(points), TradeOff, points)


def smallest_modules(points: Sequence[TradeOff]) -> str:
    """Return the smallest modules of each method within 1 and within 2 percentage points, in words."""
    sentences = []
    for method in dict.fromkeys(point.method for point in points):
        for limit in (1, 2):
            within = [point for point in points if point.method == method and point.points_lost <= limit]
            if within:
                best = min(within, key=lambda point: point.kernels_kept)
                sentences.append(
                    f"With at most {limit} percentage point{'s' if limit > 1 else ''} lost, {method} keeps "
                    f"{best.kernels_kept:.1%} of the kernels ({best.points_lost:+.2f} lost)."
                )
    return " ".join(sentences) or "No method stays within 2 percentage points."


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


@styled
def patch_trade_off_figure(points: Sequence[PatchTradeOff], title: str) -> Drawing:
    """Draw F1 against FLOPs, a line per method: means over classes with 95 % bands; the controls as lines across."""
    import seaborn  # takes a second

    figure = new_figure(WIDTH, 4.6)
    axes = figure.subplots()
    ways = whole_ways(points)
    mean_flops = {way: 100 * np.mean([p.flops for p in points if (p.method, p.keep) == way]) for way in ways}
    shown = [point for point in points if (point.method, point.keep) in mean_flops]
    methods = [point.method for point in shown]
    seaborn.lineplot(
        x=[mean_flops[point.method, point.keep] for point in shown],
        y=[100 * point.f1 for point in shown],
        hue=methods,
        style=methods,
        palette=list(PALETTE[: len(set(methods))]) or None,
        **{"markers": True, "dashes": False, "seed": 0, "ax": axes},
    )
    for method, style in ((WHOLE_MODEL, "--"), (NO_MODULE, "-."), (BEFORE, ":")):
        axes.axhline(100 * mean_f1(points, method), color=INK, linewidth=0.8, linestyle=style, label=method)
    axes.set(xlabel="FLOPs of the module in % of the strong model's", ylabel="F1 of the target class in %, mean")
    axes.set_xlim(left=0)
    end_at_100(axes, "y")
    axes.grid()
    axes.legend(fontsize=8)
    figure.suptitle(f"{title}; bands: 95 % intervals over the classes")
    return drawing_of(figure, smallest_patches(points), PatchTradeOff, points)


def whole_ways(points: Sequence[PatchTradeOff]) -> list[tuple[str, float]]:
    """Those of `ways_of` that have a module for every target class: means of other classes do not compare."""
    classes = {point.target_class for point in points}
    return [
        (method, keep)
        for method, keep in ways_of(points)
        if method not in (BEFORE, NO_MODULE, WHOLE_MODEL)
        and {point.target_class for point in points if (point.method, point.keep) == (method, keep)} == classes
    ]


def smallest_patches(points: Sequence[PatchTradeOff]) -> str:
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
