"""What operators are given: nodes, values or places in containers; and which of them is read last where."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, TypeVar

Operand = TypeVar("Operand", bound=Hashable)


def replaced(arg: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """An argument with something else in the place of everything of one kind; its containers become Python's own."""
    if isinstance(arg, kind):
        return change(arg)
    if isinstance(arg, list):
        return [replaced(part, kind, change) for part in arg]
    if isinstance(arg, tuple):
        return tuple([replaced(part, kind, change) for part in arg])
    if isinstance(arg, dict):
        return {name: replaced(part, kind, change) for name, part in arg.items()}
    return arg


def read_last(operands: Sequence[Iterable[Operand]]) -> list[list[Operand]]:
    """Of each step what no later one reads, to be let go behind it; `operands` says what each step reads."""
    last_step = {operand: step for step, of_step in enumerate(operands) for operand in of_step}
    found: list[list[Operand]] = [[] for _ in operands]
    for operand, step in last_step.items():
        found[step].append(operand)
    return found
