"""Where the weights of a module stand in the strong model's, and whose maps they read.

Both are found by cutting: what is cut out of weights that are their own numbers says where they came from, and gains
that are the numbers of units stand in the weights that read these units. So any network that can be cut has them.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from models.graph import Graph, GraphNetwork

NO_UNIT, FIRST_UNIT = 1, 2  # what stands for units in weights: 0 is what uneven groups are filled up with


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
        ones = {name: torch.full(value.shape, NO_UNIT, dtype=torch.float64) for name, value in real.items()}
        self._numbers = graph.with_constants(others | numbers)
        self._readers = graph.with_constants(others | ones)
        self._kernels = graph.with_constants(others | ones | _units_of_kernels(graph, ones))
        self._folds = graph.folds_gains

    def of(self, unit_mask: np.ndarray, target_class: int) -> dict[str, Tensor]:
        """Of each weight of a module its place in the strong model's, counted from 1, by name; 0: it is a filling."""
        return {name: value.long() for name, value in _weights(self._numbers.cut(unit_mask, target_class)).items()}

    def units_read(self, unit_mask: np.ndarray, target_class: int) -> dict[str, Tensor]:
        """Of each weight of a module the unit whose maps it multiplies, by name; -1: none that can be dropped.

        Of units that nothing with weights reads, such as those in front of a norm over channels, it is the weights of
        their own kernels. Weights that read no unit are left out.
        """
        gains = np.where(self._folds, np.arange(len(self._folds)) + FIRST_UNIT, NO_UNIT)
        found = _weights(self._readers.cut(unit_mask, target_class, gains))
        if not self._folds.all():
            made = _weights(self._kernels.cut(unit_mask, target_class))
            found = {name: torch.where(of_weight > NO_UNIT, of_weight, made[name]) for name, of_weight in found.items()}
        units = {name: (value.round().long() - FIRST_UNIT).clamp(min=-1) for name, value in found.items()}
        return {name: value for name, value in units.items() if (value >= 0).any()}

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


def _units_of_kernels(graph: Graph, ones: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of kernels that nothing with weights reads, with their units in place of values."""
    found = {}
    folds = np.append(graph.folds_gains, True)  # unit -1 finds the last one
    for layer in graph.units.layers:
        name, units = f"{layer.name}.weight", graph.units.unit_of_kernel[layer.kernels]
        if name in ones and not folds[units].all():
            of_kernels = torch.as_tensor(np.where(folds[units], NO_UNIT, units + FIRST_UNIT)).double()
            found[name] = of_kernels.view(-1, *[1] * (ones[name].dim() - 1)).expand_as(ones[name]).contiguous()
    return found


def _weights(network: GraphNetwork) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in network.named_parameters()}
