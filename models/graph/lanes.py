"""Operators that work channel by channel, in the compiled library's order of memory.

There the values of one channel for several images ("lanes") are next to each other. For torch, values (n, channels,
...) are then values (blocks, channels * lanes, ...). An operator that works channel by channel is the same operator on
them, with numbers of channels multiplied by `lanes`.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from models.graph.arguments import replaced, with_arguments
from models.graph.values import Constant, Value

# A function and its arguments, with values and tensors in them
LaneCall = tuple[Callable[..., Any], tuple, Mapping[str, Any]]


def same(value: Value, shape: tuple[int, ...] = (), lanes: int = 0) -> LaneCall:
    """The same call."""
    return value.target, value.args, value.kwargs


def changed(value: Value, **changes: Any) -> LaneCall:
    """The same call with some arguments changed, by name."""
    return value.target, *with_arguments(value, **changes)


def with_constants(value: Value, constants: Mapping[Constant, Tensor]) -> LaneCall:
    """The same call with tensors instead of constants."""
    args, kwargs = replaced((value.args, value.kwargs), Value, lambda given: constants.get(given, given))
    return value.target, args, kwargs


def per_channel(value: Value, shape: tuple[int, ...], lanes: int) -> LaneCall:
    """The call of an operator whose constants have one value for each channel, or one for all channels."""
    constants = {}
    for constant in value.operands:
        if isinstance(constant, Constant):
            found = constant.compute()
            constants[constant] = found.repeat_interleave(lanes) if found.numel() == shape[1] else found
    return with_constants(value, constants)
