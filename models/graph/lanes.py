"""Operators that work channel by channel, on the maps of several images at once.

In a compiled library's order of memory the same channel of several images ("lanes") is next to each other. For torch
such values (n, channels, ...) are values (blocks, channels * lanes, ...), and what works channel by channel is the same
operator on them; what counts channels counts `lanes` times as many.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from models.graph.arguments import replaced, with_arguments
from models.graph.values import Constant, Value

Call = tuple[Callable[..., Any], tuple, Mapping[str, Any]]  # a function, and arguments with values and tensors in them


def same(value: Value, shape: tuple[int, ...] = (), lanes: int = 0) -> Call:
    """The operator as it is."""
    return value.target, value.args, value.kwargs


def changed(value: Value, **changes: Any) -> Call:
    """The operator with some arguments changed, by name."""
    return value.target, *with_arguments(value, **changes)


def with_constants(value: Value, constants: Mapping[Constant, Tensor]) -> Call:
    """The operator with tensors instead of constants."""
    args, kwargs = replaced((value.args, value.kwargs), Value, lambda given: constants.get(given, given))
    return value.target, args, kwargs


def per_channel(value: Value, shape: tuple[int, ...], lanes: int) -> Call:
    """An operator whose constants have one value for each channel, or one for all."""
    constants = {}
    for constant in value.operands:
        if isinstance(constant, Constant):
            found = constant.compute()
            constants[constant] = found.repeat_interleave(lanes) if found.numel() == shape[1] else found
    return with_constants(value, constants)
