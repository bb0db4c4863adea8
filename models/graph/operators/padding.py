"""Padding: of pixels it hands channels on; of channels, as in shortcuts without weights, it adds channels of zeros."""

import numpy as np
from torch import fx

from models.graph.arguments import arguments
from models.graph.cutting import Cut
from models.graph.lanes import Call, changed
from models.graph.layouts import Layout
from models.graph.propagation import Propagation
from models.graph.values import Value


def amounts(node: fx.Node, num_dims: int, dim: int) -> tuple[int, int]:
    """How much is put before and behind along one dimension; torch counts dimensions from the last one."""
    given = [*arguments(node).padding, *[0] * (2 * num_dims)]
    place = 2 * (num_dims - 1 - dim)
    return given[place], given[place + 1]


def follow(channels: Propagation, node: fx.Node) -> Layout:
    """Padded channels are new; an addition to maps with kernels puts them together with these."""
    source, shape = channels.layout(arguments(node).source), node.meta["shape"]
    if source.is_plain:
        return Layout(shape, pooled=source.pooled)
    if source.is_scattered:
        return channels.whole(node)
    before, behind = amounts(node, len(shape), source.dim)
    if min(before, behind) < 0:
        return channels.whole(node, "padding takes channels away")
    if before == behind == 0:
        return source.row(shape)
    row = np.concatenate([channels.classes.new(before), source.channels, channels.classes.new(behind)])
    return Layout(shape, source.dim, row, source.pooled)


def cut(part: Cut, node: fx.Node) -> Value:
    """As many channels before and behind as are kept of those."""
    layout = part.layout(node)
    num_dims = len(layout.shape)
    before, behind = amounts(node, num_dims, layout.dim)
    kept = part.kept(layout.channels)
    before_cut = arguments(node).padding
    given = [*before_cut, *[0] * (2 * num_dims - len(before_cut))]
    place = 2 * (num_dims - 1 - layout.dim)
    given[place] = int((kept < before).sum())
    given[place + 1] = int((kept >= len(layout.channels) - behind).sum())
    length = max(len(before_cut), place + 2 if any(given[place : place + 2]) else 0)
    return part.copy(node, padding=given[:length])


def on_lanes(value: Value, shape: tuple[int, ...], lanes: int) -> Call | None:
    """Of channels `lanes` times as many; not of images."""
    amounts, of_channels = arguments(value).padding, 2 * (len(shape) - 2)  # torch counts from the last dimension
    if len(amounts) > of_channels + 2:
        return None
    return changed(value, padding=[*amounts[:of_channels], *(amount * lanes for amount in amounts[of_channels:])])
