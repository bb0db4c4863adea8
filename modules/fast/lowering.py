"""From values to the steps that compute them, in the way that is fastest on the device and for the dtype.

A value stands in memory as torch has it, or in the compiled library's order, or in both where somebody reads it so. A
compiled layer wants the library's order. What works channel by channel takes it where it finds it, by torch's own
operator. All else is torch's own operator in torch's own order.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from torch import Tensor

from models.graph.arguments import replaced
from models.graph.atoms import function_name
from models.graph.values import Constant, Value, needed
from modules.fast.by_channel import by_channel
from modules.fast.convolution import Convolutions
from modules.fast.fusing import Layer, fused
from modules.fast.steps import IMAGES, Steps

NUMBERS = frozenset({"sym_size", "getitem"})  # they read no map


def lower(outputs: Sequence[Value], way: Convolutions) -> Steps:
    """The steps that compute values (n, ...) of images (n, channels, height, width)."""
    return Lowering(outputs, way).steps


def left_to_torch(outputs: Sequence[Value], way: Convolutions) -> frozenset[str]:
    """The operators on maps for which these maps leave the compiled library's order."""
    return frozenset(Lowering(outputs, way).left_to_torch)


class Lowering:
    """Values while they become steps.

    Attributes:
        steps: what was made.
        left_to_torch: names of operators on maps that have no compiled form.
    """

    def __init__(self, outputs: Sequence[Value], way: Convolutions) -> None:
        self.left_to_torch: set[str] = set()
        self._way = way
        self._steps = Steps()
        self._places: dict[Value, int] = {}  # in torch's order
        self._placed: dict[Value, int] = {}  # in the library's
        self._functions: dict[Hashable, Callable[..., Tensor] | None] = {}  # of layers, by their recipes
        values = needed(outputs)
        layers, inside = fused(values, outputs)
        for value in values:
            if value.function is None:
                if not isinstance(value, Constant):
                    self._places[value] = IMAGES
            elif value in layers:
                self._layer(layers[value])
            elif value not in inside:
                self._operator(value)
        self.steps = self._steps.ended([self._place(value) for value in outputs])

    def _place(self, value: Value) -> int:
        """Where a value stands in torch's order."""
        if value not in self._places:
            self._places[value] = self._steps.add(self._way.unplace, self._placed[value], IMAGES)
        return self._places[value]

    def _placed_at(self, value: Value) -> int:
        """Where a value stands in the library's order."""
        if value not in self._placed:
            self._placed[value] = self._steps.add(self._way.place, self._places[value])
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
        places[layer.result] = self._steps.add(function, *map(at, operands))

    def _operator(self, value: Value) -> None:
        operands = [operand for operand in value.operands if not isinstance(operand, Constant)]
        is_placed = any(operand in self._placed for operand in operands)
        if is_placed and (call := by_channel(value, self._way.lanes)):
            self._placed[value] = self._steps.add(_bound(operands, *call), *map(self._placed_at, operands))
            return
        if function_name(value.function) == "sym_size" and value.args[1] == 0:  # of any value the number of images
            self._places[value] = self._steps.add(len, IMAGES)
            return
        is_of_maps = value.shape is None or len(value.shape) > 2
        if is_placed and is_of_maps and function_name(value.function) not in NUMBERS:
            self.left_to_torch.add(function_name(value.function))
        constants = {given: given.compute() for given in value.operands if isinstance(given, Constant)}

        def change(given: Value) -> Any:
            return constants.get(given, given)

        args, kwargs = (replaced(given, Value, change) for given in (value.args, value.kwargs))
        function = _bound(operands, value.function, args, kwargs)
        self._places[value] = self._steps.add(function, *map(self._place, operands))


def _unfused(layer: Layer) -> list[Value]:
    """A layer's operators one by one."""
    found, missing = [layer.result], layer.result
    while missing is not layer.convolved:
        before = [value for value in missing.operands if value is not layer.added and not isinstance(value, Constant)]
        (missing,) = before
        found.append(missing)
    return found[::-1]


def _bound(
    operands: list[Value], function: Callable[..., Any], args: tuple, kwargs: dict[str, Any]
) -> Callable[..., Any]:
    """A function of the operands' tensors, whatever its other arguments are."""
    number_of = {operand: number for number, operand in enumerate(operands)}

    def run(*tensors: Tensor) -> Any:
        def change(value: Value) -> Any:
            return tensors[number_of[value]]

        return function(*replaced(args, Value, change), **replaced(kwargs, Value, change))

    return run
