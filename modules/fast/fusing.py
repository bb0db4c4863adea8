"""Convolutions with what can be done to their maps at once: ReLU, the addition of another map, 2x2 max-pooling."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch

from models.graph.values import Constant, Value

aten = torch.ops.aten
Pair = tuple[int, int]
POOL_DEFAULTS = ([], [], [0, 0], [1, 1], False)  # of torch's max_pool2d, from its size on


@dataclass
class Layer:
    """A convolution, then in this order, each where it is asked for: ReLU, addition, ReLU of the sum, pooling.

    Attributes:
        maps: (n, channels, height, width).
        weight: (kernels, channels of a group, height, width).
        bias: (kernels,).
        convolved, result: the value behind the convolution and that at the end.
        added: of the shape of `convolved`.
    """

    maps: Value
    weight: Constant
    bias: Constant | None
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int
    convolved: Value
    result: Value
    relu: bool = False
    added: Value | None = None
    relu_of_sum: bool = False
    pool: bool = False

    @property
    def is_three_by_three(self) -> bool:
        """Whether it is a 3x3 convolution with stride and padding 1 on square maps."""
        shape = self.maps.shape
        one = (1, 1)
        is_plain = self.groups == 1 and (self.stride, self.padding, self.dilation) == (one, one, one)
        return is_plain and self.weight.shape[2:] == (3, 3) and shape[2] == shape[3]

    @property
    def recipe(self) -> tuple[Hashable, ...]:
        """All but the maps themselves: layers of one recipe do the same to maps of one shape."""
        geometry = (self.maps.shape, self.convolved.shape, self.stride, self.padding, self.dilation, self.groups)
        ending = (self.relu, self.added is not None, self.relu_of_sum, self.pool)
        return (self.weight, self.bias, *geometry, *ending)


def fused(values: Sequence[Value], outputs: Iterable[Value]) -> tuple[dict[Value, Layer], set[Value]]:
    """The layers by their results, and what is not computed by itself then: it is inside a layer.

    A value becomes part of a layer if nothing but the layer's next operator reads it.

    Args:
        values: in the order in which they are made.
        outputs: those that are asked for.
    """
    users: dict[Value, list[Value]] = {}
    for value in values:
        for operand in value.operands:
            users.setdefault(operand, []).append(value)
    asked = set(outputs)
    layers: dict[Value, Layer] = {}
    inside: set[Value] = set()
    for value in values:
        layer = layer_of(value)
        if layer is None:
            continue
        while layer.result not in asked and len(found := users.get(layer.result, [])) == 1:
            if found[0] in layers or found[0] in inside or not _takes_in(layer, found[0]):
                break
            inside.add(layer.result)
            layer.result = found[0]
        layers[layer.result] = layer
    return layers, inside


def layer_of(value: Value) -> Layer | None:
    """A convolution alone; None of what is no convolution of known numbers."""
    if value.function not in (aten.conv2d.default, aten.conv2d.padding):
        return None
    maps, weight, bias, stride, padding, dilation, groups = _arguments(value)
    if not isinstance(weight, Constant) or not isinstance(bias, Constant | None):
        return None
    if any(of is None or len(of) != 4 for of in (maps.shape, value.shape)):
        return None
    if isinstance(padding, str):
        reach = [d * (size - 1) for d, size in zip(dilation, weight.shape[2:], strict=True)]
        if padding == "same" and any(pixels % 2 for pixels in reach):
            return None
        padding = [pixels // 2 for pixels in reach] if padding == "same" else [0, 0]
    stride, padding, dilation = ((*given, *given)[:2] for given in (stride, padding, dilation))
    return Layer(maps, weight, bias, stride, padding, dilation, groups, value, value)


def _arguments(value: Value) -> list[Any]:
    given = list(value.args)
    for argument in value.function._schema.arguments[len(given) :] if value.kwargs else ():
        given.append(value.kwargs.get(argument.name))
    default = [None, None, None, [1, 1], [0, 0], [1, 1], 1]
    return [of_torch if place is None else place for place, of_torch in zip_longest(given, default)]


def _takes_in(layer: Layer, value: Value) -> bool:
    """Let a layer do what comes next, too, if it can."""
    if layer.pool:
        return False
    if value.function is aten.relu.default:
        return _rectify(layer)
    if value.function is aten.add.Tensor and len(value.args) == 2 and not value.kwargs and layer.added is None:
        others = [arg for arg in value.args if arg is not layer.result]
        if len(others) == 1 and type(others[0]) is Value and others[0].shape == layer.convolved.shape:
            (layer.added,) = others
            return True
    if is_halving(value) and not any(side % 2 for side in layer.convolved.shape[2:]):
        layer.pool = True
        return True
    return False


def _rectify(layer: Layer) -> bool:
    if layer.added is not None:
        taken, layer.relu_of_sum = not layer.relu_of_sum, True
    else:
        taken, layer.relu = not layer.relu, True
    return taken


def is_halving(value: Value) -> bool:
    """Whether it is the maximum of 2x2 pixels."""
    if value.function is not aten.max_pool2d.default or value.kwargs:
        return False
    size, stride, padding, dilation, up = (*value.args[1:], *POOL_DEFAULTS[len(value.args) - 1 :])
    return [*size, *(stride or size), *padding, *dilation, up] == [2, 2, 2, 2, 0, 0, 1, 1, False]
