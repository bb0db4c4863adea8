"""From values to the program that computes them, in the way that is fastest on the device and for the dtype.

A convolution becomes a layer together with what can be done to its maps at once: ReLU, the addition of another map, 2x2
max-pooling. A value stands in memory as torch has it, in the compiled library's order, or, if it is read in both
orders, in both. A compiled layer needs the library's order. An operator that works channel by channel keeps the order
of its operands, and runs as torch's own operator. All others are torch's own operators in torch's order.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.graph.operators import on_lanes
from models.graph.operators.layers import padding_of
from models.graph.running import program_of
from models.graph.values import Constant, Value, needed, users_of

aten = torch.ops.aten
Pair = tuple[int, int]
NUMBERS = frozenset({"sym_size", "getitem"})  # they read no map


@dataclass
class FusedLayer:
    """A convolution, then in this order, each if it is asked for: ReLU, addition, ReLU of the sum, pooling.

    Attributes:
        maps: (n, channels, height, width).
        weight: (kernels, channels of a group, height, width).
        bias: (kernels,).
        values: those that are computed, from that behind the convolution to the layer's result.
        added: of the shape of the first of these.
    """

    maps: Value
    weight: Constant
    bias: Constant | None
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int
    values: list[Value]
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
        geometry = (self.maps.shape, self.values[0].shape, self.stride, self.padding, self.dilation, self.groups)
        ending = (self.relu, self.added is not None, self.relu_of_sum, self.pool)
        return (self.weight, self.bias, *geometry, *ending)


class Convolutions(ABC):
    """A way to convolve: how maps stand in memory, which is as torch has them by default, and layers for such maps.

    Attributes:
        lanes: how many images stand next to each other; 0: maps stand as torch has them.
    """

    lanes = 0

    @abstractmethod
    def batch_size(self, values: int) -> int:
        """The batch size for images whose largest feature maps have so many values each."""

    @abstractmethod
    def layer(self, layer: FusedLayer) -> Callable[..., Tensor] | None:
        """What computes a layer of its maps and, if it has one, of the map that is added: a new tensor each time.

        None of a layer that this way has no form for.
        """

    @abstractmethod
    def num_weights(self, layer: FusedLayer) -> int:
        """How many values a layer holds, without its bias."""

    def place(self, values: Tensor) -> Tensor:
        """Values (n, channels, ...) in this way's order of memory."""
        return values

    def unplace(self, values: Tensor, images: Tensor) -> Tensor:
        """Values in this way's order as (n, channels, ...) of as many images as `images` has."""
        return values


class Lowering:
    """Values while they become a program.

    Args:
        outputs: values (n, ...) of images (n, channels, height, width).
        way: how convolutions become fast.

    Attributes:
        program: what computes the outputs.
        left_to_torch: names of the operators on maps for which these maps leave the compiled library's order.
    """

    def __init__(self, outputs: Sequence[Value], way: Convolutions) -> None:
        self.left_to_torch: set[str] = set()
        self._way = way
        self._images = Value(0)
        self._written = [self._images]  # the program's values
        self._plain: dict[Value, Value] = {}  # by the outputs' values those that stand in torch's order
        self._placed: dict[Value, Value] = {}  # those that stand in the library's
        self._functions: dict[Hashable, Callable[..., Tensor] | None] = {}  # of layers, by their recipes
        values, layers, inside = fused(outputs)
        for value in values:
            if value in layers:
                self._layer(layers[value])
            elif value.target is not None and value not in inside:
                self._operator(value)
            elif value.target is None and not isinstance(value, Constant):
                self._plain[value] = self._images
        last = [self._in_torchs_order(value) for value in outputs]
        self.program = program_of(self._written, last)

    def _layer(self, layer: FusedLayer) -> None:
        recipe = layer.recipe  # what modules leave whole they have in common: its weights are laid out once
        if recipe not in self._functions:
            self._functions[recipe] = self._way.layer(layer)
        function = self._functions[recipe]
        if function is None:
            for value in layer.values:
                self._operator(value)
            return
        made, operand = self._plain, self._in_torchs_order
        if self._way.lanes:
            made, operand = self._placed, self._in_the_librarys_order
        operands = [layer.maps] if layer.added is None else [layer.maps, layer.added]
        made[layer.values[-1]] = self._write(Value(0, function, tuple(map(operand, operands))))

    def _operator(self, value: Value) -> None:
        is_placed = any(operand in self._placed for operand in value.operands)
        if is_placed and (found := on_lanes(value, self._way.lanes)):
            self._placed[value] = self._write(found.on(self._in_the_librarys_order))
        elif value.kind == "sym_size" and value.given.dim == 0:  # of any value the number of images
            self._plain[value] = self._write(Value(0, len, (self._images,)))
        else:
            if is_placed and (value.shape is None or len(value.shape) > 2) and value.kind not in NUMBERS:
                self.left_to_torch.add(value.kind)
            self._plain[value] = self._write(value.on(self._in_torchs_order))

    def _write(self, value: Value) -> Value:
        self._written.append(value)
        return value

    def _in_torchs_order(self, value: Value) -> Any:
        if isinstance(value, Constant):
            return value.compute()
        if value not in self._plain:
            self._plain[value] = self._write(Value(0, self._way.unplace, (self._placed[value], self._images)))
        return self._plain[value]

    def _in_the_librarys_order(self, value: Value) -> Any:
        if isinstance(value, Constant):
            return value.compute()
        if value not in self._placed:
            self._placed[value] = self._write(Value(0, self._way.place, (self._plain[value],)))
        return self._placed[value]


def fused(outputs: Collection[Value]) -> tuple[list[Value], dict[Value, FusedLayer], set[Value]]:
    """What some values are made of, the layers by their results, and what is not computed by itself: inside a layer.

    A value becomes part of a layer if nothing but the layer's next operator reads it.
    """
    values = needed(outputs)
    users, asked = users_of(values), set(outputs)
    layers: dict[Value, FusedLayer] = {}
    inside: set[Value] = set()
    for value in values:
        layer = layer_of(value)
        if layer is None:
            continue
        while (last := layer.values[-1]) not in asked and len(found := users[last]) == 1:
            if found[0] in layers or found[0] in inside or not _takes_in(layer, found[0]):
                break
            inside.add(last)
            layer.values.append(found[0])
        layers[last] = layer
    return values, layers, inside


def layer_of(value: Value) -> FusedLayer | None:
    """A convolution alone; None of what is no convolution of known numbers."""
    if value.target not in (aten.conv2d.default, aten.conv2d.padding):
        return None
    given = value.given
    maps, weight, bias = given.source, given.weight, given.bias
    if not isinstance(weight, Constant) or not isinstance(bias, Constant | None):
        return None
    if any(of is None or len(of) != 4 for of in (maps.shape, value.shape)):
        return None
    sides = padding_of(value)
    if sides is None:
        return None
    stride, padding, dilation = ((sizes[0], sizes[-1]) for sizes in (given.stride, sides, given.dilation))
    return FusedLayer(maps, weight, bias, stride, padding, dilation, given.groups, [value])


def _takes_in(layer: FusedLayer, value: Value) -> bool:
    """Let a layer do what comes next, too, if it can."""
    if layer.pool:
        return False
    if value.target is aten.relu.default:
        taken = not (layer.relu if layer.added is None else layer.relu_of_sum)
        layer.relu, layer.relu_of_sum = (True, False) if layer.added is None else (layer.relu, True)
        return taken
    if value.target is aten.add.Tensor and layer.added is None and (given := value.given).alpha == 1:
        others = [operand for operand in (given.source, given.other) if operand is not layer.values[-1]]
        if len(others) == 1 and type(others[0]) is Value and others[0].shape == layer.values[0].shape:
            (layer.added,) = others
            return True
    if is_halving(value) and not any(side % 2 for side in layer.values[0].shape[2:]):
        layer.pool = True
        return True
    return False


def is_halving(value: Value) -> bool:
    """Whether it is the maximum of 2x2 pixels."""
    if value.target is not aten.max_pool2d.default:
        return False
    given = value.given
    window = (*given.kernel_size, *(given.stride or given.kernel_size), *given.padding, *given.dilation)
    return (*window, given.ceil_mode) == (2, 2, 2, 2, 0, 0, 1, 1, False)
