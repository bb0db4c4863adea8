"""The accuracy of the composed model while one layer after the other loses kernels."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from torch import Tensor, get_num_threads

from dataset.images import Images, PreparedImages, prepared
from engines.engine import Engine
from models.graph import Graph, Units
from models.opening import Stage
from models.strong_model import load_strong_model, load_strong_split
from modules import files as module_files
from modules.evaluation_inputs import evaluation_inputs, outputs_on_worker
from modules.fast.convolution import population_dtype, say_if_without_compiler
from modules.kernel_importance import check_importance_fits
from modules.population_outputs import image_batches, population_outputs, say_what_torch_runs
from utils.device import precision_name
from utils.errors import UserError
from utils.estimate import is_worth_measuring, say_estimate, seconds_of
from utils.files import set_aside, sha256_of
from utils.recorded_settings import record_or_compare

MEASURED_CLASSES = 2  # whose modules an estimate of the time rests on


@dataclass(frozen=True)
class SensitivityInputs:
    """What the curves of all layers are measured with."""

    strong: Graph
    importance: np.ndarray  # (classes, K)
    ratios: tuple[float, ...]
    images: Tensor | PreparedImages  # (n, 3, side, side) normalised, on the model's device
    labels: np.ndarray  # (n,)
    valid: Images  # the same, as they are on the disk

    def curve(self, layer: int) -> np.ndarray:
        """(ratios, 2) float32 of one layer: ratio, accuracy."""
        return layer_sensitivity(self.strong, self.importance, layer, self.ratios, self.images, self.labels)

    def say_expected(self, layers: Sequence[int]) -> None:
        """Say what the curves of some layers take, by the modules of few classes on one batch of images."""
        classes, count = len(self.importance), len(self.labels)
        more_bytes = len(self.ratios) * classes * (4 * count + self.strong.units.num_kernels)
        what, instead = "layer sensitivity", "lower sensitivity_images, or try fewer sensitivity_ratios"
        if not layers or not is_worth_measuring(self.strong.flops * len(layers) * len(self.ratios) * classes * count):
            say_estimate(what, 0, more_bytes=more_bytes, instead=instead)
            return
        few, batches = self.importance[:MEASURED_CLASSES], image_batches(self.strong, self.images)
        seconds = []
        for layer in sorted({layers[0], layers[len(layers) // 2], layers[-1]}):
            modules = modules_of_layer(self.strong.units, few, layer, self.ratios)
            seconds.append(
                seconds_of(partial(population_outputs, self.strong, *modules, self.images, batches=batches[:1]))
            )
        a_layer = sum(seconds) / len(seconds) * classes / len(few) * len(batches)
        say_estimate(what, a_layer * len(layers) / get_num_threads(), more_bytes=more_bytes, instead=instead)

    def curves(self, layers: Sequence[int], engine: Engine, stage: Stage) -> Iterator[tuple[int, np.ndarray]]:
        """Layers and their curves, in the order in which an engine's workers are done with them."""
        shared = engine.share(evaluation_inputs(stage.config, self.strong, self.valid, self.images.dtype))
        for layer in layers:
            masks, classes = modules_of_layer(self.strong.units, self.importance, layer, self.ratios)
            engine.submit(layer, outputs_on_worker, shared, engine.device, masks, classes)
        for layer, (outputs, *_) in engine.results():
            yield layer, accuracies(outputs, layer, self.ratios, self.labels)


def open_sensitivity(stage: Stage, *, fresh: bool = False) -> SensitivityInputs:
    """The strong model, importance and images; writes next to the curves what they were measured with.

    Raises UserError if curves are there that were measured with others; `fresh` sets those aside.
    """
    say_if_without_compiler(stage.dtype, stage.device)
    config, artifacts = stage.config, stage.artifacts
    strong = load_strong_model(config, artifacts, stage.device)
    dtype = population_dtype(stage.dtype, stage.device)
    say_what_torch_runs(strong, dtype, stage.device)
    importance = module_files.kernel_importance(artifacts).load(config.num_classes, strong.units.num_kernels)
    valid = load_strong_split(config, artifacts).valid.first(config.sensitivity_images)
    settings = {
        **config.part_of("sensitivity"),
        "images": len(valid),
        "images_crc32": valid.fingerprint,
        "precision": precision_name(dtype),
        "strong_model_sha256": check_importance_fits(artifacts),
        "kernel_importance_sha256": sha256_of(module_files.kernel_importance(artifacts).path),
    }
    file = module_files.sensitivity_settings(artifacts)
    if fresh and file.path.parent.exists():
        print(f"the old curves are now {set_aside(file.path.parent)}")
    record_or_compare(file, settings)
    images = prepared(valid, stage.device, dtype)
    return SensitivityInputs(strong, importance, config.sensitivity_ratios, images, valid.labels, valid)


def layer_sensitivity(
    strong: Graph,
    importance: np.ndarray,
    layer: int,
    ratios: tuple[float, ...],
    images: Tensor | PreparedImages,
    labels: np.ndarray,
) -> np.ndarray:
    """Validation accuracy of the composed model for each share of a layer's kernels that all modules keep.

    All ratios and classes run as one population, so everything before the layer is computed once, and at ratio 1.0 all
    classes share the whole strong model.

    Args:
        strong: the strong model.
        importance: (classes, K).
        layer: a conv layer; those with the same units are cut alike.
        ratios: the shares.
        images: (n, 3, side, side) normalised, on the model's device.
        labels: (n,).

    Returns (ratios, 2) float32: ratio, accuracy. Raises UserError if a module's output is NaN or infinite.
    """
    outputs = population_outputs(strong, *modules_of_layer(strong.units, importance, layer, ratios), images)
    return accuracies(outputs, layer, ratios, labels)


def top_ratio_masks(importance: np.ndarray, units: Units, layer: int, ratio: float) -> np.ndarray:
    """Every class's mask that keeps the top `ratio` of a layer's units and all others.

    Args:
        importance: (classes, K); a unit's is that of its first kernel.
        units: of the network.
        layer: a conv layer; layers with the same units are cut alike.
        ratio: the kept share of the layer's units, rounded down, at least one.

    Returns unit masks (classes, U) bool, True = kept.
    """
    of_unit = importance[:, units.first_kernels]
    masks = np.ones(of_unit.shape, bool)
    of_layer = units.of_layer(layer)
    num_kept = max(1, int(len(of_layer) * ratio + 1e-9))
    order = np.argsort(-of_unit[:, of_layer], axis=1, kind="stable")
    np.put_along_axis(masks, of_layer[order[:, num_kept:]], False, axis=1)
    return np.stack([units.repair(mask, row) for mask, row in zip(masks, of_unit, strict=True)])


def modules_of_layer(
    units: Units, importance: np.ndarray, layer: int, ratios: tuple[float, ...]
) -> tuple[np.ndarray, list[int]]:
    """Unit masks (ratios * classes, U) of all classes' modules for one ratio after the other, and their classes."""
    masks = np.concatenate([top_ratio_masks(importance, units, layer, ratio) for ratio in ratios])
    return masks, list(range(len(importance))) * len(ratios)


def accuracies(outputs: np.ndarray, layer: int, ratios: tuple[float, ...], labels: np.ndarray) -> np.ndarray:
    """(ratios, 2) float32: ratio, and the accuracy of the modules' outputs (ratios * classes, n).

    Raises UserError if one is NaN or infinite.
    """
    if not np.isfinite(outputs).all():
        raise UserError(f"conv {layer}: a module's outputs are NaN or infinite; retrain the strong model")
    predicted = outputs.reshape(len(ratios), -1, len(labels)).argmax(1)
    accuracy = (predicted == labels).mean(1)
    return np.stack([np.array(ratios), accuracy], 1).astype(np.float32)


def falls_at(ratios: np.ndarray, accuracies: np.ndarray, tolerance: float) -> float:
    """The largest ratio at which accuracy is more than `tolerance` below that of the whole layer; 0 if it never is."""
    whole = accuracies[np.argmax(ratios)]
    fallen = ratios[accuracies < whole - tolerance - 1e-6]  # they are float32: exactly `tolerance` is not more
    return float(fallen.max()) if len(fallen) else 0.0


def recommend_sensitive(curves: dict[int, np.ndarray], tolerance: float, sensitive_from: float) -> list[int]:
    """The layers whose curve (ratios, 2) has fallen at the ratio `sensitive_from` or above: early."""
    least = sensitive_from - 1e-6  # curves are float32, in which 0.7 is less than 0.7
    return [layer for layer, curve in curves.items() if falls_at(curve[:, 0], curve[:, 1], tolerance) >= least]
