"""Figures of patching: every target class before and after, and the images that a patch won and lost."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from patching.metrics import METRICS, TargetClassScores, metrics_of
from report.figures import INK, MARKERS, PALETTE, Drawing, end_at_100, name_rows, new_figure, styled
from report.words import counted, span

METRIC_LABELS = ("target class:\nprecision in %", "target class:\nrecall in %", "target class:\nF1 in %")
COLORS = (*(PALETTE[number] for number in (0, 1, 2, 4, 3)), INK, PALETTE[5])  # of methods, the weak model's first
IMAGES_PER_ROW = 6  # won, and as many lost
ROW_INCHES = 1.55  # an image and the words above it


@styled
def patch_figure(
    weak_models: dict[str, dict[str, TargetClassScores]], title: str, control: str | None = None
) -> Drawing:
    """Precision, recall and F1 of the target class and the accuracy of the others, before and after patching.

    `weak_models` is label -> method -> scores; all have the same methods, the first of which is the weak model as it
    was. The others are compared with the `control`, the one of them that has no module.
    """
    labels, methods = list(weak_models), list(next(iter(weak_models.values())))
    values = 100 * np.array([[metrics_of(scores[method]) for method in methods] for scores in weak_models.values()])
    means = values.mean(0)  # (methods, metrics)
    shown = np.concatenate([values, means[None]])  # (weak models + 1, methods, metrics)
    figure = new_figure(11, 0.36 * len(labels) + 2.3)
    all_axes = figure.subplots(1, 4, sharey=True)
    places = np.arange(len(labels) + 1)
    for metric, (axes, label) in enumerate(zip(all_axes, (*METRIC_LABELS, "all others:\naccuracy in %"), strict=True)):
        axes.hlines(places, shown[:, :, metric].min(1), shown[:, :, metric].max(1), color="#8a9099", linewidth=1.2)
        for number, method in enumerate(methods):
            style = {"color": COLORS[number % len(COLORS)], "marker": MARKERS[number % len(MARKERS)], "markersize": 6.5}
            if number == 0:  # a ring that a mark in the same place does not hide
                style |= {"markerfacecolor": "none", "markeredgewidth": 1.6, "markersize": 10, "zorder": 3}
            axes.plot(shown[:, number, metric], places, linestyle="none", label=method, **style)
        axes.axhline(len(labels) - 0.5, color="#8a9099", linewidth=0.8)
        axes.set_title(label)
        axes.margins(x=0.08)
        end_at_100(axes, "x")
        axes.grid(axis="x")
    name_rows(all_axes[0], [*labels, "mean"])
    all_axes[0].set_ylabel("target class")
    figure.legend(*all_axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(methods))
    figure.suptitle(title)
    f1, others = values[:, :, 2], values[:, :, 3]
    sentences = []
    for number, method in enumerate(methods):
        if number == 0 or method == control:
            continue
        sentences.append(
            f"With {method}, F1 is {span(f1[:, number])} % instead of {span(f1[:, 0])} %, better for "
            f"{int((f1[:, number] > f1[:, 0]).sum())} of {counted(len(labels), 'weak model')}; the others' accuracy "
            f"changes by {span(others[:, number] - others[:, 0], '+.1f')} points."
        )
        if control:
            alone = f1[:, methods.index(control)]
            sentences.append(
                f"Without a module F1 is {span(alone)} %: the module adds "
                f"{span(f1[:, number] - alone, '+.1f')} points, and is better for {int((f1[:, number] > alone).sum())}."
            )
    rows = [(label, method, *metrics_of(scores[method])) for label, scores in weak_models.items() for method in methods]
    return Drawing(figure, " ".join(sentences), ("weak_model", "method", *METRICS), rows)


@dataclass(frozen=True)
class PatchAnswers:
    """What a weak model, the patched model and the module say about the weak model's test images."""

    classes: tuple[str, ...]  # of the weak model; the target class last
    pixels: np.ndarray  # (images, 32, 32, 3) uint8
    labels: np.ndarray  # (images,) int64
    before: np.ndarray  # (images,) int64: the weak model's answers
    after: np.ndarray  # (images,) int64: the patched model's
    module_outputs: np.ndarray  # (images,) float32

    @property
    def target_name(self) -> str:
        """The target class's name."""
        return self.classes[-1]

    @property
    def of_target_class(self) -> np.ndarray:
        """(images,) bool: the images of the target class."""
        return self.labels == len(self.classes) - 1

    @property
    def won(self) -> np.ndarray:
        """The places of the images that are right only after the patch."""
        return np.flatnonzero((self.before != self.labels) & (self.after == self.labels))

    @property
    def lost(self) -> np.ndarray:
        """The places of the images that are wrong only after the patch."""
        return np.flatnonzero((self.before == self.labels) & (self.after != self.labels))

    def names(self, place: int) -> tuple[str, str, str]:
        """An image's true class, and the answers before and after the patch."""
        true, before, after = (self.classes[answers[place]] for answers in (self.labels, self.before, self.after))
        return true, before, after


@styled
def changed_images_figure(cases: Sequence[PatchAnswers], method: str, title: str) -> Drawing:
    """For every weak model some of the images that the patch won (left) and lost (right), and how many there are."""
    height = ROW_INCHES * len(cases) + 0.5
    figure = Figure(figsize=(2 * IMAGES_PER_ROW * 0.95 + 0.6, height))  # its own layout: the rows are all alike
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.1 / height, top=1 - 1.1 / height, wspace=0.18, hspace=0.75)
    widths = [1] * IMAGES_PER_ROW + [0.25] + [1] * IMAGES_PER_ROW
    grid = figure.subplots(len(cases), len(widths), squeeze=False, width_ratios=widths)
    for axes in grid.flat:
        axes.set_axis_off()
    longest = max(len(name) for case in cases for name in case.classes)
    size = 9 if longest <= 5 else 6  # two names and an arrow must fit above an image
    rows: list[tuple[str, ...]] = []
    for case, row in zip(cases, grid, strict=True):
        for places, first, word in ((case.won, 0, "won"), (case.lost, IMAGES_PER_ROW + 1, "lost")):
            count = f"{case.target_name}: {word} {len(places)} of {len(case.labels)}"
            row[first].text(0, 1.42, count, transform=row[first].transAxes, fontweight="bold")
            for axes, place in zip(row[first:], spread(places, IMAGES_PER_ROW), strict=False):
                axes.imshow(case.pixels[place], interpolation="nearest")
                true, before, after = case.names(place)
                axes.set_title(f"{true}:\n{before} → {after}", fontsize=size, pad=2)
            rows += [(case.target_name, word, *case.names(place)) for place in places]
    figure.suptitle(title, y=1 - 0.12 / height, va="top")
    won, lost = sum(len(case.won) for case in cases), sum(len(case.lost) for case in cases)
    finding = (
        f"With {method}, of {sum(len(case.labels) for case in cases):,} answers to test images {won} turn from wrong "
        f"to right and {lost} from right to wrong."
    )
    return Drawing(figure, finding, ("weak_model", "change", "true_class", "before", "after"), rows)


def spread(places: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of the places, evenly from the first to the last: test images stand in the order of classes."""
    if len(places) <= count:
        return places
    return places[np.linspace(0, len(places) - 1, count).round().astype(int)]
