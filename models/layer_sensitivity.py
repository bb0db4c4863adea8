"""The accuracy of the composed model while one layer after the other loses kernels."""

import numpy as np
from torch import Tensor

from models.cnn import CNN
from models.population_outputs import population_outputs
from utils.sensitivity import top_ratio_masks


def tied_layers(model: CNN, layer: int) -> list[int]:
    """The free layer that `layer` belongs to and all layers tied to it, in order."""
    tied_to = model.architecture.tied_to
    return [other for other, first in enumerate(tied_to) if first == tied_to[layer]]


def layer_sensitivity(
    model: CNN, importance: np.ndarray, layer: int, ratios: tuple[float, ...], images: Tensor, labels: np.ndarray
) -> np.ndarray:
    """Validation accuracy of the composed model for each share of a layer's kernels that all modules keep.

    All ratios and classes run as one population, so everything before the layer is computed once, and at ratio 1.0 all
    classes share the whole strong model.

    Args:
        model: the strong model.
        importance: (classes, K).
        layer: a conv layer; those tied to it are cut alike.
        ratios: the shares.
        images: (n, 3, 32, 32) normalised, on the model's device.
        labels: (n,).

    Returns (ratios, 2) float32: ratio, accuracy.
    """
    num_classes = len(importance)
    layers = tied_layers(model, layer)
    slices = model.architecture.layer_slices
    masks = np.concatenate([top_ratio_masks(importance, slices, layers, ratio) for ratio in ratios])
    target_classes = list(range(num_classes)) * len(ratios)
    outputs = population_outputs(model, masks, target_classes, images)
    predicted = outputs.reshape(len(ratios), num_classes, -1).argmax(1)
    accuracy = (predicted == labels).mean(1)
    return np.stack([np.array(ratios), accuracy], 1).astype(np.float32)
