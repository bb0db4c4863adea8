"""Figures of the module search: its generations, the kernels that modules keep and share, what modules cost."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from modules.jaccard import jaccard_distances
from report.figures import MARKERS, PALETTE, Drawing, end_at_100, heat_map, name_rows, new_figure, styled
from report.words import percent
from search.method import Course, Panel


@styled
def course_figure(rows: Sequence[Any], course: Course, chosen: int | None, title: str) -> Drawing:
    """The columns of a search's log, row by row; the row that the modules are of (`chosen`) is marked."""
    columns = min(3, len(course.panels))
    lines = -(-len(course.panels) // columns)
    figure = new_figure(10, 3.8 if lines == 1 else 2.5 * lines)
    all_axes = figure.subplots(lines, columns, sharex=True, squeeze=False)
    along = [course.along.scale * getattr(row, course.along.column) for row in rows]
    for number, (axes, panel) in enumerate(zip(all_axes.flat, course.panels, strict=False)):
        values = [panel.scale * getattr(row, panel.column) for row in rows]
        axes.plot(along, values, color=PALETTE[number % 8], marker=MARKERS[number % len(MARKERS)], markersize=3.5)
        if chosen is not None:
            axes.axvline(along[chosen], color="#6b7280", linestyle="--")
        if panel.scale == 100:
            end_at_100(axes, "y")
        axes.set_title(panel.label)
        axes.grid()
        if course.along.scale == 100:
            end_at_100(axes, "x")
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if course.along.scale == 100:
        all_axes[0, 0].invert_xaxis()  # from many kernels to few
    for axes in all_axes[-1]:
        axes.set_xlabel(course.along.label)
    marked = rows[-1] if chosen is None else rows[chosen]
    last = f"{course.row} {len(rows) - 1}" if chosen is None else f"the chosen {course.row} {chosen} of {len(rows) - 1}"
    figure.suptitle(title if chosen is None else f"{title}; dashed: the chosen {course.row} {chosen}")
    changes = [
        f"{panel.words} from {_said(panel, rows[0])} to {_said(panel, marked)}"
        for panel in (*course.panels, course.along)
        if panel.words
    ]
    finding = f"From {course.row} 0 to {last}: {'; '.join(changes)}."
    names = tuple(field.name for field in fields(rows[0]) if not isinstance(getattr(rows[0], field.name), tuple))
    return Drawing(figure, finding, names, [tuple(getattr(row, name) for name in names) for row in rows])


def _said(panel: Panel, row: Any) -> str:
    value = getattr(row, panel.column)
    return percent(value) if panel.scale == 100 else f"{value:.3g}"


@styled
def kept_figure(
    masks: np.ndarray, slices: Sequence[slice], layers: Sequence[str], classes: Sequence[str], title: str
) -> Drawing:
    """The share of each layer's kernels that each module keeps; masks (classes, K) bool, True = kept.

    `slices` says where the kernels of each shown layer stand; of layers that are cut alike the first is enough. The
    last column counts all K kernels, as the searches do, and not those of the shown layers.
    """
    counts = np.stack([*(masks[:, layer].sum(1) for layer in slices), masks.sum(1)], 1)
    widths = [*(layer.stop - layer.start for layer in slices), masks.shape[1]]
    shares = 100 * counts / np.array(widths)
    table = np.concatenate([shares, shares.mean(0, keepdims=True)])
    figure = new_figure(0.5 * len(layers) + 3, 0.32 * len(classes) + 1.9)
    axes = figure.subplots()
    texts = np.vectorize(lambda share: f"{share:.0f}")(table)
    columns = [*layers, "all"]
    heat_map(axes, table, [*classes, "mean"], columns, label="kernels kept in %", texts=texts, high=100)
    axes.axhline(len(classes) - 0.5, color="white", linewidth=3)
    axes.axvline(len(layers) - 0.5, color="white", linewidth=3)
    axes.set(xlabel="conv layer", ylabel="module of class", title=title)
    mean = shares.mean(0)
    most, least = int(mean[:-1].argmax()), int(mean[:-1].argmin())
    smallest, largest = int(shares[:, -1].argmin()), int(shares[:, -1].argmax())
    finding = (
        f"Modules keep {mean[-1]:.1f} % of all kernels on average, from {shares[smallest, -1]:.1f} % "
        f"({classes[smallest]}) to {shares[largest, -1]:.1f} % ({classes[largest]}); most in conv {layers[most]} "
        f"({mean[most]:.0f} %), least in conv {layers[least]} ({mean[least]:.0f} %)."
    )
    rows = [(classes[c], columns[layer], int(kept), widths[layer]) for (c, layer), kept in np.ndenumerate(counts)]
    return Drawing(figure, finding, ("class", "layer", "kernels_kept", "kernels"), rows)


@styled
def pairs_figure(masks: np.ndarray, classes: Sequence[str], title: str) -> Drawing:
    """How different any two modules are, and how many kernels they share; masks (classes, K) bool, True = kept."""
    distances = jaccard_distances(masks, masks)
    shared = masks.astype(np.int64) @ masks.T.astype(np.int64)
    size = 0.42 * len(classes) + 2.2
    figure = new_figure(2 * size + 0.6, size - 0.2)
    left, right = figure.subplots(1, 2)
    texts = np.vectorize(lambda distance: f"{distance:.2f}".removeprefix("0"))(distances)
    heat_map(left, distances, classes, classes, label="Jaccard distance", texts=texts)
    heat_map(right, shared, classes, classes, label="shared kernels", texts=shared.astype(str))
    left.set(title="Jaccard distance of the kept kernels", xlabel="module of class", ylabel="module of class")
    right.set(title="shared kernels (diagonal: kept)", xlabel="module of class", ylabel="module of class")
    figure.suptitle(title)
    first, second = np.triu_indices(len(classes), 1)
    of_pairs = distances[first, second]
    near, far = int(of_pairs.argmin()), int(of_pairs.argmax())
    finding = (
        f"The mean distance of two modules is {of_pairs.mean():.3f}. Most alike: {classes[first[near]]} and "
        f"{classes[second[near]]} ({of_pairs[near]:.3f}); most different: {classes[first[far]]} and "
        f"{classes[second[far]]} ({of_pairs[far]:.3f})."
    )
    rows = [(classes[i], classes[j], distance, int(shared[i, j])) for (i, j), distance in np.ndenumerate(distances)]
    return Drawing(figure, finding, ("class", "other_class", "jaccard_distance", "shared_kernels"), rows)


@styled
def cost_figure(strong: Sequence[int], modules: np.ndarray, classes: Sequence[str], title: str) -> Drawing:
    """What each module costs, in percent of the strong model.

    `strong` is its kernels, FLOPs of one image and parameters, `modules` (classes, 3) those of each module.
    """
    shares = 100 * modules / np.array(strong)
    figure = new_figure(10, 0.27 * len(classes) + 2)
    places = np.arange(len(classes))
    names = ("kernels", "FLOPs of one image", "parameters")
    all_axes = figure.subplots(1, 3, sharey=True, sharex=True)
    for number, (axes, name) in enumerate(zip(all_axes, names, strict=True)):
        axes.barh(places, shares[:, number], color=PALETTE[0], height=0.7)
        axes.axvline(shares[:, number].mean(), color=PALETTE[3], linestyle="--", linewidth=1.8)
        for place, share in zip(places, shares[:, number], strict=True):
            color = "white" if share > 12 else None  # inside the bar, where it fits
            axes.text(2 if share > 12 else share + 1, place, f"{share:.0f}", color=color, va="center", fontsize="small")
        axes.set(
            title=f"{name}\n(strong model: {_counted(strong[number])}; mean {shares[:, number].mean():.1f} %)",
            xlabel="% of the strong model",
            xlim=(0, 100),
        )
        axes.grid(axis="x")
        axes.set_axisbelow(True)
    name_rows(all_axes[0], classes)
    all_axes[0].set_ylabel("module of class")
    figure.suptitle(f"{title}; dashed: mean")
    mean, total = shares.mean(0), shares.sum(0)
    finding = (
        f"On average a module has {mean[0]:.1f} % of the strong model's kernels, {mean[1]:.1f} % of its FLOPs and "
        f"{mean[2]:.1f} % of its parameters. All {len(classes)} modules side by side cost {total[1] / 100:.1f} "
        f"times its FLOPs."
    )
    columns = ("network", "kernels", "flops", "parameters")
    rows = [("strong model", *strong), *((name, *row) for name, row in zip(classes, modules.tolist(), strict=True))]
    return Drawing(figure, finding, columns, rows)


def _counted(number: int) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M")):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number:,}"
