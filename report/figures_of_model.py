"""Figures of the strong model: its training, its kernels' importance, its layers' sensitivity."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm
from matplotlib.ticker import MaxNLocator

from models.training import Epoch
from modules.layer_sensitivity import falls_at
from report.figures import HEAT, MARKERS, PALETTE, Drawing, end_at_100, new_figure, styled
from report.words import listed, percent


@styled
def training_figure(history: Sequence[Epoch], best: int, title: str) -> Drawing:
    """Loss and accuracies, epoch by epoch; the epoch whose weights were kept (`best`) is marked."""
    figure = new_figure(9, 3.8)
    loss, accuracy = figure.subplots(1, 2)
    numbers = [epoch.number for epoch in history]
    loss.plot(numbers, [epoch.train_loss for epoch in history], color=PALETTE[0])
    loss.set(ylabel="training loss, nats per image", ylim=(0, None))
    for name, style, color in (("train", "--", PALETTE[0]), ("valid", "-", PALETTE[1])):
        shares = [100 * getattr(epoch, f"{name}_accuracy") for epoch in history]
        images = "training images, augmented" if name == "train" else "validation images"
        accuracy.plot(numbers, shares, style, color=color, label=images)
    accuracy.set(ylabel="accuracy in %")
    end_at_100(accuracy, "y")
    for axes in (loss, accuracy):
        axes.set_xlabel("epoch, from 0")
        axes.axvline(best, color="#6b7280", linestyle=":", label=f"kept: epoch {best}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid()
    figure.legend(*accuracy.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.suptitle(title)
    kept = next(epoch for epoch in history if epoch.number == best)
    finding = (
        f"Over {len(history)} epochs the training loss goes from {history[0].train_loss:.2f} to "
        f"{history[-1].train_loss:.2f}. Validation accuracy is best at epoch {best}, {percent(kept.valid_accuracy)}, "
        f"where training accuracy is {percent(kept.train_accuracy)}."
    )
    columns = ("epoch", "learning_rate", "train_loss", "train_accuracy", "valid_accuracy", "seconds")
    rows = [(e.number, e.learning_rate, e.train_loss, e.train_accuracy, e.valid_accuracy, e.seconds) for e in history]
    return Drawing(figure, finding, columns, rows)


@styled
def importance_figure(layers: dict[str, np.ndarray], classes: Sequence[str], title: str) -> Drawing:
    """One heat map a layer: how important each kernel is for each class, as a share of the layer's largest.

    `layers` is by name, (classes, kernels) each. In each map the kernels are sorted by their mean over the classes, so
    that what all classes share stands left.
    """
    figure = new_figure(max(7.0, 0.9 * len(layers) + 2), 0.27 * len(classes) + 1.9)
    all_axes = figure.subplots(1, len(layers), sharey=True, squeeze=False)[0]
    rows, agreement = [], {}
    scale = PowerNorm(0.5, 0, 1)  # few kernels are far ahead of the others
    for axes, (name, importance) in zip(all_axes, layers.items(), strict=True):
        order = np.argsort(-importance.mean(0), kind="stable")
        shares = importance / max(float(importance.max()), 1e-30)
        axes.imshow(shares[:, order], aspect="auto", cmap=HEAT, norm=scale, interpolation="nearest", rasterized=True)
        axes.set_title(f"conv {name}", fontsize="small")
        axes.set_xticks([0, importance.shape[1] - 1], ["1", str(importance.shape[1])], fontsize="x-small")
        axes.get_xticklabels()[0].set_horizontalalignment("left")
        axes.get_xticklabels()[-1].set_horizontalalignment("right")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        varies = importance.shape[1] > 1 and (importance.std(1) > 0).all()
        agreement[name] = np.corrcoef(importance)[np.triu_indices(len(classes), 1)].mean() if varies else 1.0
        rows += [(name, c, classes[c], kernel, value) for (c, kernel), value in np.ndenumerate(importance)]
    all_axes[0].set_yticks(range(len(classes)), classes)
    all_axes[0].set_ylabel("class")
    figure.supxlabel("kernels of the layer, sorted by their mean over the classes", fontsize="medium")
    figure.colorbar(
        ScalarMappable(scale, HEAT), ax=list(all_axes), label="share of the layer's\nlargest importance", pad=0.01
    )
    figure.suptitle(title)
    alike, apart = max(agreement, key=agreement.__getitem__), min(agreement, key=agreement.__getitem__)
    finding = (
        f"Classes agree most on which kernels matter in conv {alike} (mean correlation {agreement[alike]:.2f}) and "
        f"least in conv {apart} ({agreement[apart]:.2f})."
    )
    return Drawing(figure, finding, ("layer", "class", "name", "kernel", "importance"), rows)


@styled
def sensitivity_figure(
    curves: dict[str, np.ndarray],
    sensitive: Sequence[str],
    tolerance: float,
    title: str,
    marked_as: str = "recommended as sensitive",
) -> Drawing:
    """Accuracy against the kept share of a layer's kernels, one line a layer; those of `sensitive` are marked.

    `curves` is by layer's name, (ratios, 2) each: ratio, accuracy. `tolerance` is the loss of accuracy from which a
    layer counts as having fallen.
    """
    figure = new_figure(8, 4.6)
    axes = figure.subplots()
    for number, (name, curve) in enumerate((n, c) for n, c in curves.items() if n in sensitive):
        style: dict[str, Any] = {"color": PALETTE[number % 6], "marker": MARKERS[number % len(MARKERS)]}
        style |= {"markersize": 5, "linestyle": "-" if number < 6 else (0, (5, 1))}
        axes.plot(100 * curve[:, 0], 100 * curve[:, 1], label=f"conv {name}", linewidth=1.6, **style)
    others = [name for name in curves if name not in sensitive]
    for number, name in enumerate(others):
        label = f"the others:\nconv {', '.join(others)}" if number == 0 else None
        axes.plot(100 * curves[name][:, 0], 100 * curves[name][:, 1], label=label, color="#8a9099", linestyle="--")
    axes.set(xlabel="kept share of one layer's kernels, in %", ylabel="composed model's accuracy in %", title=title)
    axes.grid()
    end_at_100(axes, "x", "y")
    axes.legend(title=marked_as, loc="center left", bbox_to_anchor=(1.01, 0.5), alignment="left")
    falls = {name: falls_at(curve[:, 0], curve[:, 1], tolerance) for name, curve in curves.items()}
    first = max(falls, key=falls.__getitem__)
    never = [f"conv {name}" for name, fall in falls.items() if fall == 0]
    names = listed([f"conv {name}" for name in sensitive]) if sensitive else "none"
    finding = f"{marked_as.capitalize()}: {names}. "
    if falls[first]:
        finding += (
            f"Conv {first} falls first: at {percent(falls[first])} of its kernels accuracy is more than "
            f"{100 * tolerance:.0f} points down. "
        )
    if never:
        finding += f"Never that far down: {listed(never)}."
    rows = [(name, name in sensitive, *point) for name, curve in curves.items() for point in curve.tolist()]
    return Drawing(figure, finding.strip(), ("layer", marked_as.replace(" ", "_"), "ratio", "accuracy"), rows)
