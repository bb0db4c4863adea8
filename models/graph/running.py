"""The one interpreter of graphs: plain, with masks in front of readers, with layers in place of nodes, observed.

A graph becomes a program, a list of steps that hold no nodes, so that it can be copied; a step's operands are places in
a list of values, which are let go behind their last use.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from models.graph.arguments import read_last, replaced
from models.graph.atoms import is_constant
from models.graph.values import Constant, Value, needed


@dataclass(frozen=True)
class Place:
    """An operand: where its value stands."""

    number: int


@dataclass(frozen=True)
class Factors:
    """Which units' factors stand in front of a reader."""

    source: int  # the place of what is read
    dim: int  # of the source: its row of channels
    units: np.ndarray  # (shape[dim],) int64; -1: always kept
    num_dims: int  # of the source


@dataclass(frozen=True)
class Step:
    """One operator."""

    name: str  # the node's
    place: int  # of its result
    function: Callable[..., Any]
    args: tuple
    kwargs: dict[str, Any]
    done_with: tuple[int, ...]  # places that no later step reads
    factors: Factors | None = None


@dataclass(frozen=True)
class Program:
    """A graph as it is run."""

    num_places: int
    images: int  # the place of the images
    logits: int
    constants: tuple[tuple[int, str], ...]  # places and names
    steps: tuple[Step, ...]

    def run(
        self,
        images: Tensor,
        constants: Sequence[Tensor],
        *,
        factors: Tensor | None = None,
        layers: Mapping[str, Callable[..., Any]] | None = None,
        observe: Mapping[str, Callable[[Any], None]] | None = None,
    ) -> Tensor:
        """Logits (n, classes) of images (n, channels, side, side).

        Args:
            images: of the constants' dtype and device.
            constants: the values of `self.constants`, in that order.
            factors: (units,) or (n, units), of the images' dtype: what each unit's maps are multiplied by where they
                are read, 0 = dropped.
            layers: by node names, what is called in place of the operator, with its arguments. A reader's is given
                its source as it is and, as `factors`, those that belong in front of it (1 or n, channels), or None.
                Operators that read no units (the first layer) are given no `factors`.
            observe: by node names, what is called with the node's value.
        """
        layers, observe = layers or {}, observe or {}
        masked = None if factors is None else MaskedValues(factors)
        values: list[Any] = [None] * self.num_places
        values[self.images] = images
        for (place, _), constant in zip(self.constants, constants, strict=True):
            values[place] = constant

        def value_at(place: Place) -> Any:
            return values[place.number]

        for step in self.steps:
            args = replaced(list(step.args), Place, value_at)
            kwargs = replaced(step.kwargs, Place, value_at)
            in_front = step.factors if masked is not None else None
            if step.name in layers:
                if step.factors is not None:
                    kwargs["factors"] = masked.of(in_front) if in_front else None
                value = layers[step.name](*args, **kwargs)
            else:
                if in_front:
                    args[0] = masked.value(in_front, args[0])
                value = step.function(*args, **kwargs)
            if step.name in observe:
                observe[step.name](value)
            values[step.place] = value
            for place in step.done_with:
                values[place] = None
                if masked is not None:
                    masked.forget(place)
            del args, kwargs, value
        return values[self.logits]


class MaskedValues:
    """Values times factors, each of them once for all that read it."""

    def __init__(self, factors: Tensor) -> None:
        ones = factors.new_ones(*factors.shape[:-1], 1)
        self._factors = torch.cat([factors, ones], -1)  # unit -1, always kept, finds the last one
        self._made: dict[int, Tensor] = {}

    def of(self, in_front: Factors) -> Tensor:
        """The factors (1 or n, channels) of a reader's source."""
        index = torch.as_tensor(in_front.units % self._factors.shape[-1], device=self._factors.device)
        return self._factors.index_select(-1, index).view(-1, len(index))

    def value(self, in_front: Factors, source: Tensor) -> Tensor:
        """The source times its factors."""
        if in_front.source not in self._made:
            factors = self.of(in_front)
            shape = [len(factors), *[1] * (in_front.num_dims - 1)]
            shape[in_front.dim] = factors.shape[1]
            self._made[in_front.source] = source * factors.view(shape)
        return self._made[in_front.source]

    def forget(self, place: int) -> None:
        """A value that is not read any more."""
        self._made.pop(place, None)


def program_of(nodes: fx.Graph, readers: Iterable[tuple[fx.Node, fx.Node, int, np.ndarray]] = ()) -> Program:
    """The program of a plain graph.

    Args:
        nodes: the graph: one placeholder, constants, operators, one output.
        readers: (reader, source, dim, units) of those in front of which factors stand.
    """
    place_of = {node: number for number, node in enumerate(nodes.nodes)}
    done_with = read_last([node.all_input_nodes for node in nodes.nodes])
    in_front = {
        reader: Factors(place_of[source], dim, units, len(source.meta["shape"]))
        for reader, source, dim, units in readers
    }

    def places(given: Any) -> Any:
        return replaced(given, fx.Node, lambda node: Place(place_of[node]))

    steps, constants = [], []
    images = logits = 0
    for node, number in place_of.items():
        if node.op == "placeholder":
            images = number
        elif node.op == "output":
            logits = place_of[node.args[0]]
        elif is_constant(node):
            constants.append((number, node.target))
        else:
            steps.append(
                Step(
                    node.name,
                    number,
                    node.target,
                    places(node.args),
                    places(node.kwargs),
                    tuple(place_of[read] for read in done_with[number] if not is_constant(read)),
                    in_front.get(node),
                )
            )
    return Program(len(place_of), images, logits, tuple(constants), tuple(steps))


def program_of_code(logits: Value, names: Mapping[Constant, str]) -> Program:
    """The program that computes one value of straight-line code.

    Args:
        logits: the value.
        names: of the constants that it needs.
    """
    values = needed([logits])
    place_of = {value: place for place, value in enumerate(values)}
    done_with = read_last([value.operands for value in values])

    def places(given: Any) -> Any:
        return replaced(given, Value, lambda value: Place(place_of[value]))

    steps = [
        Step(
            f"value_{number}",
            number,
            value.function,
            places(value.args),
            places(value.kwargs),
            tuple(place_of[read] for read in done_with[number] if not isinstance(read, Constant)),
        )
        for value, number in place_of.items()
        if value.function is not None
    ]
    constants = tuple((number, names[value]) for value, number in place_of.items() if isinstance(value, Constant))
    return Program(len(values), 0, place_of[logits], constants, tuple(steps))
