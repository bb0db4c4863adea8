"""The one interpreter: programs, with masks in front of readers, and values observed.

A graph, a network that was cut out of one, and the modules of a population become programs. A program is a list of
steps without values, so that it can be copied; a step's operands are places in a list, which are let go behind their
last use.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.graph.values import Constant, Value, replaced


@dataclass(frozen=True, slots=True)
class Place:
    """An operand: where its value stands."""

    number: int


IMAGES = Place(0)


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

    name: str  # the value's
    place: int  # of its result
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    done_with: tuple[int, ...] = ()  # places that no later step reads
    factors: Factors | None = None


@dataclass(frozen=True)
class Program:
    """What is computed of images; may be run by several threads at a time."""

    num_places: int
    outputs: tuple[int, ...]  # places
    constants: tuple[tuple[int, str], ...]  # places and names
    steps: tuple[Step, ...]

    def run(
        self,
        images: Tensor,
        constants: Sequence[Tensor] = (),
        *,
        factors: Tensor | None = None,
        observe: Mapping[str, Callable[[Any], None]] | None = None,
    ) -> list[Any]:
        """The outputs for images (n, channels, side, side); of a graph they are one, the logits (n, classes).

        Args:
            images: of the constants' dtype and device.
            constants: the values of `self.constants`, in that order.
            factors: (units,) or (n, units), of the images' dtype: what each unit's maps are multiplied by where they
                are read, 0 = dropped.
            observe: by operators' names, what is called with their values.
        """
        observe = observe or {}
        masked = None if factors is None else MaskedValues(factors)
        values: list[Any] = [None] * self.num_places
        values[IMAGES.number] = images
        for (place, _), constant in zip(self.constants, constants, strict=True):
            values[place] = constant

        def value_at(place: Place) -> Any:
            return values[place.number]

        for step in self.steps:
            args = replaced(list(step.args), Place, value_at)
            kwargs = replaced(step.kwargs, Place, value_at)
            if step.factors is not None and masked is not None:
                args[0] = masked.value(step.factors, args[0])
            value = step.function(*args, **kwargs)
            if step.name in observe:
                observe[step.name](value)
            values[step.place] = value
            for place in step.done_with:
                values[place] = None
                if masked is not None:
                    masked.forget(place)
            del args, kwargs, value
        return [values[place] for place in self.outputs]


class MaskedValues:
    """Values times factors, each of them once for all that read it."""

    def __init__(self, factors: Tensor) -> None:
        ones = factors.new_ones(*factors.shape[:-1], 1)
        self._factors = torch.cat([factors, ones], -1)  # unit -1, always kept, finds the last one
        self._made: dict[int, Tensor] = {}

    def value(self, in_front: Factors, source: Tensor) -> Tensor:
        """The source times its factors."""
        if in_front.source not in self._made:
            index = torch.as_tensor(in_front.units % self._factors.shape[-1], device=self._factors.device)
            factors = self._factors.index_select(-1, index).view(-1, len(index))
            shape = [len(factors), *[1] * (in_front.num_dims - 1)]
            shape[in_front.dim] = factors.shape[1]
            self._made[in_front.source] = source * factors.view(shape).to(source.dtype)
        return self._made[in_front.source]

    def forget(self, place: int) -> None:
        """A value that is not read any more."""
        self._made.pop(place, None)


def read_last(operands: Iterable[Iterable[Hashable]]) -> list[list[Any]]:
    """Of each step what no later one reads, to be let go behind it; `operands` says what each step reads."""
    of_steps = list(operands)
    last_step = {operand: step for step, of_step in enumerate(of_steps) for operand in of_step}
    found: list[list[Any]] = [[] for _ in of_steps]
    for operand, step in last_step.items():
        found[step].append(operand)
    return found


def program_of(
    values: Sequence[Value],
    outputs: Sequence[Value],
    readers: Iterable[tuple[Value, Value, int, np.ndarray]] = (),
    names: Mapping[Constant, str] | None = None,
) -> Program:
    """The program that computes some values; everything else is let go behind its last use.

    Args:
        values: these and all that they are made of, in order.
        outputs: those that are asked for.
        readers: (reader, source, dim, units) of those in front of which factors stand.
        names: of the constants, by which a program is given them; None: their own.
    """
    in_front = {reader: (source, dim, units) for reader, source, dim, units in readers if (units >= 0).any()}
    places: dict[Value, Place] = {}
    constants: list[tuple[int, str]] = []
    steps: list[Step] = []
    computed = [value for value in values if value.target is not None]
    done_with = dict(zip(computed, read_last(value.operands for value in computed), strict=True))
    stay = {*outputs, *(value for value in values if isinstance(value, Constant))}
    for value in values:
        place = 1 + len(constants) + len(steps)
        if isinstance(value, Constant):
            constants.append((place, names[value] if names else value.name))
        elif value.target is None:
            place = IMAGES.number
        else:
            args, kwargs = replaced((value.args, value.kwargs), Value, places.__getitem__)
            factors = None
            if value in in_front:
                source, dim, units = in_front[value]
                factors = Factors(places[source].number, dim, units, len(source.shape))
            done = tuple(places[operand].number for operand in done_with[value] if operand not in stay)
            steps.append(Step(value.name, place, value.function, args, kwargs, done, factors))
        places[value] = Place(place)
    last = tuple(places[output].number for output in outputs)
    return Program(1 + len(constants) + len(steps), last, tuple(constants), tuple(steps))
