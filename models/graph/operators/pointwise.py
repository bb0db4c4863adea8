"""Pointwise operators of any kind: channels that meet in one go together. Also PReLU and GLU.

Activations need no list, and what they make of zero does not matter: the mask stands behind them, at the readers.
"""

import math

import numpy as np
from torch import Tensor

from models.graph.cutting import Cut
from models.graph.layouts import KEPT, ChannelRow, Layout, Scattered, Several
from models.graph.propagation import Propagation, of_row
from models.graph.values import Constant, Value


def follow(channels: Propagation, value: Value) -> Layout:
    """Operands are joined channel by channel; a single map for all channels stays, and so do weights' sizes."""
    shape = value.shape
    layouts = {operand: channels.layouts[operand] for operand in channels.operands(value)}
    if isinstance(shape, list) or any(isinstance(layout, Scattered | Several) for layout in layouts.values()):
        return channels.whole(value)
    rows = [layout for layout in layouts.values() if isinstance(layout, ChannelRow)]
    dims = {len(shape) - len(row.shape) + row.dim for row in rows}
    pooled = bool(layouts) and all(layout.pooled for layout in layouts.values())
    if not dims:
        return Layout(shape, pooled)
    if len(dims) > 1:
        return channels.whole(value, f"{value.kind} joins it with channels of another dimension")
    (dim,) = dims
    result: np.ndarray | None = None
    because = f"{value.kind} joins it with what has no kernels"
    for layout in layouts.values():
        place = dim - (len(shape) - len(layout.shape))
        if place < 0 or layout.shape[place] < shape[dim]:  # one value for all channels
            channels.keep(layout, f"{value.kind} takes its one map for all channels")
            continue
        row = layout.channels if isinstance(layout, ChannelRow) else np.full(shape[dim], KEPT)
        if result is None:
            result = row
        else:
            channels.ties.join(result, row, because)
            channels.joins.append((value, row))
            # What was joined with something that is always kept is handed on as the channel that has kernels.
            result = np.where(result == KEPT, row, result)
    if result is None:
        return Layout(shape, pooled)
    for constant in value.operands:
        along = _place_in_constant(constant.shape, shape, dim) if isinstance(constant, Constant) else None
        if along is not None:
            channels.slice_constant(constant, along, result)
    return ChannelRow(shape, all(row.pooled for row in rows), dim=dim, channels=result)


def cut(part: Cut, value: Value) -> Value:
    """The same operator; weights in it lose the channels that are cut."""
    layout = part.row(value)
    kept = part.kept(layout.channels)

    def operand(given: Value) -> Value | None:
        if not isinstance(given, Constant):
            return part.operand(given)
        place = _place_in_constant(given.shape, layout.shape, layout.dim)
        return part.constant(given, {} if place is None else {place: kept})

    made = value.on(operand)
    return part.call(made.function, *made.args, **made.kwargs)


def on_lanes(value: Value, of_source: tuple[int, ...], lanes: int) -> Value | None:
    """The operator on maps of the same channels, with constants of one value for each channel or for all."""
    shape = value.shape
    expanded: dict[Value, Value | Tensor] = {}
    for operand in value.operands:
        dim = 1 - (len(shape) - len(operand.shape))  # of the operand: that of the channels
        if not isinstance(operand, Constant):
            if dim != 1 or operand.shape[1] != shape[1]:
                return None
            continue
        if any(size != 1 for place, size in enumerate(operand.shape) if place != dim):
            return None
        has_channels = dim >= 0 and operand.shape[dim] > 1
        found = operand.compute()
        expanded[operand] = found.repeat_interleave(lanes, dim) if has_channels else found
    return value.on(lambda operand: expanded.get(operand, operand))


def _place_in_constant(constant_shape: tuple[int, ...], shape: tuple[int, ...], dim: int) -> int | None:
    """The dimension of a constant that lies along the row of channels; None if it has one value for all."""
    place = dim - (len(shape) - len(constant_shape))
    return place if place >= 0 and constant_shape[place] == shape[dim] > 1 else None


@of_row
def follow_prelu(channels: Propagation, value: Value, source: ChannelRow) -> Layout:
    """One slope for all channels, or one for each along dimension 1."""
    weight = value.given.weight
    if not isinstance(weight, Constant):
        return channels.whole(value)
    if math.prod(weight.shape) > 1:
        if source.dim != 1:
            return channels.whole(value)
        channels.slice_constant(weight, 0, source.channels)
    return source.row(value.shape)


def cut_prelu(part: Cut, value: Value) -> Value:
    """The kept channels' slopes."""
    weight, kept = value.given.weight, part.kept(part.row(value).channels)
    index = {0: kept} if math.prod(weight.shape) > 1 else {}
    return part.copy(value, weight=part.constant(weight, index))


@of_row
def follow_glu(channels: Propagation, value: Value, source: ChannelRow) -> Layout:
    """Channel i of one half gates channel i of the other: they go together."""
    shape = value.shape
    dim = value.given.dim % len(shape)
    if source.dim != dim:
        return source.row(shape)
    first, second = np.split(source.channels, 2)
    channels.ties.join(first, second, "its other half is always kept")
    return ChannelRow(shape, source.pooled, dim=dim, channels=first)


def glu_on_lanes(value: Value, shape: tuple[int, ...], lanes: int) -> Value | None:
    """The same operator; None if images gate images."""
    return value if value.given.dim % len(shape) else None
