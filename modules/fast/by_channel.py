"""Operators that work channel by channel, on maps in the compiled library's order of memory.

There, the same channel of several images ("lanes") is beside each other. For torch such values (n, channels, ...) are
values (blocks, channels * lanes, ...), and what works channel by channel is the same operator on them; what counts
channels counts `lanes` times as many.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from models.graph.arguments import replaced
from models.graph.atoms import function_name, is_pointwise_function, words
from models.graph.values import Constant, Value

Call = tuple[Callable[..., Any], tuple, dict[str, Any]]  # a function, and arguments with values and tensors in them

aten = torch.ops.aten
POOLS = words(
    "max_pool2d avg_pool2d adaptive_avg_pool2d _adaptive_avg_pool2d lp_pool2d upsample_nearest2d upsample_bilinear2d "
    "upsample_bicubic2d _upsample_nearest_exact2d reflection_pad2d replication_pad2d"
)  # with one result; on (n, channels, height, width)
RESHAPES = words("reshape flatten squeeze unsqueeze")
LAST = 2**63 - 1  # torch's end of a slice that goes on to the end
SPLITS = words("chunk split split_with_sizes")  # with several results
REDUCTIONS = words("mean sum amax amin")


def by_channel(value: Value, lanes: int) -> Call | None:
    """The call that computes a value on such memory of its operands; None of what does not work channel by channel."""
    sources = [operand for operand in value.operands if not isinstance(operand, Constant)]
    name = function_name(value.function)
    if name == "getitem":
        return _call(value, value.args)
    shapes = [source.shape for source in (sources if name in SPLITS else [value, *sources])]
    if any(shape is None or len(shape) < 2 or shape[0] != shapes[0][0] for shape in shapes):
        return None
    if is_pointwise_function(value.function):
        return _pointwise(value, sources, lanes)
    rule = _RULES.get(name)
    return None if rule is None else rule(value, sources[0].shape, lanes)


def _pointwise(value: Value, sources: list[Value], lanes: int) -> Call | None:
    shape = value.shape
    if any(len(source.shape) != len(shape) or source.shape[1] != shape[1] for source in sources):
        return None
    expanded: dict[Constant, Tensor] = {}
    for constant in value.operands:
        if isinstance(constant, Constant):
            dim = 1 - (len(shape) - len(constant.shape))  # of the constant: that of the channels
            sizes = [size for place, size in enumerate(constant.shape) if place != dim]
            if any(size != 1 for size in sizes):
                return None
            has_channels = dim >= 0 and constant.shape[dim] > 1
            found = constant.compute()
            expanded[constant] = found.repeat_interleave(lanes, dim) if has_channels else found
    return _call(value, value.args, expanded)


def _call(value: Value, args: tuple, constants: dict[Constant, Tensor] | None = None) -> Call:
    def change(given: Value) -> Any:
        return (constants or {}).get(given, given)

    return value.function, replaced(args, Value, change), replaced(value.kwargs, Value, change)


def _same(value: Value, shape: tuple[int, ...], lanes: int) -> Call | None:
    return _call(value, value.args)


def _per_channel(value: Value, shape: tuple[int, ...], lanes: int) -> Call | None:
    """Its constants have one value for each channel, or one for all."""
    constants = {}
    for constant in value.operands:
        if isinstance(constant, Constant):
            found = constant.compute()
            constants[constant] = found.repeat_interleave(lanes) if found.numel() == shape[1] else found
    return _call(value, value.args, constants)


def _gated(value: Value, shape: tuple[int, ...], lanes: int) -> Call | None:
    """Of two halves along a dimension."""
    dim = value.args[1] if len(value.args) > 1 else -1
    return _call(value, value.args) if dim % len(shape) else None


def _split(value: Value, shape: tuple[int, ...], lanes: int) -> Call | None:
    source, sizes, dim = (*value.args, *(None, 0)[len(value.args) - 1 :])
    if dim % len(shape) == 0:
        return None
    if dim % len(shape) > 1:
        return _call(value, value.args)
    if function_name(value.function) == "chunk":
        sizes = -(-shape[1] // sizes)
    sizes = [size * lanes for size in sizes] if isinstance(sizes, list) else sizes * lanes
    return torch.split, (source, sizes, 1), {}


def _concatenation(value: Value, shape: tuple[int, ...], lanes: int) -> Call | None:
    dim = value.args[1] if len(value.args) > 1 else value.kwargs.get("dim", 0)
    return _call(value, value.args) if dim % len(shape) != 0 and _has_no_constant(value) else None


def _slice(value: Value, shape: tuple[int, ...], lanes: int) -> Call | None:
    source, dim, start, end, step = (*value.args, *(None, 0, None, None, 1)[len(value.args) :])
    is_all = step == 1 and start in (0, None) and (end is None or end >= LAST)
    if dim % len(shape) != 1 or is_all:
        return _call(value, value.args) if dim % len(shape) or is_all else None
    first, last, _ = slice(start, end).indices(shape[1])
    return (aten.slice.Tensor, (source, 1, first * lanes, last * lanes), {}) if step == 1 else None


def _selection(value: Value, shape: tuple[int, ...], lanes: int) -> Call | None:
    source, dim, index = value.args
    if dim % len(shape) != 1 or not isinstance(index, Constant):
        return None
    places = index.compute()
    places = places[:, None] * lanes + torch.arange(lanes, device=places.device)
    return aten.index_select.default, (source, 1, places.flatten()), {}


def _padding(value: Value, shape: tuple[int, ...], lanes: int) -> Call | None:
    source, amounts, *rest = value.args
    of_channels = 2 * (len(shape) - 2)  # torch counts from the last dimension
    amounts = [*amounts[:of_channels], *(amount * lanes for amount in amounts[of_channels : of_channels + 2])]
    return _call(value, (source, amounts, *rest)) if len(amounts) == len(value.args[1]) else None


def _reduction(value: Value, shape: tuple[int, ...], lanes: int) -> Call | None:
    dims = value.args[1] if len(value.args) > 1 else None
    if not isinstance(dims, list) or not dims or any(dim % len(shape) < 2 for dim in dims):
        return None
    return _call(value, value.args)


def _reshape(value: Value, shape: tuple[int, ...], lanes: int) -> Call | None:
    if value.shape[:2] != shape[:2]:
        return None
    return aten.reshape.default, (value.args[0], [-1, shape[1] * lanes, *value.shape[2:]]), {}


def _has_no_constant(value: Value) -> bool:
    return not any(isinstance(operand, Constant) for operand in value.operands)


_RULES: dict[str, Callable[[Value, tuple[int, ...], int], Call | None]] = {
    **dict.fromkeys(POOLS, _same),
    **dict.fromkeys(RESHAPES, _reshape),
    **dict.fromkeys(REDUCTIONS, _reduction),
    **dict.fromkeys(("cat", "concat", "concatenate"), _concatenation),
    **dict.fromkeys(("batch_norm", "instance_norm", "prelu", "_prelu_kernel"), _per_channel),
    **dict.fromkeys(("pad", "constant_pad_nd"), _padding),
    **dict.fromkeys(SPLITS, _split),
    "glu": _gated,
    "slice": _slice,
    "index_select": _selection,
}
