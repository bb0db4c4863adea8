"""From values to the steps that compute them, in the way that is fastest on the device and for the dtype.

A value stands in memory as torch has it, or in the compiled library's order, or in both where somebody reads it so. A
compiled layer wants the library's order. What works channel by channel takes it where it finds it, by torch's own
operator. All else is torch's own operator in torch's own order.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from torch import Tensor

from models.graph.arguments import arguments, replaced
from models.graph.atoms import function_name
from models.graph.operators import on_lanes
from models.graph.running import IMAGES, Place, Program, Writer
from models.graph.values import Constant, Value, needed
from modules.fast.convolution import Convolutions
from modules.fast.fusing import Layer, fused

NUMBERS = frozenset({"sym_size", "getitem"})  # they read no map


def lower(outputs: Sequence[Value], way: Convolutions) -> Program:
    """The program that computes values (n, ...) of images (n, channels, height, width)."""
    return Lowering(outputs, way).program


def left_to_torch(outputs: Sequence[Value], way: Convolutions) -> frozenset[str]:
    """The operators on maps for which these maps leave the compiled library's order."""
    return frozenset(Lowering(outputs, way).left_to_torch)


class Lowering:
    """Values while they become a program.

    Attributes:
        program: what was made.
        left_to_torch: names of operators on maps that have no compiled form.
    """

    def __init__(self, outputs: Sequence[Value], way: Convolutions) -> None:
        self.left_to_torch: set[str] = set()
        self._way = way
        self._writer = Writer()
        self._places: dict[Value, Place] = {}  # in torch's order
        self._placed: dict[Value, Place] = {}  # in the library's
        self._functions: dict[Hashable, Callable[..., Tensor] | None] = {}  # of layers, by their recipes
        values = needed(outputs)
        layers, inside = fused(values, outputs)
        for value in values:
            if value.target is None:
                if not isinstance(value, Constant):
                    self._places[value] = IMAGES
            elif value in layers:
                self._layer(layers[value])
            elif value not in inside:
                self._operator(value)
        self.program = self._writer.ended([self._place(value) for value in outputs])

    def _place(self, value: Value) -> Place:
        """Where a value stands in torch's order."""
        if value not in self._places:
            self._places[value] = self._writer.step(self._way.unplace, self._placed[value], IMAGES)
        return self._places[value]

    def _placed_at(self, value: Value) -> Place:
        """Where a value stands in the library's order."""
        if value not in self._placed:
            self._placed[value] = self._writer.step(self._way.place, self._places[value])
        return self._placed[value]

    def _layer(self, layer: Layer) -> None:
        recipe = layer.recipe  # what modules leave whole they have in common: its weights are laid out once
        if recipe not in self._functions:
            self._functions[recipe] = self._way.layer(layer)
        function = self._functions[recipe]
        if function is None:
            for value in _unfused(layer):
                self._operator(value)
            return
        places, at = (self._placed, self._placed_at) if self._way.lanes else (self._places, self._place)
        operands = [layer.maps] if layer.added is None else [layer.maps, layer.added]
        places[layer.result] = self._writer.step(function, *map(at, operands))

    def _operator(self, value: Value) -> None:
        operands = [operand for operand in value.operands if not isinstance(operand, Constant)]
        is_placed = any(operand in self._placed for operand in operands)
        if is_placed and (call := on_lanes(value, self._way.lanes)):
            function, args, kwargs = call
            self._placed[value] = self._step(function, args, kwargs, self._placed_at)
            return
        name = function_name(value.target)
        if name == "sym_size" and arguments(value).dim == 0:  # of any value the number of images
            self._places[value] = self._writer.step(len, IMAGES)
            return
        is_of_maps = value.shape is None or len(value.shape) > 2
        if is_placed and is_of_maps and name not in NUMBERS:
            self.left_to_torch.add(name)
        self._places[value] = self._step(value.target, value.args, value.kwargs, self._place)

    def _step(
        self, function: Callable[..., Any], args: tuple, kwargs: Mapping[str, Any], at: Callable[[Value], Place]
    ) -> Place:
        """Write a step whose operands stand where `at` says."""

        def operand(value: Value) -> Place | Tensor:
            return value.compute() if isinstance(value, Constant) else at(value)

        args, kwargs = replaced((args, kwargs), Value, operand)
        return self._writer.step(function, *args, **kwargs)


def _unfused(layer: Layer) -> list[Value]:
    """A layer's operators one by one."""
    found, missing = [layer.result], layer.result
    while missing is not layer.convolved:
        before = [value for value in missing.operands if value is not layer.added and not isinstance(value, Constant)]
        (missing,) = before
        found.append(missing)
    return found[::-1]
