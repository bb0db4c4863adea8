"""The figure of what small modules cost: accuracy lost against kernels kept, and against floating-point operations."""

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

from configures.base import Config
from report.figures import INK, MARKERS, PALETTE, Drawing, end_at_100, new_figure, styled

MODULE_SET, FINE_TUNED = "module set", "fine-tuned"


@dataclass(frozen=True)
class TradeOff:
    """One set of modules: how small, and how much worse than the strong model."""

    method: str  # the search method, MODULE_SET, FINE_TUNED, or the paper
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
    """Points lost against kernels kept and FLOPs; each method has its colour and its mark, lines join its targets."""
    figure = new_figure(10, 4.2)
    panels = figure.subplots(1, 2, sharey=True)
    methods = list(dict.fromkeys(point.method for point in points))
    for axes, name, label in zip(
        panels,
        ("kernels_kept", "flops"),
        ("kernels kept in %", "FLOPs of a module in % of the strong model's"),
        strict=True,
    ):
        for number, method in enumerate(methods):
            own = sorted((p for p in points if p.method == method), key=lambda p: getattr(p, name))
            axes.plot(
                [100 * getattr(point, name) for point in own],
                [point.points_lost for point in own],
                color=PALETTE[(0, 1, 2, 4)[number % 4]],
                marker=MARKERS[number % len(MARKERS)],
                linestyle="" if method in (MODULE_SET, FINE_TUNED) else "-",
                label=method,
            )
        axes.axhline(0, color=INK, linewidth=0.8, linestyle="--")
        axes.set_xlabel(label)
        axes.grid()
        end_at_100(axes, "x")
    panels[0].set_ylabel("accuracy lost in percentage points")
    panels[0].legend()
    figure.suptitle(f"{title}; dashed: the strong model")
    return Drawing(
        figure, finding(points), tuple(field.name for field in fields(TradeOff)), [astuple(p) for p in points]
    )


def finding(points: Sequence[TradeOff]) -> str:
    """The smallest modules of each method within 1 and within 2 points, in words."""
    sentences = []
    for method in dict.fromkeys(point.method for point in points):
        for limit in (1, 2):
            within = [point for point in points if point.method == method and point.points_lost <= limit]
            if within:
                best = min(within, key=lambda point: point.kernels_kept)
                sentences.append(
                    f"With at most {limit} point{'s' if limit > 1 else ''} lost, {method} keeps "
                    f"{best.kernels_kept:.1%} of the kernels ({best.points_lost:+.2f} lost)."
                )
    return " ".join(sentences) or "No method stays within 2 points."
