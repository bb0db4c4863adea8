"""Straight-line code as it is run: functions in order, each on the results of earlier ones, let go when done with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from models.graph.arguments import read_last

IMAGES = 0  # the place of the images


@dataclass(frozen=True, slots=True)
class Step:
    """One function."""

    function: Callable[..., Any]
    operands: tuple[int, ...]  # places
    done_with: tuple[int, ...] = ()  # places that no later step reads


@dataclass
class Steps:
    """What is computed of images. The result of step i has place i + 1."""

    steps: list[Step] = field(default_factory=list)
    outputs: tuple[int, ...] = ()

    def add(self, function: Callable[..., Any], *operands: int) -> int:
        """One step more; the place of its result."""
        self.steps.append(Step(function, operands))
        return len(self.steps)

    def ended(self, outputs: Sequence[int]) -> "Steps":
        """The same with these places as outputs, and everything else let go behind its last use."""
        done_with, kept = read_last([step.operands for step in self.steps]), set(outputs)
        steps = [
            replace(step, done_with=tuple(place for place in places if place not in kept))
            for step, places in zip(self.steps, done_with, strict=True)
        ]
        return Steps(steps, tuple(outputs))

    def run(self, images: Tensor) -> list[Any]:
        """The outputs; may be called by several threads at a time."""
        values: list[Any] = [None] * (len(self.steps) + 1)
        values[IMAGES] = images
        for place, step in enumerate(self.steps, 1):
            values[place] = step.function(*[values[operand] for operand in step.operands])
            for operand in step.done_with:
                values[operand] = None
        return [values[place] for place in self.outputs]
