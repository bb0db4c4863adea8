"""Pooling, resizing and softmax over another dimension: channel by channel, and without weights."""

from torch import fx

from models.graph.arguments import arguments
from models.graph.layouts import Layout
from models.graph.propagation import Propagation


def follow(channels: Propagation, node: fx.Node) -> Layout | list[Layout]:
    """Channels along dimension 1 are handed on."""
    source, shape = channels.layout(arguments(node).source), node.meta["shape"]
    shapes = shape if isinstance(shape, list) else [shape]
    pooled = source.pooled or (
        shapes[0][-2:] == (1, 1) and source.shape[-2:] != (1, 1) and "adaptive" in str(node.target)
    )
    if source.is_plain:
        results = [Layout(part, pooled=pooled) for part in shapes]
    elif source.dim == 1 and len(source.shape) == 4:
        results = [source.row(part, pooled=pooled) for part in shapes]
    else:
        return channels.whole(node)
    return results if isinstance(shape, list) else results[0]


def follow_softmax(channels: Propagation, node: fx.Node) -> Layout:
    """Over another dimension than that of the channels."""
    given, shape = arguments(node), node.meta["shape"]
    source = channels.layout(given.source)
    if source.is_plain:
        return Layout(shape, pooled=source.pooled)
    if source.is_scattered or source.dim == given.dim % len(shape):
        return channels.whole(node)
    return source.row(shape)
