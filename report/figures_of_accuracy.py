"""Figures of what the networks answer: confusions, accuracy per class, the outputs of modules."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from modules.own_class import auc_by_class
from report.figures import PALETTE, Drawing, end_at_100, heat_map, name_rows, new_figure, styled
from report.words import percent

QUANTILES = (0.0, 0.1, 0.5, 0.9, 1.0)


@styled
def confusion_figure(confusions: dict[str, np.ndarray], classes: Sequence[str], title: str) -> Drawing:
    """Confusion matrices side by side; the colour is the share of the true class's images, the number a count.

    `confusions`: model's name -> (classes, classes) counts, rows = true classes.
    """
    size = 0.42 * len(classes) + 2
    figure = new_figure((size + 0.8) * len(confusions), size)
    rows, findings = [], []
    all_axes = figure.subplots(1, len(confusions), squeeze=False)[0]
    for axes, (name, confusion) in zip(all_axes, confusions.items(), strict=True):
        shares = 100 * confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
        texts = np.where(confusion > 0, confusion.astype(str), "")
        heat_map(axes, shares, classes, classes, label="% of the true class", texts=texts, high=100)
        right, images = int(np.trace(confusion)), int(confusion.sum())
        axes.set(xlabel="predicted class", ylabel="true class", title=f"{name}: {right:,} of {images:,} right")
        wrong = confusion - np.diag(np.diagonal(confusion))
        true, taken = map(int, np.unravel_index(wrong.argmax(), wrong.shape))
        mistake = f"; its most frequent mistake takes {classes[true]} for {classes[taken]} ({wrong[true, taken]} times)"
        findings.append(
            f"{name}: {percent(right / max(images, 1))} of {images:,} images right{mistake if wrong.any() else ''}."
        )
        rows += [(name, classes[i], classes[j], int(count)) for (i, j), count in np.ndenumerate(confusion)]
    figure.suptitle(title)
    return Drawing(figure, " ".join(findings), ("model", "true_class", "predicted_class", "images"), rows)


@styled
def class_accuracy_figure(confusions: dict[str, np.ndarray], classes: Sequence[str], title: str) -> Drawing:
    """Accuracy of each class by two models, and the difference in points.

    `confusions`: model's name -> (classes, classes) counts, rows = true classes; two of them, the first before.
    """
    (before, first), (after, second) = confusions.items()
    images = first.sum(1)
    shares = [100 * np.diagonal(confusion) / np.maximum(images, 1) for confusion in (first, second)]
    overall = [100 * np.trace(confusion) / max(images.sum(), 1) for confusion in (first, second)]
    points = shares[1] - shares[0]
    names = [f"{name} ({count:,} images)" for name, count in zip(classes, images, strict=True)]
    figure = new_figure(9, 0.34 * len(classes) + 2)
    axes = figure.subplots()
    places = np.arange(len(classes) + 1)
    values = [np.append(share, every) for share, every in zip(shares, overall, strict=True)]
    axes.hlines(places, values[0], values[1], color="#8a9099", linewidth=2)
    for name, marker, color, value in zip((before, after), "os", PALETTE[:2], values, strict=True):
        axes.plot(value, places, marker, color=color, markersize=7, label=name)
    for place, (one, other) in enumerate(zip(*values, strict=True)):
        at = (1, place), (8, 0), ("axes fraction", "data")
        axes.annotate(f"{other - one:+.1f}", *at, textcoords="offset points", va="center")
    axes.axhline(len(classes) - 0.5, color="#8a9099", linewidth=0.8)
    name_rows(axes, [*names, "all classes"])
    axes.set(xlabel="accuracy in % (right: difference in points)", title=title)
    end_at_100(axes, "x")
    axes.grid(axis="x")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    worst, best = int(points.argmin()), int(points.argmax())
    finding = (
        f"Accuracy on all images: {before} {overall[0]:.1f} %, {after} {overall[1]:.1f} %. Largest loss: "
        f"{classes[worst]}, {points[worst]:+.1f} points; largest gain: {classes[best]}, {points[best]:+.1f} points."
    )
    rows = [(name, int(images[n]), int(first[n, n]), int(second[n, n]), points[n]) for n, name in enumerate(classes)]
    columns = ("class", "images", f"right_{before}", f"right_{after}", "points")
    return Drawing(figure, finding, tuple(column.replace(" ", "_") for column in columns), rows)


@styled
def outputs_figure(
    own: Sequence[np.ndarray], others: Sequence[np.ndarray], classes: Sequence[str], other_images: str, title: str
) -> Drawing:
    """Each module's outputs on images of its class, `own`, and on `others`: one bar of quantiles each.

    `other_images` says for the legend what the others are.
    """
    figure = new_figure(9, 0.5 * max(2, len(classes)) + 1.9)
    axes = figure.subplots()
    separations = [separation(mine, not_mine) for mine, not_mine in zip(own, others, strict=True)]
    rows = []
    for outputs, shift, color, marker, label in (
        (own, -0.17, PALETTE[0], "o", "images of the module's class"),
        (others, 0.17, PALETTE[1], "s", other_images),
    ):
        quantiles = np.array([np.quantile(values, QUANTILES) for values in outputs])
        places = np.arange(len(classes)) + shift
        axes.hlines(places, quantiles[:, 0], quantiles[:, 4], color=color, linewidth=1.2)
        axes.hlines(places, quantiles[:, 1], quantiles[:, 3], color=color, linewidth=6)
        style: dict[str, Any] = {"color": color, "markeredgecolor": "white", "markeredgewidth": 0.7, "markersize": 7}
        axes.plot(quantiles[:, 2], places, marker, label=label, **style)
        counts = map(len, outputs)
        rows += [(n, label, count, *row) for n, count, row in zip(classes, counts, quantiles.tolist(), strict=True)]
    name_rows(axes, [f"{name} ({value:.3f})" for name, value in zip(classes, separations, strict=True)])
    axes.set(
        xlabel="module's output: the logit of its class (thin: all; thick: 10 % to 90 %; mark: median)",
        ylabel="module of class\n(separation)",
    )
    axes.grid(axis="x")
    figure.suptitle(title)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    worst, best, mean = int(np.argmin(separations)), int(np.argmax(separations)), float(np.mean(separations))
    finding = (
        f"A module's output on an image of its class is above that on another image in {percent(mean)} of all pairs"
    )
    if len(classes) > 1:
        finding += (
            f", averaged over the modules: least for {classes[worst]} ({percent(separations[worst])}), most for "
            f"{classes[best]} ({percent(separations[best])})"
        )
    columns = ("module", "images", "count", "min", "quantile_10", "median", "quantile_90", "max")
    return Drawing(figure, f"{finding}.", columns, rows)


def separation(own: np.ndarray, others: np.ndarray) -> float:
    """The share of pairs in which `own` is larger, as `auc_by_class`: 1 = they never overlap, 0.5 = alike."""
    outputs = np.concatenate([own, others])
    return float(auc_by_class(outputs[:, None], np.arange(len(outputs)) < len(own), [True])[0])
