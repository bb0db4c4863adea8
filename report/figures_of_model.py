"""Figures of the strong model: its training, its kernels' importance, its layers' sensitivity."""

from collections.abc import Sequence

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm
from matplotlib.ticker import MaxNLocator

from models.training import Epoch
from modules.layer_sensitivity import falls_at
from report.figures import HEAT, PALETTE, WIDTH, Drawing, end_at_100, heat_map, inches_of, new_figure, styled
from report.words import percent

MAPS_PER_ROW = 7  # layers next to each other


@styled
def training_figure(history: Sequence[Epoch], best: int, title: str) -> Drawing:
    """Draw loss and accuracies, epoch by epoch; the epoch whose weights were kept (`best`) is marked."""
    figure = new_figure(WIDTH, 4.6)
    loss, accuracy = figure.subplots(2, 1, sharex=True)
    numbers = [epoch.number for epoch in history]
    loss.plot(numbers, [epoch.train_loss for epoch in history], color=PALETTE[0])
    loss.set(ylabel="training loss,\nnats per image", ylim=(0, None))
    for name, style, color in (("train", "--", PALETTE[0]), ("valid", "-", PALETTE[1])):
        shares = [100 * getattr(epoch, f"{name}_accuracy") for epoch in history]
        images = "training images, augmented" if name == "train" else "validation images"
        accuracy.plot(numbers, shares, style, color=color, label=images)
    accuracy.set(ylabel="accuracy in %", xlabel="epoch")
    end_at_100(accuracy, "y")
    for axes in (loss, accuracy):
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
    """Draw one heat map per layer: how important each kernel is for each class, as a share of the layer's largest.

    `layers` is by name, (classes, kernels) each. In a map the kernels are sorted by their mean over the classes.
    """
    lines = -(-len(layers) // MAPS_PER_ROW)
    figure = new_figure(WIDTH, (inches_of(len(classes), 0.2) + 0.6) * lines + 0.7)
    grid = figure.subplots(lines, min(len(layers), MAPS_PER_ROW), squeeze=False)
    rows, agreement = [], {}
    scale = PowerNorm(0.5, 0, 1)  # few kernels are far ahead of the others
    for number, (axes, (name, importance)) in enumerate(zip(grid.flat, layers.items(), strict=False)):
        order = np.argsort(-importance.mean(0), kind="stable")
        shares = importance / max(float(importance.max()), 1e-30)
        is_first, last = number % MAPS_PER_ROW == 0, importance.shape[1]
        names = classes if is_first else [""] * len(classes)
        heat_map(axes, shares[:, order], names, [""], label="", vmin=None, vmax=None, norm=scale, cbar=False)
        axes.set_title(f"conv {name}", fontsize="small")
        axes.set_xticks([0.5, last - 0.5], ["1", str(last)], fontsize="x-small")
        axes.get_xticklabels()[0].set_horizontalalignment("left")
        axes.get_xticklabels()[-1].set_horizontalalignment("right")
        varies = last > 1 and (importance.std(1) > 0).all()
        agreement[name] = np.corrcoef(importance)[np.triu_indices(len(classes), 1)].mean() if varies else 1.0
        rows += [(name, c, classes[c], kernel, value) for (c, kernel), value in np.ndenumerate(importance)]
    for axes in grid.flat[len(layers) :]:
        axes.set_axis_off()
    figure.supylabel("class", fontsize="medium")
    figure.supxlabel("kernels of the layer, sorted by their mean over the classes", fontsize="medium")
    label = "share of the layer's largest importance"
    figure.colorbar(ScalarMappable(scale, HEAT), ax=list(grid.flat), label=label, pad=0.01)
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
    """Draw a heat map of accuracy: a row per layer, a column per kept share; `sensitive` layers are marked.

    `curves` is by layer's name, (ratios, 2): ratio, accuracy. From the loss `tolerance` a layer counts as fallen.
    """
    ratios = sorted({float(ratio) for curve in curves.values() for ratio in curve[:, 0]})
    values = np.full((len(curves), len(ratios)), np.nan)
    for row, curve in zip(values, curves.values(), strict=True):
        row[np.searchsorted(ratios, curve[:, 0])] = 100 * curve[:, 1]
    figure = new_figure(WIDTH, inches_of(len(curves), 0.27) + 1.5)
    axes = figure.subplots()
    names = [f"{name} *" if name in sensitive else name for name in curves]
    columns = [f"{100 * ratio:.4g}" for ratio in ratios]
    texts = np.vectorize(lambda accuracy: f"{accuracy:.0f}", otypes=[str])(values)
    heat_map(axes, values, names, columns, label="composed model's accuracy in %", texts=texts, high=100)
    axes.set(xlabel="kept share of one layer's kernels in %", ylabel="conv layer")
    figure.suptitle(f"{title}; *: {marked_as}")
    falls = {name: falls_at(curve[:, 0], curve[:, 1], tolerance) for name, curve in curves.items()}
    first = max(falls, key=falls.__getitem__)
    never = [f"conv {name}" for name, fall in falls.items() if fall == 0]
    finding = f"{marked_as.capitalize()}: {', '.join(f'conv {name}' for name in sensitive) or 'none'}. "
    if falls[first]:
        finding += (
            f"Conv {first} falls first: at {percent(falls[first])} of its kernels accuracy is more than "
            f"{100 * tolerance:.0f} percentage points down. "
        )
    if never:
        finding += f"Never that far down: {', '.join(never)}."
    rows = [(name, name in sensitive, *point) for name, curve in curves.items() for point in curve.tolist()]
    return Drawing(figure, finding.strip(), ("layer", marked_as.replace(" ", "_"), "ratio", "accuracy"), rows)
