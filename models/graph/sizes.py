"""How large a module of a mask is, as a differentiable function of the mask: in kernels, and in FLOPs."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from models.graph.graph import Graph
from models.graph.tracing import TRACED_IMAGES, WEIGHTED
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
    What else costs something (attention, transposed convolutions) counts whole. Exact for networks of convolutions and
    linear layers, but for grouped convolutions whose kernels are dropped one by one: their groups are filled up to even
    ones.
    """
    units = graph.units
    readers = {reader.value: reader.channels for reader in graph.channels.readers}
    layer_of = {layer.value.given.weight: layer for layer in graph.channels.layers}
    calls = []
    for value in graph.values:
        if value.kind not in WEIGHTED or value.given.weight not in layer_of:
            continue
        layer, weight = layer_of[value.given.weight], value.given.weight
        pixels = math.prod(value.shape) / len(layer.channels) / TRACED_IMAGES
        of_class = units.class_of_channel[layer.channels]
        is_made = torch.as_tensor((of_class < 0) | (of_class == target_class) | (target_class is None)).float()
        is_mixed = value in readers and (layer.groups == 1 or layer.name in graph.channels.freed)
        read = torch.as_tensor(units.unit_of_channel[readers[value]]) if is_mixed else None
        made = torch.as_tensor(units.unit_of_channel[layer.channels])
        calls.append((pixels * math.prod(weight.shape), made, is_made, read))
    total = graph.flops / 2  # multiply-accumulates, as the costs of calls
    of_others = total - sum(cost for cost, *_ in calls)

    def share(mask: Tensor) -> Tensor:
        kept = torch.cat([mask, mask.new_ones(1)])  # unit -1 finds the last one
        costs = [
            cost * (kept[made] * is_made).mean() * (1 if read is None else kept[read].mean())
            for cost, made, is_made, read in calls
        ]
        return (torch.stack(costs).sum() + of_others) / total

    return share
