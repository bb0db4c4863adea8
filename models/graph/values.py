"""Straight-line code as numbered values: what is made of the same operands by the same operator is one value.

Several networks that are written into the same code share what they have in common, wherever it stands. The method is
value numbering (Cocke and Schwartz, Programming Languages and Their Compilers, 1970).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(eq=False, slots=True)
class Value:
    """The images, a constant, or what an operator makes of its arguments, which are values and plain things."""

    number: int
    target: Callable[..., Any] | None = None  # the operator; None of the images and of constants
    args: tuple = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    operands: tuple["Value", ...] = ()  # the values among the arguments, in order, each once
    shape: tuple[int, ...] | None = None  # of two images; None where it is not known, or not one tensor


@dataclass(eq=False, slots=True)
class Constant(Value):
    """A tensor that does not depend on the images, made when it is needed."""

    name: str = ""  # of what it is made of
    compute: Callable[[], Tensor] | None = None


class Code:
    """Values in the order in which they are made; the first one is the images."""

    def __init__(self) -> None:
        self.images = Value(0)
        self.values: list[Value] = [self.images]
        self._known: dict[Any, Value] = {}

    def call(self, target: Callable[..., Any], args: tuple, kwargs: Mapping[str, Any] | None = None) -> Value:
        """What an operator makes of its arguments."""
        operands: dict[Value, None] = {}
        key = (target, _key(args, operands), _key(tuple(kwargs.items()), operands) if kwargs else ())
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = Value(len(self.values), target, args, kwargs or {}, tuple(operands))
            self.values.append(found)
        return found

    def constant(self, name: str, key: tuple, shape: tuple[int, ...], compute: Callable[[], Tensor]) -> Constant:
        """A constant; `name` and `key` say together how it is made."""
        found = self._known.get((name, key))
        if found is None:
            found = Constant(len(self.values), shape=shape, name=name, compute=compute)
            self._known[name, key] = found
            self.values.append(found)
        return found


def needed(values: Iterable[Value]) -> list[Value]:
    """These values and all that they are made of, in the order in which they are made."""
    found: dict[int, Value] = {}
    missing = list(values)
    while missing:
        value = missing.pop()
        if value.number not in found:
            found[value.number] = value
            missing.extend(value.operands)
    return [found[number] for number in sorted(found)]


def _key(arg: Any, operands: dict[Value, None]) -> Any:
    """What tells arguments apart; adds the values in them to `operands`.

    1, 1.0 and True are different, and so are 0.0 and -0.0.
    """
    if isinstance(arg, Value):
        operands[arg] = None
        return arg
    if isinstance(arg, list | tuple):
        return tuple([_key(part, operands) for part in arg])
    return type(arg), repr(arg) if isinstance(arg, float) else arg
