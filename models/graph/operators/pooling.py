"""Pooling, resizing and softmax over another dimension: channel by channel, and without weights."""

from torch import fx

from models.graph.atoms import argument, words
from models.graph.cutting import Cut
from models.graph.layouts import Layout
from models.graph.propagation import RULES, Propagation, Rule
from models.graph.values import Value

SPATIAL = words(
    "max_pool2d avg_pool2d adaptive_avg_pool2d adaptive_max_pool2d max_pool2d_with_indices lp_pool2d "
    "upsample_nearest2d upsample_bilinear2d upsample_bicubic2d _upsample_nearest_exact2d "
    "_upsample_bilinear2d_aa _adaptive_avg_pool2d"
)  # on (n, channels, height, width)
POOLS = frozenset(name for name in SPATIAL if "pool" in name)
SOFTMAX = ("softmax", "log_softmax", "_softmax", "_log_softmax")


def follow(channels: Propagation, node: fx.Node) -> Layout | list[Layout]:
    """Channels along dimension 1 are handed on."""
    source, shape = channels.layout(node.args[0]), node.meta["shape"]
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
    source, shape = channels.layout(node.args[0]), node.meta["shape"]
    if source.is_plain:
        return Layout(shape, pooled=source.pooled)
    if source.is_scattered or source.dim == argument(node, 1) % len(shape):
        return channels.whole(node)
    return source.row(shape)


def cut(part: Cut, node: fx.Node) -> Value:
    """The same operator on fewer channels."""
    return part.copy(node)


for name in SPATIAL:
    RULES[name] = Rule(follow, cut)
for name in SOFTMAX:
    RULES[name] = Rule(follow_softmax, cut)
