"""Concatenation: along the row of channels one row behind the other, along another dimension channel by channel."""

import numpy as np
from torch import fx

from models.graph.atoms import argument, is_constant
from models.graph.channel_classes import KEPT
from models.graph.cutting import Cut
from models.graph.layouts import Layout
from models.graph.propagation import RULES, Propagation, Rule
from models.graph.values import Value


def follow(channels: Propagation, node: fx.Node) -> Layout:
    """The operands' rows; what has no channels counts as always kept."""
    shape = node.meta["shape"]
    dim = argument(node, 1, 0) % len(shape)
    layouts = [
        Layout(channels.shape_of_constant(operand)) if is_constant(operand) else channels.layout(operand)
        for operand in node.args[0]
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


def cut(part: Cut, node: fx.Node) -> Value:
    """The same operator on fewer channels."""
    return part.copy(node)


for name in ("cat", "concat", "concatenate"):
    RULES[name] = Rule(follow, cut)
