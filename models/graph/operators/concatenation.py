"""Concatenation: along the row of channels one row behind the other, along another dimension channel by channel."""

import numpy as np
from torch import fx

from models.graph.arguments import arguments
from models.graph.atoms import is_constant
from models.graph.channel_classes import KEPT
from models.graph.lanes import Call, same
from models.graph.layouts import Layout
from models.graph.propagation import Propagation
from models.graph.values import Constant, Value


def follow(channels: Propagation, node: fx.Node) -> Layout:
    """The operands' rows; what has no channels counts as always kept."""
    given, shape = arguments(node), node.meta["shape"]
    dim = given.dim % len(shape)
    layouts = [
        Layout(channels.shape_of_constant(operand)) if is_constant(operand) else channels.layout(operand)
        for operand in given.tensors
    ]
    rows = [layout for layout in layouts if layout.is_row]
    pooled = all(layout.pooled for layout in rows) if rows else False
    if not rows and not any(layout.is_scattered for layout in layouts):
        return Layout(shape, pooled=all(layout.pooled for layout in layouts))
    if any(layout.is_scattered for layout in layouts) or len({layout.dim for layout in rows}) > 1:
        return channels.whole(node)
    if rows[0].dim == dim:
        parts = [layout.channels if layout.is_row else np.full(layout.shape[dim], KEPT) for layout in layouts]
        return Layout(shape, dim, np.concatenate(parts), pooled)
    if len(rows) < len(layouts):
        return channels.whole(node)
    for other in rows[1:]:
        channels.classes.join(rows[0].channels, other.channels, "it is put beside what is always kept")
        channels.joins.append((node, other.channels))
    return rows[0].row(shape, pooled=pooled)


def on_lanes(value: Value, shape: tuple[int, ...], lanes: int) -> Call | None:
    """Not of images, and not with weights."""
    has_constant = any(isinstance(operand, Constant) for operand in value.operands)
    return None if has_constant or arguments(value).dim % len(shape) == 0 else same(value)
