"""Modules: what is left of a strong model when the kernels that a class does not need are cut out.

A dropped kernel's feature map is zero wherever the masked strong model reads it. Cutting it and the weights that read
it leaves every output as it was.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from models.graph import Graph, GraphNetwork


def extract_modules(
    graph: Graph,
    masks: np.ndarray,
    target_classes: Sequence[int] | None = None,
    weights: Sequence[Mapping[str, Tensor]] | None = None,
) -> list[GraphNetwork]:
    """Modules of masks (modules, K) bool, on the graph's device.

    Args:
        graph: the strong model.
        masks: True = kept.
        target_classes: of these modules; None = module c is of class c.
        weights: their state_dicts; None = they have the strong model's.

    Raises ValueError for a mask that does not fit the graph, RuntimeError for weights that do not fit a mask.
    """
    targets = range(len(masks)) if target_classes is None else target_classes
    if weights is None:
        return [graph.cut(graph.units.gather(mask), c) for mask, c in zip(masks, targets, strict=True)]
    of_modules = zip(masks, targets, weights, strict=True)
    return [module_of_weights(graph, mask, c, of_module) for mask, c, of_module in of_modules]


def module_of_weights(
    graph: Graph, kernel_mask: np.ndarray, target_class: int, weights: Mapping[str, Tensor]
) -> GraphNetwork:
    """The module whose state_dict and mask (K,) are known, on the graph's device.

    Raises ValueError for a mask that does not fit the graph, RuntimeError (torch's, naming the shapes) for weights that
    do not fit the mask.
    """
    # An earlier version's modules of networks without a linear layer at the end have two numbers more.
    scales_logits = any(name.startswith("logit.") for name in weights)
    module = graph.cut(graph.units.gather(kernel_mask), target_class, scales_logits=scales_logits)
    module.load_state_dict(weights)
    return module


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


def is_float32(weights: Mapping[str, Tensor]) -> bool:
    """Whether all real numbers of a state_dict are float32."""
    values = weights.values()
    return all(
        isinstance(value, Tensor) and value.dtype == (torch.float32 if value.is_floating_point() else value.dtype)
        for value in values
    )
