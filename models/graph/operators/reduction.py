"""Pooling, resizing, softmax, means, sums and extremes: over pixels they hand channels on, over channels some read.

Behind a mask a dropped channel is zero, so a mean over fewer channels divides by how many they were, and a maximum over
fewer channels is at least zero.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from models.graph.cutting import Cut, aten
from models.graph.layouts import ChannelRow, Layout, of_results
from models.graph.propagation import Propagation, of_row
from models.graph.values import Value

SUMS = ("aten.mean.dim", "aten.sum.dim_IntList")
EXTREMES = ("amax", "amin", "max", "min")


def follow_pooling(channels: Propagation, value: Value) -> Layout:
    """Channels along dimension 1 are handed on."""
    source, shape = channels.layouts[value.given.source], value.shape
    pixels = (shape[0] if isinstance(shape, list) else shape)[-2:]
    pooled = source.pooled or (pixels == (1, 1) != source.shape[-2:] and "adaptive" in value.kind)
    if source.is_plain:
        return of_results(shape, lambda part: Layout(part, pooled))
    if isinstance(source, ChannelRow) and source.dim == 1 and len(source.shape) == 4:
        row = source
        return of_results(shape, lambda part: row.row(part, pooled=pooled))
    return channels.whole(value)


@of_row
def follow_softmax(channels: Propagation, value: Value, source: ChannelRow) -> Layout:
    """Over another dimension than that of the channels."""
    shape = value.shape
    return channels.whole(value) if source.dim == value.given.dim % len(shape) else source.row(shape)


def dims_of(value: Value, num_dims: int) -> list[int]:
    """The dimensions over which the operator goes; none if that is not given."""
    given = getattr(value.given, "dim", None)
    if isinstance(given, int) and not isinstance(given, bool):
        given = [given]
    return [dim % num_dims for dim in given] if isinstance(given, list | tuple) else []


def reads_channels(value: Value, users: Sequence[Value]) -> bool:
    """Whether it is known what zeros are in it: a sum or mean in its operand's own precision, or a maximum's value."""
    if value.kind in ("max", "min"):
        return all(user.kind == "getitem" and user.given.index == 0 for user in users)
    return value.kind in EXTREMES or (value.operator.overload in SUMS and value.given.dtype is None)


def is_known(value: Value) -> bool:
    """Whether it goes over dimensions: not so the larger of two tensors."""
    return not value.operator.overload.endswith(".other")


def follow(channels: Propagation, value: Value) -> Layout:
    """See above; deviations and norms over channels are not known."""
    given, shape = value.given, value.shape
    source = channels.layouts[given.source]
    if not source.is_plain and not isinstance(source, ChannelRow):
        return channels.whole(value)
    dims = dims_of(value, len(source.shape))
    all_pixels = len(source.shape) == 4 and set(dims) in ({2, 3}, {1, 2})
    if not isinstance(source, ChannelRow):
        return of_results(shape, lambda part: Layout(part, source.pooled or all_pixels))
    if not dims:
        return channels.whole(value)
    pooled = source.pooled or (all_pixels and source.dim not in dims)
    if source.dim in dims:
        if not reads_channels(value, channels.users[value]):
            return channels.whole(value)
        channels.read(value, source.dim)
        return of_results(shape, lambda part: Layout(part, pooled))
    dim = source.dim if given.keepdim else source.dim - sum(d < source.dim for d in dims)
    # What is left of a flattened row's pixels is pooled as well: (n, channels, pixels) -> (n, channels).
    pooled = pooled or set(range(1, len(source.shape))) - set(dims) == {source.dim}
    return of_results(shape, lambda part: source.row(part, dim, pooled))


def follow_log_sum_exp(channels: Propagation, value: Value) -> Layout:
    """Of a flat row (n, channels) one logit for all channels, which are kept or dropped together.

    So a class's logit can be made of several outputs, and a class's module have those alone.
    """
    source = channels.layouts[value.given.source]
    is_flat = isinstance(source, ChannelRow) and source.dim == 1 and len(source.shape) == 2
    if not isinstance(source, ChannelRow) or not is_flat or value.shape != (source.shape[0], 1):
        return follow(channels, value)
    first = source.channels[:1]
    channels.ties.join(source.channels, np.repeat(first, len(source.channels)), "it is summed with what is always kept")
    return ChannelRow(value.shape, source.pooled, dim=1, channels=first)


def cut(part: Cut, value: Value) -> Value:
    """On fewer channels it is the same but for the zeros."""
    given = value.given
    source = part.row(given.source)
    dims = dims_of(value, len(source.shape))
    if source.dim not in dims:
        return part.copy(value)
    if value.kind in EXTREMES:
        is_whole = len(part.kept(source.channels)) == len(source.channels)
        values = part.new[given.source]
        return part.call(extreme_with_zero, values, value.kind, dims, given.keepdim, not is_whole)
    total = part.call(aten.sum.dim_IntList, part.new[given.source], dims, given.keepdim)
    if value.kind == "sum":
        return total
    return part.call(aten.div.Tensor, total, math.prod(source.shape[dim] for dim in dims))


def extreme_with_zero(
    values: Tensor, name: str, dims: list[int], keeps_dims: bool, with_zero: bool
) -> Tensor | tuple[Tensor]:
    """The largest (or smallest) values over dimensions, and over a zero if one is to count.

    Args:
        values: any.
        name: amax or amin; max and min give a tuple.
        dims: the dimensions.
        keeps_dims: whether they stay with size 1.
        with_zero: whether there were channels that are zero.
    """
    is_largest = name.endswith("max")
    found = (torch.amax if is_largest else torch.amin)(values, dims, keeps_dims)
    if with_zero:
        found = found.clamp(min=0) if is_largest else found.clamp(max=0)
    return found if name.startswith("a") else (found,)


def on_lanes(value: Value, shape: tuple[int, ...], lanes: int) -> Value | None:
    """The same operator over pixels; None over channels or images."""
    dims = getattr(value.given, "dim", None)
    if not isinstance(dims, list) or not dims or any(dim % len(shape) < 2 for dim in dims):
        return None
    return value
