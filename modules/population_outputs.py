"""What a population of modules answers: one function from (graph, unit masks, images) to outputs.

Every module is cut out of the graph, with the target class's logit alone, and run on all images.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from models.graph import Graph, fold_batch_norm

BATCH = 128


def population_outputs(
    graph: Graph, unit_masks: np.ndarray, target_classes: Sequence[int], images: Tensor, batch_size: int | None = None
) -> np.ndarray:
    """Each module's target-class logit on each image.

    Args:
        graph: the strong model; its weights are cast to the images' dtype.
        unit_masks: (modules, U) bool, True = kept; nothing that is read may be left without channels.
        target_classes: (modules,) the class whose logit each module is trusted for.
        images: (n, channels, side, side) normalised, channels-last, on the model's device; float32 or bfloat16.
        batch_size: images at a time; None = what the way to compute is best with, within a bound on memory.

    Returns (modules, n) float32. A module's outputs do not depend on which others are evaluated with it.
    Raises ValueError for a mask or class that does not fit.
    """
    folded = fold_batch_norm(graph).to(images.device, images.dtype)
    outputs = np.empty((len(unit_masks), len(images)), np.float32)
    with torch.inference_mode():
        for row, (mask, target_class) in enumerate(zip(unit_masks, target_classes, strict=True)):
            module = folded.cut(mask, target_class).to(memory_format=torch.channels_last)
            logits = [module(batch) for batch in images.split(batch_size or BATCH)]
            outputs[row] = torch.cat(logits)[:, 0].float().cpu().numpy()
    return outputs


def outputs_with_known(
    graph: Graph, unit_masks: np.ndarray, target_class: int, images: Tensor, known: tuple[np.ndarray, np.ndarray] | None
) -> tuple[np.ndarray, int]:
    """The target class's logits (population, n) float32 of all unit masks, and how many modules had to run.

    Args:
        graph: the strong model.
        unit_masks: (population, U) bool, True = kept.
        target_class: whose logit the modules are trusted for.
        images: (n, channels, side, side) normalised, on the model's device.
        known: unit masks (m, U) and their outputs (m, n), or None.
    """
    outputs_of = {}
    if known is not None:
        outputs_of = {mask.tobytes(): outputs for mask, outputs in zip(*known, strict=True)}
    new = {mask.tobytes(): mask for mask in unit_masks if mask.tobytes() not in outputs_of}
    if new:
        fresh = population_outputs(graph, np.stack(list(new.values())), [target_class] * len(new), images)
        outputs_of.update(zip(new, fresh, strict=True))
    return np.stack([outputs_of[mask.tobytes()] for mask in unit_masks]), len(new)
