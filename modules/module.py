"""Modules: what is left of a strong model when the kernels that a class does not need are cut out.

A dropped kernel's feature map is zero wherever the masked strong model reads it. Cutting it and the weights that read
it leaves every output as it was.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dataset.images import Images
from models.evaluation import predict
from models.graph import Graph, GraphNetwork

MODULES_AT_ONCE = 16  # that answer together: bounds the memory, and prepares each image once for all of them


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
        target_classes: of these modules; None = module c belongs to class c.
        weights: their state_dicts; None = they have the strong model's.

    Raises ValueError for a mask that does not fit the graph, RuntimeError for weights that do not fit a mask.
    """
    return list(CutModules(graph, masks, target_classes, weights))


class CutModules(Sequence[GraphNetwork]):
    """The modules of `extract_modules`, each cut out when it is asked for, so that any number of them fits in memory.

    Args:
        graph, masks, target_classes, weights: as of `extract_modules`.
        statistics: of each module some of its state_dict, which it has instead of the strong model's; None = nothing.

    Raises ValueError if masks, classes and weights are not as many.
    """

    def __init__(
        self,
        graph: Graph,
        masks: np.ndarray,
        target_classes: Sequence[int] | None = None,
        weights: Sequence[Mapping[str, Tensor]] | None = None,
        statistics: Sequence[Mapping[str, Tensor]] | None = None,
    ) -> None:
        self._graph, self._masks, self._weights, self._statistics = graph, masks, weights, statistics
        self._targets = range(len(masks)) if target_classes is None else target_classes
        for name, values in (("target_classes", self._targets), ("weights", weights), ("statistics", statistics)):
            if values is not None and len(values) != len(masks):
                raise ValueError(f"{name}: expected one for each of {len(masks)} modules, given {len(values)}")

    def __len__(self) -> int:
        return len(self._masks)

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(len(self)))]
        mask, target_class = self._masks[number], self._targets[number]
        if self._weights is not None:
            return module_of_weights(self._graph, mask, target_class, self._weights[number])
        module = self._graph.cut(self._graph.units.gather(mask), target_class)
        if self._statistics is not None:
            module.load_state_dict(self._statistics[number], strict=False)
        return module


def module_of_weights(
    strong: Graph, kernel_mask: np.ndarray, target_class: int | None, weights: Mapping[str, Tensor]
) -> GraphNetwork:
    """A module made of its mask and its state_dict.

    Example: `module_of_weights(strong, masks[3], 3, torch.load("class_3.pth", weights_only=True))`.

    Args:
        strong: the strong model.
        kernel_mask: (K,) bool, True = kept.
        target_class: whose logit the module has; None = all logits.
        weights: the module's state_dict.

    Returns:
        The module in evaluation mode, on the strong model's device: images (n, channels, side, side) -> logits (n, 1).

    Raises:
        ValueError: the mask does not fit the strong model.
        RuntimeError: torch's, naming the shapes; the weights do not fit the mask.
    """
    module = strong.cut(strong.units.gather(kernel_mask), target_class)
    module.load_state_dict(weights)
    return module


class ComposedModel(nn.Module):
    """Modules, or other networks, side by side: all their outputs, in their order.

    Example: `ComposedModel(modules)(images).argmax(1)`, if there is a module of each class.

    Args:
        modules: images (n, channels, side, side) -> outputs (n, k); a module has k = 1.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.class_modules = nn.ModuleList(modules)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (n, channels, side, side) -> outputs (n, sum of k)."""
        return torch.cat([module(images) for module in self.class_modules], dim=1)


def predict_modules(
    modules: Sequence[nn.Module], images: Images, device: torch.device, dtype: torch.dtype = torch.float32
) -> Tensor:
    """The logits (n, modules) float32, on the CPU, of modules side by side, some of which run at a time.

    The arguments are those of `predict`; of `CutModules` only those that run are in memory.
    """
    starts = range(0, len(modules), MODULES_AT_ONCE)
    parts = [
        predict(ComposedModel(modules[start : start + MODULES_AT_ONCE]), images, device, dtype) for start in starts
    ]
    return torch.cat(parts, dim=1)


def log_odds(logits: Tensor) -> Tensor:
    """The log-odds (images, classes) of each class against all others: log p / (1 - p) of the logits' softmax p.

    That is the logit minus the log-sum-exp of the others, which running sums from both sides give without cancellation.
    """
    nothing = torch.full_like(logits[:, :1], -torch.inf)
    below = torch.cat([nothing, logits[:, :-1].logcumsumexp(1)], 1)
    above = torch.cat([logits[:, 1:].flip(1).logcumsumexp(1).flip(1), nothing], 1)
    return logits - torch.logaddexp(below, above)


def as_answers(strong_logits: Tensor, answer: str) -> Tensor:
    """What modules take the place of, (images, classes): the strong model's logits or, as `log_odds`, log-odds."""
    return log_odds(strong_logits) if answer == "log_odds" else strong_logits


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
