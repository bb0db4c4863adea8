"""Modules: what is left of a strong model when the kernels that a class does not need are cut out.

A dropped kernel's feature map is zero wherever the masked strong model reads it. Cutting it and the weights that read
it leaves every output as it was.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from models.graph import Graph, GraphNetwork


@dataclass(frozen=True)
class Tuning:
    """What a search may learn of modules beside their masks. It goes into their weights where they are cut out.

    Attributes:
        gains: (modules, K) float32, positive: what each kept kernel's map is multiplied by where it is read. Alike in a
            unit; 1 where a kernel is dropped, is always kept, or is read without weights.
        logit_maps: (modules, 2) float32: the scale and the bias of each module's logit.
    """

    gains: np.ndarray
    logit_maps: np.ndarray


def extract_modules(
    graph: Graph, masks: np.ndarray, tuning: Tuning | None = None, target_classes: Sequence[int] | None = None
) -> list[GraphNetwork]:
    """Modules of masks (modules, K) bool, and of what was learned of them beside.

    A gain goes into the weights that read its kernel's map, a logit's scale and bias into the last layer.

    Args:
        graph: the strong model.
        masks: True = kept.
        tuning: of these modules; None = nothing.
        target_classes: of these modules; None = module c is of class c.
    """
    target_classes = range(len(masks)) if target_classes is None else target_classes
    unit_masks = [graph.units.gather(mask) for mask in masks]
    if tuning is None:
        return [graph.cut(mask, c) for mask, c in zip(unit_masks, target_classes, strict=True)]
    gains = tuning.gains[:, graph.units.first_kernels]
    learned = zip(unit_masks, target_classes, gains, tuning.logit_maps.tolist(), strict=True)
    return [graph.cut(mask, c, of_units, logit_map) for mask, c, of_units, logit_map in learned]


class ComposedModel(nn.Module):
    """All modules side by side: one logit of each, in their order."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.class_modules = nn.ModuleList(modules)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (n, 3, side, side) -> logits (n, modules)."""
        return torch.cat([module(images) for module in self.class_modules], dim=1)


def replaced(strong_logits: Tensor, logits: Tensor, target_classes: Sequence[int]) -> Tensor:
    """The strong model's logits (images, classes) with those of some classes replaced by modules' (images, modules)."""
    answers = strong_logits.clone()
    answers[:, list(target_classes)] = logits
    return answers


def module_of_weights(
    graph: Graph, kernel_mask: np.ndarray, target_class: int, weights: Mapping[str, Tensor]
) -> GraphNetwork:
    """The module whose state_dict and mask (K,) are known, on the CPU.

    Raises ValueError for a mask that does not fit the graph, RuntimeError (torch's, naming the shapes) for weights that
    do not fit the mask.
    """
    no_map = (1.0, 0.0) if any(name.startswith("logit.") for name in weights) else None
    module = graph.cut(graph.units.gather(kernel_mask), target_class, logit_map=no_map)
    module.load_state_dict(weights)
    return module


def is_float32(weights: Mapping[str, Tensor]) -> bool:
    """Whether all real numbers of a state_dict are float32."""
    values = weights.values()
    return all(
        isinstance(value, Tensor) and value.dtype == (torch.float32 if value.is_floating_point() else value.dtype)
        for value in values
    )
