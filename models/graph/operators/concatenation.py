"""Concatenation and padding: along the channels a row gets longer, along pixels channels are handed on.

Shortcuts without weights pad the channels with channels of zeros.
"""

import numpy as np

from models.graph.cutting import Cut
from models.graph.layouts import KEPT, ChannelRow, Layout, Scattered, Several
from models.graph.propagation import Propagation, of_row
from models.graph.values import Constant, Value


def follow(channels: Propagation, value: Value) -> Layout:
    """The operands' rows; what has no channels counts as always kept."""
    given, shape = value.given, value.shape
    dim = given.dim % len(shape)
    layouts = [
        Layout(operand.shape) if isinstance(operand, Constant) else channels.layouts[operand]
        for operand in given.tensors
    ]
    rows = [layout for layout in layouts if isinstance(layout, ChannelRow)]
    pooled = all(layout.pooled for layout in rows) if rows else False
    is_scattered = any(isinstance(layout, Scattered | Several) for layout in layouts)
    if not rows and not is_scattered:
        return Layout(shape, all(layout.pooled for layout in layouts))
    if is_scattered or len({layout.dim for layout in rows}) > 1:
        return channels.whole(value)
    if rows[0].dim == dim:
        parts = [
            layout.channels if isinstance(layout, ChannelRow) else np.full(layout.shape[dim], KEPT)
            for layout in layouts
        ]
        return ChannelRow(shape, pooled, dim=dim, channels=np.concatenate(parts))
    if len(rows) < len(layouts):
        return channels.whole(value)
    for other in rows[1:]:
        channels.ties.join(rows[0].channels, other.channels, "it is concatenated with what is always kept")
        channels.joins.append((value, other.channels))
    return rows[0].row(shape, pooled=pooled)


def cut(part: Cut, value: Value) -> Value:
    """Of the operands those of which channels are kept."""
    given = value.given
    left = [part.operand(operand) for operand in given.tensors if not part.is_empty(operand)]
    return left[0] if len(left) == 1 else part.call(value.function, left, given.dim)


def on_lanes(value: Value, shape: tuple[int, ...], lanes: int) -> Value | None:
    """The concatenation of channels or pixels; None for images, and with constants."""
    has_constant = any(isinstance(operand, Constant) for operand in value.operands)
    return None if has_constant or value.given.dim % len(shape) == 0 else value


def _amounts(value: Value, dim: int) -> tuple[list[int], slice]:
    """How much is put before and behind, the last dimension first as torch has it; and where that along `dim` is."""
    given, num_dims = value.given.padding, len(value.shape)
    place = 2 * (num_dims - 1 - dim)
    return [*given, *[0] * (2 * num_dims - len(given))], slice(place, place + 2)


def _repeats(value: Value) -> bool:
    """Whether the padding is of the source's own values: by reflection, replication, or around a circle."""
    return getattr(value.given, "mode", value.kind) not in ("constant", "constant_pad_nd")


@of_row
def follow_padding(channels: Propagation, value: Value, source: ChannelRow) -> Layout:
    """Padded channels are new; an addition to maps with kernels puts them together with these."""
    shape = value.shape
    amounts, along = _amounts(value, source.dim)
    before, behind = amounts[along]
    if min(before, behind) < 0:
        return channels.whole(value, "padding takes channels away")
    if before == behind == 0:
        return source.row(shape)
    if _repeats(value):
        return channels.whole(value, "padding repeats its channels")
    row = np.concatenate([channels.ties.new(before), source.channels, channels.ties.new(behind)])
    return ChannelRow(shape, source.pooled, dim=source.dim, channels=row)


def cut_padding(part: Cut, value: Value) -> Value:
    """As many channels before and behind as are kept of those."""
    layout = part.row(value)
    kept = part.kept(layout.channels)
    amounts, along = _amounts(value, layout.dim)
    before, behind = amounts[along]
    amounts[along] = [int((kept < before).sum()), int((kept >= len(layout.channels) - behind).sum())]
    length = max(len(value.given.padding), along.stop if any(amounts[along]) else 0)
    return part.copy(value, padding=amounts[:length])


def padding_on_lanes(value: Value, shape: tuple[int, ...], lanes: int) -> Value | None:
    """The padding with `lanes` times as many channels; None for images, and if it repeats channels."""
    amounts, of_channels = value.given.padding, 2 * (len(shape) - 2)  # torch counts from the last dimension
    if len(amounts) > of_channels + 2 or (_repeats(value) and any(amounts[of_channels:])):
        return None
    return value.changed(padding=[*amounts[:of_channels], *(amount * lanes for amount in amounts[of_channels:])])
