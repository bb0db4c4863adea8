"""Figures of what the networks answer: confusions, and the outputs of modules."""

from collections.abc import Sequence

import numpy as np

from modules.own_class import auc_by_class
from report.figures import PALETTE, WIDTH, Drawing, extremes, heat_map, inches_of, new_figure, styled
from report.words import percent


@styled
def confusion_figure(confusions: dict[str, np.ndarray], classes: Sequence[str], title: str) -> Drawing:
    """Draw confusion matrices; the colour is the share of the true class's images, the number a count.

    `confusions` is model's name -> (classes, classes) counts, rows = true classes.
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
        true, taken = map(int, np.unravel_index(wrong.argmax(), wrong.shape))
        mistake = f"; most frequent error: {classes[true]} classified as {classes[taken]} ({wrong[true, taken]} times)"
        findings.append(
            f"{name.capitalize()}: {percent(correct / max(images, 1))} of {images:,} images correct"
            f"{mistake if wrong.any() else ''}."
        )
        rows += [(name, classes[i], classes[j], int(count)) for (i, j), count in np.ndenumerate(confusion)]
    figure.suptitle(title)
    return Drawing(figure, " ".join(findings), ("model", "true_class", "predicted_class", "images"), rows)


@styled
def outputs_figure(
    own: Sequence[np.ndarray], others: Sequence[np.ndarray], classes: Sequence[str], other_images: str, title: str
) -> Drawing:
    """Draw the distributions of each module's output, with seaborn; of many modules those of extreme AUC.

    `own` are each module's outputs (images,) on images of its class, `others` those on `other_images`.
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
    axes.set(xlabel="module's output (lines: quartiles)", ylabel="module of class (AUC)")
    axes.grid(axis="x")
    figure.suptitle(title)
    worst, best = int(np.argmin(aucs)), int(np.argmax(aucs))
    finding = f"A module's output separates its class from other images with a mean AUC of {np.mean(aucs):.3f}"
    if len(classes) > 1:
        finding += f": least for {classes[worst]} ({aucs[worst]:.3f}), most for {classes[best]} ({aucs[best]:.3f})"
    if len(chosen) < len(classes):
        finding += f". Shown: the {len(chosen)} of {len(classes)} modules with the least and the largest AUC"
    rows = [
        (name, kind, len(values), *np.quantile(values, (0, 0.1, 0.5, 0.9, 1)).tolist())
        for kind, outputs in kinds.items()
        for name, values in zip(classes, outputs, strict=True)
    ]
    columns = ("module", "images", "count", "min", "quantile_10", "median", "quantile_90", "max")
    return Drawing(figure, f"{finding}.", columns, rows)


def separation(own: np.ndarray, others: np.ndarray) -> float:
    """Return the AUC of (images,) outputs on `own` images against those on `others`: 1 = no overlap, 0.5 = chance."""
    outputs = np.concatenate([own, others])
    return float(auc_by_class(outputs[:, None], np.arange(len(outputs)) < len(own), [True])[0])
