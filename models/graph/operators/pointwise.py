"""Pointwise operators of any kind: channels that meet in one go together. Also PReLU and GLU.

Activations need no list, and what they make of zero does not matter: the mask stands behind them, at the readers.
"""

import math
from typing import Any

import numpy as np
from torch import fx

from models.graph.atoms import argument, is_constant, kind
from models.graph.channel_classes import KEPT
from models.graph.cutting import Cut
from models.graph.layouts import Layout
from models.graph.propagation import POINTWISE, RULES, Propagation, Rule
from models.graph.values import Value


def follow(channels: Propagation, node: fx.Node) -> Layout:
    """Operands are joined channel by channel; a single map for all channels stays, and so do weights' sizes."""
    shape = node.meta["shape"]
    layouts = {operand: channels.layouts[operand] for operand in channels.operands(node)}
    if isinstance(shape, list) or any(isinstance(layout, list) or layout.is_scattered for layout in layouts.values()):
        return channels.whole(node)
    dims = {len(shape) - len(layout.shape) + layout.dim for layout in layouts.values() if layout.is_row}
    pooled = bool(layouts) and all(layout.pooled for layout in layouts.values())
    if not dims:
        return Layout(shape, pooled=pooled)
    if len(dims) > 1:
        return channels.whole(node, f"{kind(node)} joins it with channels of another dimension")
    (dim,) = dims
    result = None
    because = f"{kind(node)} joins it with what has no kernels"
    for layout in layouts.values():
        place = dim - (len(shape) - len(layout.shape))
        if place < 0 or layout.shape[place] < shape[dim]:  # one value for all channels
            channels.keep(layout, f"{kind(node)} takes its one map for all channels")
            continue
        row = layout.channels if layout.is_row else np.full(shape[dim], KEPT)
        if result is None:
            result = row
        else:
            channels.classes.join(result, row, because)
            channels.joins.append((node, row))
            # What was joined with something that is always kept is handed on as the channel that has kernels.
            result = np.where(result == KEPT, row, result)
    if result is None:
        return Layout(shape, pooled=pooled)
    for constant in filter(is_constant, node.all_input_nodes):
        place = _place_in_constant(channels.shape_of_constant(constant), shape, dim)
        if place is not None:
            channels.slice_constant(constant, place, result)
    pooled = all(layout.pooled for layout in layouts.values() if layout.is_row)
    return Layout(shape, dim, result, pooled)


def cut(part: Cut, node: fx.Node) -> Value:
    """The same operator; weights in it lose the channels that are cut."""
    layout = part.layout(node)
    kept = part.kept(layout.channels)

    def operand(given: Any) -> Any:
        if not is_constant(given):
            return part.operands(given)
        place = _place_in_constant(part.constants[given.target].shape, layout.shape, layout.dim)
        return part.constant(given, {} if place is None else {place: kept})

    kwargs = {name: operand(given) for name, given in node.kwargs.items()}
    return part.call(node.target, *map(operand, node.args), **kwargs)


def _place_in_constant(constant_shape: tuple[int, ...], shape: tuple[int, ...], dim: int) -> int | None:
    """The dimension of a constant that lies along the row of channels; None where it has one value for all."""
    place = dim - (len(shape) - len(constant_shape))
    return place if place >= 0 and constant_shape[place] == shape[dim] > 1 else None


def follow_prelu(channels: Propagation, node: fx.Node) -> Layout:
    """One slope for all channels, or one for each along dimension 1."""
    source, weight, shape = channels.layout(node.args[0]), node.args[1], node.meta["shape"]
    if source.is_plain:
        return Layout(shape, pooled=source.pooled)
    if not is_constant(weight) or source.is_scattered:
        return channels.whole(node)
    if math.prod(channels.shape_of_constant(weight)) > 1:
        if source.dim != 1:
            return channels.whole(node)
        channels.slice_constant(weight, 0, source.channels)
    return source.row(shape)


def cut_prelu(part: Cut, node: fx.Node) -> Value:
    """The kept channels' slopes."""
    weight = node.args[1]
    kept = part.kept(part.layout(node).channels)
    index = {0: kept} if part.constants[weight.target].numel() > 1 else {}
    return part.call(node.target, part.new[node.args[0]], part.constant(weight, index))


def follow_glu(channels: Propagation, node: fx.Node) -> Layout:
    """Channel i of one half gates channel i of the other: they go together."""
    source, shape = channels.layout(node.args[0]), node.meta["shape"]
    if source.is_plain:
        return Layout(shape, pooled=source.pooled)
    dim = argument(node, 1, -1) % len(shape)
    if source.is_scattered:
        return channels.whole(node)
    if source.dim != dim:
        return source.row(shape)
    first, second = np.split(source.channels, 2)
    channels.classes.join(first, second, "its other half is always kept")
    return Layout(shape, dim, first, source.pooled)


def cut_glu(part: Cut, node: fx.Node) -> Value:
    """The same operator: both halves have lost the same channels."""
    return part.copy(node)


RULES[POINTWISE] = Rule(follow, cut)
RULES["prelu"] = RULES["_prelu_kernel"] = Rule(follow_prelu, cut_prelu)
RULES["glu"] = Rule(follow_glu, cut_glu)
