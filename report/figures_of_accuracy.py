"""Figures of what the networks answer: confusions, accuracy per class, the outputs of modules."""

from collections.abc import Sequence

import numpy as np

from modules.own_class import auc_by_class
from report.figures import (
    PALETTE,
    WIDTH,
    Drawing,
    end_at_100,
    extremes,
    heat_map,
    inches_of,
    name_rows,
    new_figure,
    styled,
)
from report.words import percent


@styled
def confusion_figure(confusions: dict[str, np.ndarray], classes: Sequence[str], title: str) -> Drawing:
    """Draw confusion matrices; the colour is the share of the true class's images, the number a count.

    Args:
        confusions: model's name -> (classes, classes) counts, rows = true classes.
        classes: their names.
        title: of the figure.
    """
    figure = new_figure(WIDTH, (inches_of(len(classes), 0.3) + 1.3) * len(confusions) + 0.4)
    rows, findings = [], []
    for axes, (name, confusion) in zip(
        figure.subplots(len(confusions), squeeze=False)[:, 0], confusions.items(), strict=True
    ):
        shares = 100 * confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
        texts = np.where(confusion > 0, confusion.astype(str), "")
        heat_map(axes, shares, classes, classes, label="% of the true class", texts=texts, high=100)
        correct, images = int(np.trace(confusion)), int(confusion.sum())
        axes.set(xlabel="predicted class", ylabel="true class", title=f"{name}: {correct:,} of {images:,} correct")
        wrong = confusion - np.diag(np.diagonal(confusion))
        true, taken = np.unravel_index(wrong.argmax(), wrong.shape)
        mistake = f"; most frequent error: {classes[true]} classified as {classes[taken]} ({wrong[true, taken]} times)"
        findings.append(
            f"{name.capitalize()}: {percent(correct / max(images, 1))} of {images:,} images correct"
            f"{mistake if wrong.any() else ''}."
        )
        rows += [(name, classes[i], classes[j], int(count)) for (i, j), count in np.ndenumerate(confusion)]
    figure.suptitle(title)
    return Drawing(figure, " ".join(findings), ("model", "true_class", "predicted_class", "images"), rows)


@styled
def class_accuracy_figure(confusions: dict[str, np.ndarray], classes: Sequence[str], title: str) -> Drawing:
    """Draw the accuracy of each class by two models, and the difference; of many classes the extreme differences.

    Args:
        confusions: model's name -> (classes, classes) counts, rows = true classes; two of them, the first before.
        classes: their names.
        title: of the figure.
    """
    (before, first), (after, second) = confusions.items()
    images = first.sum(1)
    shares = [100 * np.diagonal(confusion) / np.maximum(images, 1) for confusion in (first, second)]
    overall = [100 * np.trace(confusion) / max(images.sum(), 1) for confusion in (first, second)]
    points = shares[1] - shares[0]
    chosen = extremes(points)
    figure = new_figure(WIDTH, 0.3 * len(chosen) + 1.7)
    axes = figure.subplots()
    places = np.arange(len(chosen) + 1)
    values = [np.append(share[chosen], every) for share, every in zip(shares, overall, strict=True)]
    axes.hlines(places, *values, color="#8a9099", linewidth=2)
    for name, marker, color, value in zip((before, after), "os", PALETTE[:2], values, strict=True):
        axes.plot(value, places, marker, color=color, markersize=7, label=name)
    for place, (one, other) in enumerate(zip(*values, strict=True)):
        at = (1, place), (8, 0), ("axes fraction", "data")
        axes.annotate(f"{other - one:+.1f}", *at, textcoords="offset points", va="center")
    axes.axhline(len(chosen) - 0.5, color="#8a9099", linewidth=0.8)
    name_rows(axes, [*(f"{classes[n]} ({images[n]:,})" for n in chosen), "all classes"])
    axes.set(xlabel="accuracy in %; right: difference in percentage points", ylabel="class (images)")
    end_at_100(axes, "x")
    axes.grid(axis="x")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    figure.suptitle(title)
    worst, best = int(points.argmin()), int(points.argmax())
    finding = (
        f"Accuracy on all images: {before} {overall[0]:.1f} %, {after} {overall[1]:.1f} %. Largest loss: "
        f"{classes[worst]}, {points[worst]:+.1f} percentage points; largest gain: {classes[best]}, "
        f"{points[best]:+.1f}."
    )
    if len(chosen) < len(classes):
        finding += f" Shown: the {len(chosen)} classes of {len(classes)} with the largest losses and gains."
    rows = [(name, int(images[n]), int(first[n, n]), int(second[n, n]), points[n]) for n, name in enumerate(classes)]
    columns = ("class", "images", f"correct_{before}", f"correct_{after}", "percentage_points")
    return Drawing(figure, finding, tuple(column.replace(" ", "_") for column in columns), rows)


@styled
def outputs_figure(
    own: Sequence[np.ndarray], others: Sequence[np.ndarray], classes: Sequence[str], other_images: str, title: str
) -> Drawing:
    """Draw the distributions of each module's output, with seaborn; of many modules those of extreme AUC.

    Args:
        own: (images,) outputs of each module on images of its class.
        others: likewise, on other images.
        classes: of the modules.
        other_images: what the others are, for the legend.
        title: of the figure.
    """
    import seaborn  # takes a second

    aucs = np.array([separation(mine, not_mine) for mine, not_mine in zip(own, others, strict=True)])
    names = [f"{name} ({auc:.3f})" for name, auc in zip(classes, aucs, strict=True)]
    kinds = {"images of the module's class": own, other_images: others}
    chosen = extremes(aucs)
    parts = [(kind, names[n], outputs[n]) for kind, outputs in kinds.items() for n in chosen]
    lengths = [len(values) for *_, values in parts]
    figure = new_figure(WIDTH, 0.42 * max(2, len(chosen)) + 1.6)
    axes = figure.subplots()
    seaborn.violinplot(
        x=np.concatenate([values for *_, values in parts]),
        y=np.repeat([name for _, name, _ in parts], lengths),
        hue=np.repeat([kind for kind, *_ in parts], lengths),
        order=[names[n] for n in chosen],
        palette=PALETTE[:2],
        **{"split": True, "inner": "quart", "cut": 0, "density_norm": "width", "linewidth": 0.8},
        orient="h",
        ax=axes,
    )
    seaborn.move_legend(axes, "lower center", bbox_to_anchor=(0.5, 1), ncols=2, title=None)
    axes.set(xlabel="module's output: the logit of its class (lines: quartiles)", ylabel="module of class (AUC)")
    axes.grid(axis="x")
    figure.suptitle(title)
    worst, best = int(np.argmin(aucs)), int(np.argmax(aucs))
    finding = f"A module's output separates its class from other images with a mean AUC of {np.mean(aucs):.3f}"
    if len(classes) > 1:
        finding += f": least for {classes[worst]} ({aucs[worst]:.3f}), most for {classes[best]} ({aucs[best]:.3f})"
    if len(chosen) < len(classes):
        finding += f". Shown: the {len(chosen)} of {len(classes)} modules with the least and the largest AUC"
    rows = [
        (name, kind, len(outputs[n]), *np.quantile(outputs[n], QUANTILES).tolist())
        for kind, outputs in kinds.items()
        for n, name in enumerate(classes)
    ]
    columns = ("module", "images", "count", "min", "quantile_10", "median", "quantile_90", "max")
    return Drawing(figure, f"{finding}.", columns, rows)


QUANTILES = (0.0, 0.1, 0.5, 0.9, 1.0)


def separation(own: np.ndarray, others: np.ndarray) -> float:
    """Return the AUC of (images,) outputs on `own` images against those on `others`: 1 = no overlap, 0.5 = chance."""
    outputs = np.concatenate([own, others])
    return float(auc_by_class(outputs[:, None], np.arange(len(outputs)) < len(own), [True])[0])
