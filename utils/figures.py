"""Figures: each a function of numbers alone, drawn without a screen."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utils.files import write_whole
from utils.search_log import Generation, best_generation

PALETTE = seaborn.color_palette("colorblind")
DPI = 150


def save_figure(figure: Figure, path: Path) -> None:
    """Write the figure whole, in the format that the path's ending names."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix.removeprefix("."), dpi=DPI)
    write_whole(path, lambda file: file.write(buffer.getvalue()))


def sensitivity_figure(curves: dict[str, np.ndarray], sensitive: Sequence[str], title: str) -> Figure:
    """Accuracy against the kept share of a layer's kernels, one line a layer; the sensitive ones stand out.

    `curves`: layer's name -> (ratios, 2): ratio, accuracy.
    """
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    shades = seaborn.color_palette("flare", max(1, len(sensitive)))
    for name, curve in curves.items():
        if name in sensitive:
            number = list(sensitive).index(name)
            style = {"color": shades[number], "marker": "os^Dv<>pP*hX"[number % 12], "linewidth": 1.8, "markersize": 5}
            label = f"conv {name}, sensitive"
        else:
            style = {"color": "0.7", "linewidth": 1.2}
            label = "not sensitive" if "not sensitive" not in axes.get_legend_handles_labels()[1] else None
        axes.plot(curve[:, 0], 100 * curve[:, 1], label=label, **style)
    axes.set(xlabel="kept share of one layer's kernels", ylabel="accuracy in %", title=title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return figure


def modules_figure(
    rows: Sequence[Generation], kept: np.ndarray, classes: Sequence[str], layers: Sequence[str], title: str
) -> Figure:
    """The search, and what it found.

    Args:
        rows: the search's log; empty where the modules were not found by generations.
        kept: (classes, layers) the share of each layer's kernels that each module keeps.
        classes, layers: their names.
        title: above the figure.
    """
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    search, heat_map = figure.subplots(1, 2, width_ratios=(1, 1.3))
    _plot_search(search, rows)
    seaborn.heatmap(
        100 * kept,
        ax=heat_map,
        vmin=0,
        vmax=100,
        cmap="cividis",
        annot=kept.size <= 150,
        fmt=".0f",
        annot_kws={"fontsize": 7},
        xticklabels=list(layers),
        yticklabels=list(classes),
        cbar_kws={"label": "kernels kept in %"},
    )
    heat_map.tick_params(axis="y", rotation=0)
    heat_map.set(xlabel="conv layer", ylabel="module of class", title="Kernels that each module keeps")
    figure.suptitle(title)
    return figure


def _plot_search(axes: Axes, rows: Sequence[Generation]) -> None:
    generations = [row.generation for row in rows]
    for color, marker, label, values in (
        (PALETTE[0], "o", "accuracy", [100 * row.accuracy for row in rows]),
        (PALETTE[1], "s", "mean Jaccard distance", [100 * row.distance for row in rows]),
        (PALETTE[2], "^", "fitness", [100 * row.fitness for row in rows]),
    ):
        axes.plot(generations, values, color=color, marker=marker, markersize=4, label=label)
    best = best_generation(list(rows)).generation
    axes.axvline(best, color="0.4", linestyle="--", label=f"chosen generation {best}")
    axes.set(xlabel="generation", ylabel="best ensemble, in %", title="Search")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
