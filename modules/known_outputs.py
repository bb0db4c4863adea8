"""A population's outputs where some are known: an elite of the last generation or a duplicate never runs again."""

import numpy as np
from torch import Tensor

from models.cnn import CNN
from modules.population_outputs import population_outputs


def outputs_with_known(
    model: CNN, masks: np.ndarray, target_class: int, images: Tensor, known: tuple[np.ndarray, np.ndarray] | None
) -> tuple[np.ndarray, int]:
    """The target class's logits (population, n) float32 of all masks, and how many modules had to run.

    Args:
        model: the strong model.
        masks: (population, K) bool, True = kept.
        target_class: whose logit the modules are trusted for.
        images: (n, 3, 32, 32) normalised, on the model's device.
        known: masks (m, K) and their outputs (m, n), or None.
    """
    outputs_of = {}
    if known is not None:
        outputs_of = {mask.tobytes(): outputs for mask, outputs in zip(*known, strict=True)}
    new = {mask.tobytes(): mask for mask in masks if mask.tobytes() not in outputs_of}
    if new:
        fresh = population_outputs(model, np.stack(list(new.values())), [target_class] * len(new), images)
        outputs_of.update(zip(new, fresh, strict=True))
    return np.stack([outputs_of[mask.tobytes()] for mask in masks]), len(new)
