"""What a population of modules answers."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from models.graph import Graph


def population_outputs(
    graph: Graph, unit_masks: np.ndarray, target_classes: Sequence[int], images: Tensor, batch_size: int | None = None
) -> np.ndarray:
    """Temporary."""
    graph = graph.to(dtype=images.dtype)
    outputs = []
    with torch.inference_mode():
        for mask, target_class in zip(unit_masks, target_classes, strict=True):
            module = graph.cut(mask, target_class)
            outputs.append(torch.cat([module(part)[:, 0] for part in images.split(128)]).float().cpu())
    return torch.stack(outputs).numpy()


def outputs_with_known(
    graph: Graph, masks: np.ndarray, target_class: int, images: Tensor, known: tuple[np.ndarray, np.ndarray] | None
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
        fresh = population_outputs(graph, np.stack(list(new.values())), [target_class] * len(new), images)
        outputs_of.update(zip(new, fresh, strict=True))
    return np.stack([outputs_of[mask.tobytes()] for mask in masks]), len(new)
