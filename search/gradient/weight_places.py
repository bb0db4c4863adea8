"""Where the weights of a module stand in the strong model's.

It is found by cutting: what is cut out of weights that are their own numbers says where they came from. So any network
that can be cut has them.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.graph import Graph, GraphNetwork


class WeightPlaces:
    """The places of the weights of all modules of a strong model.

    Args:
        graph: the strong model.
    """

    def __init__(self, graph: Graph) -> None:
        real = {name: value for name, value in graph.constants.items() if value.is_floating_point()}
        others = {name: value.cpu() for name, value in graph.constants.items() if name not in real}
        self._sizes = {name: value.numel() for name, value in real.items()}
        numbers = {
            name: torch.arange(1, value.numel() + 1, dtype=torch.float64).view(value.shape)
            for name, value in real.items()
        }
        self._numbers = graph.with_constants(others | numbers)

    def of(self, unit_mask: np.ndarray, target_class: int | None) -> dict[str, Tensor]:
        """Of each weight of a module its place in the strong model's, counted from 1, by name; 0: it is a filling."""
        return {name: value.long() for name, value in _weights(self._numbers.cut(unit_mask, target_class)).items()}

    def moved(
        self, values: Mapping[str, Tensor], before: Mapping[str, Tensor], now: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """What is known of a module's weights, by name, for the weights of the smaller module that it becomes.

        Args:
            values: of the weights, at the places `before`.
            before, now: as `of` gives them.
        """
        found = {}
        for name, places in now.items():
            original = name  # what is cut in two ways has another name the second time
            while original not in values:
                original = original.removesuffix("_again")
            of_module = values[original]
            whole = of_module.new_zeros(self._sizes[self._constant(original)] + 1)
            whole[before[original].flatten().to(whole.device)] = of_module.flatten()
            whole[0] = 0
            found[name] = whole[places.to(whole.device)]
        return found

    def _constant(self, name: str) -> str:
        while name not in self._sizes:
            name = name.removesuffix("_again")
        return name


def _weights(network: GraphNetwork) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in network.named_parameters()}


def head_rows(graph: Graph, target_class: int) -> dict[str, Tensor]:
    """Of the last layer's weight and bias the rows (n,) int64 of a class, by name; nothing if it has none."""
    device, _ = graph.device_and_dtype
    found: dict[str, Tensor] = {}
    for layer in graph.channels.layers:
        rows = np.flatnonzero(graph.units.class_of_channel[layer.channels] == target_class)
        if len(rows):
            found |= {name: torch.as_tensor(rows, device=device) for name in weights_of(graph, layer.value)}
    return found


def weights_of(graph: Graph, layer: Any) -> list[str]:
    """The names of a layer's weight and bias, as far as a module's state_dict holds them."""
    constants = (layer.given.weight, layer.given.bias)
    return [each.name for each in constants if each is not None and each.name in graph.learned]
