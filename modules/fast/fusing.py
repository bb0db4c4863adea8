"""Convolutions with what can be done to their maps at once: ReLU, the addition of another map, 2x2 max-pooling."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import torch

from models.graph.arguments import arguments
from models.graph.operators.layers import padding_of
from models.graph.values import Constant, Value

aten = torch.ops.aten
Pair = tuple[int, int]


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
    if value.target not in (aten.conv2d.default, aten.conv2d.padding):
        return None
    given = arguments(value)
    maps, weight, bias = given.source, given.weight, given.bias
    if not isinstance(weight, Constant) or not isinstance(bias, Constant | None):
        return None
    if any(of is None or len(of) != 4 for of in (maps.shape, value.shape)):
        return None
    padding = padding_of(given, weight.shape[2:])
    if padding is None:
        return None
    stride, padding, dilation = ((*pair, *pair)[:2] for pair in (given.stride, padding, given.dilation))
    return Layer(maps, weight, bias, stride, padding, dilation, given.groups, value, value)


def _takes_in(layer: Layer, value: Value) -> bool:
    """Let a layer do what comes next, too, if it can."""
    if layer.pool:
        return False
    if value.target is aten.relu.default:
        return _rectify(layer)
    if value.target is aten.add.Tensor and layer.added is None and (given := arguments(value)).alpha == 1:
        others = [operand for operand in (given.source, given.other) if operand is not layer.result]
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
    if value.target is not aten.max_pool2d.default:
        return False
    given = arguments(value)
    window = (*given.kernel_size, *(given.stride or given.kernel_size), *given.padding, *given.dilation)
    return (*window, given.ceil_mode) == (2, 2, 2, 2, 0, 0, 1, 1, False)
