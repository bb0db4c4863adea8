"""Means, sums and extremes: over pixels they hand channels on; means and sums over channels read them."""

import math

from torch import fx

from models.graph.atoms import argument, kind, overload
from models.graph.cutting import Cut, aten
from models.graph.layouts import Layout
from models.graph.propagation import RULES, Propagation, Rule

# By name the places of the dimensions and of `keepdim` among the arguments.
REDUCTIONS = {
    "mean": (1, 2),
    "sum": (1, 2),
    "amax": (1, 2),
    "amin": (1, 2),
    "max": (1, 2),
    "min": (1, 2),
    "prod": (1, 2),
    "logsumexp": (1, 2),
    "std": (1, 3),
    "var": (1, 3),
    "linalg_vector_norm": (2, 3),
    "norm": (2, 3),
}
SUMS = ("aten.mean.dim", "aten.sum.dim_IntList")


def dims_of(node: fx.Node, num_dims: int) -> list[int] | None:
    """The dimensions over which the operator goes; None if that is not said."""
    given = argument(node, REDUCTIONS[kind(node)][0])
    if isinstance(given, int) and not isinstance(given, bool):
        given = [given]
    if not isinstance(given, list | tuple) or not given:
        return None
    return [dim % num_dims for dim in given]


def is_sum_of_channels(node: fx.Node) -> bool:
    """Whether it is a sum or mean in its operand's own precision."""
    return overload(node) in SUMS and node.kwargs.get("dtype") is None and len(node.args) < 4


def follow(channels: Propagation, node: fx.Node) -> Layout | list[Layout]:
    """See above; extremes over channels are not known."""
    source, shape = channels.layout(node.args[0]), node.meta["shape"]
    if isinstance(source, list) or source.is_scattered:
        return channels.whole(node)
    dims = dims_of(node, len(source.shape))
    all_pixels = dims is not None and len(source.shape) == 4 and set(dims) in ({2, 3}, {1, 2})
    pooled = source.pooled or (all_pixels and source.dim not in dims)
    if source.is_plain:
        return [Layout(part) for part in shape] if isinstance(shape, list) else Layout(shape, pooled=pooled)
    if dims is None:
        return channels.whole(node)
    if source.dim in dims:
        if not is_sum_of_channels(node):
            return channels.whole(node)
        channels.read(node, source.dim, folds=False)
        return Layout(shape, pooled=pooled)
    keeps_dims = bool(argument(node, REDUCTIONS[kind(node)][1], False))
    dim = source.dim if keeps_dims else source.dim - sum(d < source.dim for d in dims)
    # What is left of a flattened row's pixels is pooled as well: (n, channels, pixels) -> (n, channels).
    pooled = pooled or set(range(1, len(source.shape))) - set(dims) == {source.dim}
    if isinstance(shape, list):
        return [source.row(part, dim, pooled) for part in shape]
    return source.row(shape, dim, pooled)


def cut(part: Cut, node: fx.Node) -> fx.Node:
    """A mean over channels is their sum by how many they were."""
    source = part.layout(node.args[0])
    dims = dims_of(node, len(source.shape))
    if source.dim not in dims:
        return part.copy(node)
    keeps_dims = bool(argument(node, 2, False))
    total = part.call(aten.sum.dim_IntList, part.with_factors(node), dims, keeps_dims)
    if kind(node) == "sum":
        return total
    return part.call(aten.div.Tensor, total, math.prod(source.shape[dim] for dim in dims))


for name in REDUCTIONS:
    RULES[name] = Rule(follow, cut)
