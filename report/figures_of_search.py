"""Figures of the module search: its course, and what modules keep and cost."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from modules.jaccard import mean_pairwise_distance
from report.figures import MARKERS, PALETTE, WIDTH, Drawing, end_at_100, heat_map, inches_of, new_figure, styled
from report.words import percent
from search.method import Course, Panel


@styled
def course_figure(rows: Sequence[Any], course: Course, chosen: int | None, title: str) -> Drawing:
    """The columns of a search's log, row by row; the row that the modules are of (`chosen`) is marked."""
    columns = min(2, len(course.panels))
    lines = -(-len(course.panels) // columns)
    figure = new_figure(WIDTH, 2.1 * lines + 0.6)
    all_axes = figure.subplots(lines, columns, sharex=True, squeeze=False)
    along = [course.along.scale * getattr(row, course.along.column) for row in rows]
    for number, (axes, panel) in enumerate(zip(all_axes.flat, course.panels, strict=False)):
        values = [panel.scale * getattr(row, panel.column) for row in rows]
        axes.plot(along, values, color=PALETTE[number % 8], marker=MARKERS[number % len(MARKERS)], markersize=3.5)
        if chosen is not None:
            axes.axvline(along[chosen], color="#6b7280", linestyle="--")
        if panel.scale == 100:
            end_at_100(axes, "y")
        axes.set_title(panel.label, fontsize="small")
        axes.grid()
        if course.along.scale == 100:
            end_at_100(axes, "x")
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if course.along.scale == 100:
        all_axes[0, 0].invert_xaxis()  # from many kernels to few
    for axes in all_axes.flat[len(course.panels) :]:
        axes.set_axis_off()
    figure.supxlabel(course.along.label, fontsize="medium")
    marked = rows[-1] if chosen is None else rows[chosen]
    last = f"{course.row} {len(rows) - 1}" if chosen is None else f"the chosen {course.row} {chosen} of {len(rows) - 1}"
    figure.suptitle(title if chosen is None else f"{title}; dashed: the chosen {course.row} {chosen}")
    changes = [
        f"{panel.words} {f'from {_said(panel, rows[0])} to ' if len(rows) > 1 else ''}{_said(panel, marked)}"
        for panel in (*course.panels, course.along)
        if panel.words
    ]
    finding = f"{f'From {course.row} 0 to {last}' if len(rows) > 1 else f'One {course.row}'}: {'; '.join(changes)}."
    names = tuple(each.name for each in fields(rows[0]) if not isinstance(getattr(rows[0], each.name), tuple))
    return Drawing(figure, finding, names, [tuple(getattr(row, name) for name in names) for row in rows])


def _said(panel: Panel, row: Any) -> str:
    value = getattr(row, panel.column)
    return percent(value) if panel.scale == 100 else f"{value:.3g}"


@styled
def kept_figure(
    masks: np.ndarray,
    slices: Sequence[slice],
    layers: Sequence[str],
    classes: Sequence[str],
    title: str,
    costs: tuple[Sequence[int], np.ndarray] | None = None,
) -> Drawing:
    """Draw a heat map of the share of each layer's kernels that each module keeps; masks (classes, K), True = kept.

    `slices` are the kernels of each shown layer, one of those that are cut alike; the column `all` counts all K.
    `costs` are kernels, FLOPs of one image and parameters: of the strong model, and (classes, 3) of the modules.
    """
    counts = np.stack([*(masks[:, layer].sum(1) for layer in slices), masks.sum(1)], 1)
    whole = [*(layer.stop - layer.start for layer in slices), masks.shape[1]]
    columns = [*layers, "all"]
    if costs is not None:
        strong, modules = costs
        counts, whole = np.concatenate([counts, modules[:, 1:]], 1), [*whole, *strong[1:]]
        columns += ["FLOPs", "parameters"]
    shares = 100 * counts / np.array(whole)
    table, many = np.concatenate([shares, shares.mean(0, keepdims=True)]), len(layers)
    figure = new_figure(WIDTH, inches_of(len(classes), 0.3) + 2)
    axes = figure.subplots()
    texts = np.vectorize(lambda share: f"{share:.0f}")(table)
    heat_map(axes, table, [*classes, "mean"], columns, label="% of the strong model", texts=texts, high=100)
    axes.axhline(len(classes), color="white", linewidth=3)
    axes.axvline(many, color="white", linewidth=3)
    axes.set(xlabel="kernels kept, by conv layer", ylabel="module of class")
    figure.suptitle(title)
    mean = shares.mean(0)
    most, least = int(mean[:many].argmax()), int(mean[:many].argmin())
    smallest, largest = int(shares[:, many].argmin()), int(shares[:, many].argmax())
    finding = f"Modules keep {mean[many]:.1f} % of all kernels on average"
    if smallest != largest:
        finding += (
            f", from {shares[smallest, many]:.1f} % ({classes[smallest]}) to {shares[largest, many]:.1f} % "
            f"({classes[largest]})"
        )
    finding += (
        f"; most in conv {layers[most]} ({mean[most]:.0f} %), least in conv {layers[least]} ({mean[least]:.0f} %)."
    )
    if costs is not None:
        finding += (
            f" A module has on average {mean[-2]:.1f} % of the strong model's FLOPs and {mean[-1]:.1f} % of its "
            f"parameters; all {len(classes)} side by side have {shares[:, -2].sum() / 100:.1f} times its FLOPs."
        )
    if len(masks) > 1:
        finding += f" The mean Jaccard distance of two modules' kernels is {mean_pairwise_distance(masks):.3f}."
    rows = [(classes[c], columns[n], int(kept), int(whole[n])) for (c, n), kept in np.ndenumerate(counts)]
    return Drawing(figure, finding, ("class", "what", "module", "strong_model"), rows)
