"""How large a module of a mask is, as a differentiable function of the mask: in kernels, and in FLOPs."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from models.graph.graph import Graph
from models.graph.units import Units

Size = Callable[[Tensor], Tensor]  # of a mask (units,) float, 1 = kept: a share of the strong model's, a scalar


def kernels_share(units: Units) -> Size:
    """The share of the K kernels that are kept; those that are always kept count, too."""
    of_units = torch.as_tensor(units.sizes).float()
    always_kept = units.num_kernels - int(units.sizes.sum())

    def share(mask: Tensor) -> Tensor:
        return (mask @ of_units.to(mask.device) + always_kept) / units.num_kernels

    return share


def flops_share(graph: Graph, target_class: int | None) -> Size:
    """The share of the strong model's floating-point operations that a class's module needs; None: with all logits.

    A layer's cost is in proportion to the product of the shares of its output and its input channels that are kept.
    Exact for networks of convolutions and linear layers that are called once each, but for grouped convolutions whose
    kernels are dropped one by one: their groups are filled up to even ones. What else costs something (attention,
    transposed convolutions, a layer's second call) is not in it.
    """
    units = graph.units
    readers = {reader.value: reader.channels for reader in graph.channels.readers}
    layers = []
    for layer in graph.channels.layers:
        shape, weight = layer.value.shape, layer.value.given.weight
        pixels = math.prod(shape[2:] if layer.value.given.weight.shape[2:] else shape[1:-1])
        of_class = units.class_of_channel[layer.channels]
        is_made = torch.as_tensor((of_class < 0) | (of_class == target_class) | (target_class is None)).float()
        is_mixed = layer.value in readers and (layer.groups == 1 or layer.name in graph.channels.freed)
        read = torch.as_tensor(units.unit_of_channel[readers[layer.value]]) if is_mixed else None
        made = torch.as_tensor(units.unit_of_channel[layer.channels])
        layers.append((pixels * math.prod(weight.shape), made, is_made, read))
    total = sum(cost for cost, *_ in layers)

    def share(mask: Tensor) -> Tensor:
        kept = torch.cat([mask, mask.new_ones(1)])  # unit -1 finds the last one
        costs = [
            cost * (kept[made] * is_made).mean() * (1 if read is None else kept[read].mean())
            for cost, made, is_made, read in layers
        ]
        return torch.stack(costs).sum() / total

    return share
