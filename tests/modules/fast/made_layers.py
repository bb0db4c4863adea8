"""Layers with given weights, and what they are to compute."""

import torch
import torch.nn.functional as F
from torch import Tensor

from models.graph.values import Constant, Value
from modules.fast.lowering import FusedLayer


def made_layer(
    maps_shape: tuple[int, ...],
    weight: Tensor,
    bias: Tensor | None,
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    relu: bool = True,
    adds: bool = False,
    relu_of_sum: bool = False,
    pool: bool = False,
) -> FusedLayer:
    """A layer of maps (n, channels, height, width)."""
    geometry = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    convolved = Value(3, shape=tuple(F.conv2d(torch.zeros(maps_shape), weight.float(), **geometry).shape))
    return FusedLayer(
        Value(0, shape=tuple(maps_shape)),
        Constant(1, shape=tuple(weight.shape), name="weight", compute=lambda: weight),
        None if bias is None else Constant(2, shape=tuple(bias.shape), name="bias", compute=lambda: bias),
        values=[convolved],
        relu=relu,
        added=Value(4, shape=convolved.shape) if adds else None,
        relu_of_sum=relu_of_sum,
        pool=pool,
        **geometry,
    )


def expected(layer: FusedLayer, maps: Tensor, added: Tensor | None = None) -> Tensor:
    """What the layer is to compute, in float64."""
    bias = None if layer.bias is None else layer.bias.compute().double()
    found = F.conv2d(
        maps.double(), layer.weight.compute().double(), bias, layer.stride, layer.padding, layer.dilation, layer.groups
    )
    found = F.relu(found) if layer.relu else found
    found = found if added is None else found + added.double()
    found = F.relu(found) if layer.relu_of_sum else found
    return F.max_pool2d(found, 2) if layer.pool else found


def tolerance(layer: FusedLayer, maps: Tensor, added: Tensor | None = None) -> float:
    """How far a float32 result may be from `expected`: 64 roundings of the largest sum of absolute values.

    A 3x3 layer works on transformed tiles, whose values are larger than the result: errors of 13 roundings occur.
    """
    bias = None if layer.bias is None else layer.bias.compute().abs()
    sums = F.conv2d(
        maps.abs(), layer.weight.compute().abs(), bias, layer.stride, layer.padding, layer.dilation, layer.groups
    )
    largest = float((sums if added is None else sums + added.abs()).max())
    return 64 * torch.finfo(torch.float32).eps * largest
