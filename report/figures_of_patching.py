"""Figures of patching: what modules add, every target class before and after, images gained and lost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from patching.metrics import METRICS, TargetClassScores, metrics_of
from report.figures import INK, MARKS, PALETTE, WIDTH, Drawing, end_at_100, extremes, name_rows, new_figure, styled
from report.words import Effect, counted, span

PANELS = {"f1": "F1 of the target class", "others_accuracy": "accuracy of the other classes"}
COLORS = (*(PALETTE[number] for number in (0, 1, 2, 4, 3)), INK, PALETTE[5])  # of methods, the weak model's first
IMAGES_PER_ROW = 6
CASES_SHOWN = 10
ROW_INCHES = 1.45  # an image and the words around it


@styled
def effects_figure(effects: Mapping[str, Mapping[str, Effect]], title: str) -> Drawing:
    """Draw differences with their 95 % intervals; of many patches those with extreme differences.

    `effects` is label -> metric of PANELS -> patched minus the control.
    """
    labels = list(effects)
    chosen = [labels[n] for n in extremes(np.array([each["f1"].difference for each in effects.values()]))]
    figure = new_figure(WIDTH, 0.3 * len(chosen) + 1.9)
    all_axes = figure.subplots(1, 2, sharey=True)
    for axes, (metric, panel) in zip(all_axes, PANELS.items(), strict=True):
        axes.axvline(0, color=INK, linewidth=0.8)
        shown = [effects[label][metric] for label in chosen]
        for place, effect in enumerate(shown):
            color, marker, _ = MARKS[effect.kind]
            axes.plot([effect.low, effect.high], [place, place], color=color, linewidth=2.5, solid_capstyle="butt")
            face = "none" if effect.kind == "" else color
            axes.plot(effect.difference, place, marker, color=color, markerfacecolor=face, markersize=8)
        axes.set_title(panel)
        axes.set_xlabel("percentage points")
        reach = max(abs(end) for effect in shown for end in (effect.low, effect.high, 1.0))
        axes.set_xlim(max(-100, min([-0.1 * reach, *(1.1 * e.low for e in shown)])), min(100, 1.1 * reach))
        axes.grid(axis="x")
    name_rows(all_axes[0], chosen)
    handles = [
        Axes.plot(all_axes[0], [], [], marker, color=color, markerfacecolor=color if kind else "none", label=label)[0]
        for kind, (color, marker, label) in MARKS.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, columnspacing=0.8, handletextpad=0.2)
    figure.suptitle(title)
    sentences = []
    for metric, panel in PANELS.items():
        kinds = [each[metric].kind for each in effects.values()]
        sure = f"significant gain in {kinds.count('gain')} of {len(kinds)}, significant loss in {kinds.count('loss')}"
        sentences.append(f"{panel[0].upper()}{panel[1:]}: {sure}.")
    if len(chosen) < len(labels):
        sentences.append(f"Shown: the {len(chosen)} patches with the smallest and the largest differences of F1.")
    rows = [
        (label, metric, effect.difference, effect.low, effect.high, str(effect))
        for label, each in effects.items()
        for metric, effect in each.items()
    ]
    return Drawing(figure, " ".join(sentences), ("patch", "metric", "difference", "low", "high", "in_words"), rows)


@styled
def patch_figure(
    weak_models: dict[str, dict[str, TargetClassScores]], title: str, control: str | None = None
) -> Drawing:
    """Draw F1 of the target class and the accuracy of the others, by each method; of many weak models the extreme ones.

    `weak_models` is label -> method -> scores, the weak model as it was first; `control` is the method without module.
    """
    labels, methods = list(weak_models), list(next(iter(weak_models.values())))
    values = 100 * np.array([[metrics_of(scores[method]) for method in methods] for scores in weak_models.values()])
    f1, others = values[:, :, METRICS.index("f1")], values[:, :, METRICS.index("others_accuracy")]
    chosen = extremes(f1[:, min(1, len(methods) - 1)])
    figure = new_figure(WIDTH, 0.34 * len(chosen) + 2.1)
    all_axes = figure.subplots(1, 2, sharey=True)
    means = 1 if len(chosen) > 1 else 0  # rows of them
    places = np.arange(len(chosen) + means)
    for axes, values_of, panel in zip(all_axes, (f1, others), PANELS.values(), strict=True):
        shown = np.concatenate([values_of[chosen], values_of.mean(0, keepdims=True)[:means]])  # (rows, methods)
        axes.hlines(places, shown.min(1), shown.max(1), color="#8a9099", linewidth=1.2)
        for number, method in enumerate(methods):
            style = {"color": COLORS[number % len(COLORS)], "marker": "os^Dv<>"[number % 7], "markersize": 6.5}
            if number == 0:  # a ring that a mark in the same place does not hide
                style |= {"markerfacecolor": "none", "markeredgewidth": 1.6, "markersize": 10, "zorder": 3}
            axes.plot(shown[:, number], places, linestyle="none", label=method, **style)
        axes.axhline(len(chosen) - 0.5, color="#8a9099", linewidth=0.8 * means)
        axes.set_title(f"{panel} in %", fontsize="small")
        axes.margins(x=0.08)
        end_at_100(axes, "x")
        axes.grid(axis="x")
    name_rows(all_axes[0], [*(labels[n] for n in chosen), "mean"][: len(places)])
    all_axes[0].set_ylabel("target class")
    figure.legend(*all_axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(2, len(methods)))
    figure.suptitle(title)
    sentences = []
    for number, method in enumerate(methods):
        if number and method != control:
            alone = methods.index(control) if control else 0
            added = f1[:, number] - f1[:, alone]
            sentences.append(
                f"With {method}, F1 is {span(f1[:, number])} %, before {span(f1[:, 0])} %; compared with "
                f"{methods[alone]} it changes by {span(added, '+.1f')} percentage points, and is higher for "
                f"{int((added > 0).sum())} of {counted(len(labels), 'target class', 'target classes')}."
            )
    rows = [(label, method, *metrics_of(scores[method])) for label, scores in weak_models.items() for method in methods]
    return Drawing(figure, " ".join(sentences), ("weak_model", "method", *METRICS), rows)


@dataclass(frozen=True)
class ChangedImages:
    """Test images before and after a patch: all of them, or those alone that it gained and lost."""

    name: str  # of the weak model
    test_images: int  # all of them
    classes: Sequence[str]  # of the weak model, then those that are added
    pixels: np.ndarray  # (images, side, side, 3) uint8
    labels: np.ndarray  # (images,) int64
    before: np.ndarray  # (images,) int64: the weak model's answers
    after: np.ndarray  # (images,) int64: the patched model's
    outputs: np.ndarray = field(default_factory=lambda: np.zeros(0))  # (images,): the module's, of all test images
    places: np.ndarray | None = None  # (images,) int64: which of the dataset's test images they are; None = all

    @property
    def of_target_class(self) -> np.ndarray:
        """(images,) bool: the images of the target class, which is the last one."""
        return self.labels == len(self.classes) - 1

    @property
    def gained(self) -> np.ndarray:
        """(n,) The places of the images that are correct only after the patch."""
        return np.flatnonzero((self.before != self.labels) & (self.after == self.labels))

    @property
    def lost(self) -> np.ndarray:
        """(n,) The places of the images that are wrong only after the patch."""
        return np.flatnonzero((self.before == self.labels) & (self.after != self.labels))


@styled
def changed_images_figure(cases: Sequence[ChangedImages], title: str) -> Drawing:
    """Draw some images that each patch gained and lost, with the answers before and after, and how many there are."""
    shown = [cases[n] for n in extremes(np.array([len(c.gained) - len(c.lost) for c in cases]), CASES_SHOWN // 2)]
    height = 2 * ROW_INCHES * len(shown) + 0.75
    figure = Figure(figsize=(WIDTH, height))  # its own layout: the rows are all alike
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.05 / height, top=1 - 1.25 / height, wspace=0.15, hspace=0.9)
    grid = figure.subplots(2 * len(shown), IMAGES_PER_ROW, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for number, case in enumerate(shown):
        for row, places, word in zip(grid[2 * number :], (case.gained, case.lost), ("gained", "lost"), strict=False):
            count = f"{case.name}: {len(places)} of {case.test_images:,} images {word}"
            row[0].text(0, 1.5, count, transform=row[0].transAxes, fontweight="bold")
            for axes, place in zip(row, spread(places, IMAGES_PER_ROW), strict=False):
                axes.imshow(case.pixels[place], interpolation="nearest")
                before, after = (case.classes[answers[place]] for answers in (case.before, case.after))
                between = " → " if len(before) + len(after) < 12 else " →\n"
                axes.set_title(f"{before}{between}{after}", fontsize=7, pad=2)
    figure.suptitle(title, y=1 - 0.1 / height, va="top")
    gained, lost = sum(len(case.gained) for case in cases), sum(len(case.lost) for case in cases)
    finding = (
        f"Of {sum(case.test_images for case in cases):,} answers to test images the patches correct {gained} and "
        f"spoil {lost}."
    )
    rows = [
        (
            case.name,
            word,
            int(place if case.places is None else case.places[place]),
            *(case.classes[answers[place]] for answers in (case.labels, case.before, case.after)),
        )
        for case in cases
        for word, places in (("gained", case.gained), ("lost", case.lost))
        for place in places
    ]
    return Drawing(figure, finding, ("weak_model", "change", "image", "true_class", "before", "after"), rows)


def spread(places: np.ndarray, count: int) -> np.ndarray:
    """Return at most `count` of the places, evenly from the first to the last: test images are sorted by class."""
    if len(places) <= count:
        return places
    return places[np.linspace(0, len(places) - 1, count).round().astype(int)]
