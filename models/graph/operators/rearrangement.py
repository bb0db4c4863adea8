"""Operators that only move elements: reshape, permute, flatten, chunk, slice, selection, channel shuffle, and so on.

Run on a tensor that has at each element the place of its channel, such an operator says itself where channels go. For
fewer channels it is the same operator with other sizes, if that puts all channels where they belong; else channels are
taken out of what they came from, or, at worst, element by element.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.graph.cutting import Cut, aten
from models.graph.layouts import (
    ChannelRow,
    Layout,
    RearrangedRow,
    Scattered,
    Several,
    of_results,
    places_along,
    resized,
)
from models.graph.propagation import Propagation
from models.graph.values import Constant, Value

SELECTIONS = frozenset({"index", "index_select"})  # by a constant, whose values decide where channels go
SIZED = frozenset({"reshape", "expand"})  # with the result's sizes as an argument
LAST = 2**63 - 1  # torch's end of a slice that goes on to the end
WHOLE = "its channels are spread over several dimensions"


def run_on(value: Value, places: Tensor, constants: Mapping[str, Tensor], **changes: Any) -> Any:
    """The operator on other values than the network's, with some arguments changed."""
    source, selects = value.given.source, value.kind in SELECTIONS

    def operand(given: Value) -> Any:
        if given is source:
            return places
        if selects:
            return constants[given.name].cpu()
        return torch.zeros(given.shape) if given.size is None else given.size

    return value.changed(**changes).on(operand).run()


def follow(channels: Propagation, value: Value) -> Layout:
    """Where the operator puts its operand's channels."""
    given, shape = value.given, value.shape
    source = channels.layouts[given.source]
    if isinstance(source, Several):
        return source.parts[given.index]
    if source.is_plain:
        return of_results(shape, lambda part: Layout(part, source.pooled))
    if any(operand in channels.layouts for operand in value.operands[1:]) and value.kind != "expand_as":
        return channels.whole(value)
    if value.kind in SELECTIONS and any(operand.name not in channels.constants for operand in value.operands[1:]):
        return channels.whole(value)
    if isinstance(source, Scattered):
        origin, places = source.origin, source.places
    else:
        row = channels.row(given.source)
        origin, places = given.source, places_along(row.shape, row.dim, np.arange(len(row.channels)))
    moved = run_on(value, places, channels.constants)
    _note_left_out(channels, origin, places, [moved] if isinstance(moved, Tensor) else list(moved))
    if isinstance(moved, Tensor):
        return _layout(channels, origin, moved, source)
    parts = tuple(_layout(channels, origin, part, source) for part in moved)
    if any(part.is_plain for part in parts):
        channels.ties.keep(channels.row(origin).channels, "it is taken apart into single channels")
    return Several((), parts=parts)


def _note_left_out(channels: Propagation, origin: Value, places: Tensor, parts: list[Tensor]) -> None:
    """Note the channels of the origin that an operator takes to no place."""
    if min(part.numel() for part in parts) == 0 or sum(part.numel() for part in parts) == places.numel():
        return  # nothing is taken, or everything moved
    row = channels.row(origin).channels
    is_taken = torch.zeros(len(row), dtype=torch.bool)
    for part in parts:
        is_taken[part.flatten().long()] = True
    if not is_taken.all():
        channels.left_out.append(row[~is_taken.numpy()])


def _layout(channels: Propagation, origin: Value, places: Tensor, source: Layout) -> Layout:
    """The layout of a value that has the origin's channels at these places."""
    whole, shape = channels.row(origin), tuple(places.shape)
    if len(whole.channels) == 1:
        return _layout_of_one(channels, whole, shape)
    varying = [dim for dim, size in enumerate(shape) if size > 1 and bool((places != places.narrow(dim, 0, 1)).any())]
    if not varying:  # one of several channels was taken out
        index = np.unique(places.numpy())
        if len(shape) == len(whole.shape) == 2 and whole.dim == 1:  # of a flat row: it is a row of one channel
            return RearrangedRow(
                shape, source.pooled, dim=1, channels=whole.channels[index], origin=origin, index=index
            )
        taken = whole.channels if isinstance(source, Scattered) else whole.channels[index]
        channels.ties.keep(taken, "it is taken out of its maps alone")
        return Layout(shape, source.pooled)
    if len(varying) > 1 or varying == [0]:
        return Scattered(shape, source.pooled, origin=origin, places=places)
    (dim,) = varying
    index = places[tuple(slice(None) if d == dim else 0 for d in range(len(shape)))].numpy().astype(np.int64)
    same_place = dim == whole.dim and resized(shape, dim, 0) == resized(whole.shape, dim, 0)
    if isinstance(source, Scattered) and not same_place:
        channels.ties.keep(whole.channels, WHOLE)
        return Layout(shape, source.pooled)
    return RearrangedRow(shape, source.pooled, dim=dim, channels=whole.channels[index], origin=origin, index=index)


def _layout_of_one(channels: Propagation, whole: ChannelRow, shape: tuple[int, ...]) -> Layout:
    """Of a single channel nothing says where it went, except that it fills the row behind a flattening."""
    if whole.dim == 1 and shape == (whole.shape[0], int(np.prod(whole.shape[1:]))):
        return ChannelRow(shape, whole.pooled, dim=1, channels=np.repeat(whole.channels, shape[1]))
    channels.ties.keep(whole.channels, "it is the only channel of a map that is rearranged")
    return Layout(shape, whole.pooled)


def cut(part: Cut, value: Value) -> Value | None:
    """The rearrangement of the channels that are kept; None on the way to a row, whose channels are taken then."""
    given = value.given.source
    source, result = part.channels.layouts[given], part.channels.layouts[value]
    if isinstance(source, Several) and given in part.new:  # of a split
        return part.copy(value)
    if isinstance(source, Several | Scattered):
        return _take(part, result) if isinstance(result, RearrangedRow) else None
    if isinstance(result, Several):
        return part.copy(value) if _stays_right(part, value, result.parts) else None
    if isinstance(result, Scattered):
        return None
    if value.kind == "slice" and _takes_all(value):  # as in x[:, 1:3], which first takes all images
        return part.new[given]
    if not isinstance(result, ChannelRow):  # one channel, which is kept, of several
        return _by_element(part, value)
    sizes = _sizes(part, value, result)
    if _stays_right(part, value, [result], **sizes):
        return part.copy(value, **sizes)
    if not isinstance(result, RearrangedRow):
        return _by_element(part, value)
    whole = part.row(result.origin)
    if result.dim == whole.dim and resized(result.shape, result.dim, 0) == resized(whole.shape, whole.dim, 0):
        return _take(part, result)
    return _by_element(part, value)


def _sizes(part: Cut, value: Value, result: ChannelRow) -> dict[str, list[Any]]:
    """The arguments that have the number of channels in them, with that of those that are kept."""
    if value.kind not in SIZED:
        return {}
    sizes = list(value.given.size)
    if isinstance(sizes[result.dim], int) and sizes[result.dim] != -1:
        sizes[result.dim] = len(part.kept(result.channels))
    return {"size": sizes}


def _stays_right(part: Cut, value: Value, results: Sequence[Layout], **changes: Any) -> bool:
    """Whether the operator, given what is kept, puts all channels where they belong."""
    source = part.channels.layouts[value.given.source]
    taken = [result for result in results if isinstance(result, RearrangedRow)]
    if not isinstance(source, ChannelRow) or len(taken) < len(results):
        return False
    kept = part.kept(source.channels)
    try:
        places = places_along(resized(source.shape, source.dim, len(kept)), source.dim, kept)
        moved = run_on(value, places, part.constants, **changes)
    except (RuntimeError, IndexError):
        return False
    moved = [moved] if isinstance(moved, Tensor) else list(moved)
    if len(moved) != len(results):
        return False
    for places, result in zip(moved, taken, strict=True):
        out = part.kept(result.channels)
        expected = places_along(resized(result.shape, result.dim, len(out)), result.dim, result.index[out])
        if places.shape != expected.shape or not bool((places == expected).all()):
            return False
    return True


def _take(part: Cut, result: RearrangedRow) -> Value:
    """A row's kept channels out of its origin's kept channels."""
    origin, whole = result.origin, part.row(result.origin)
    own = part.kept(whole.channels)
    at = np.searchsorted(own, result.index[part.kept(result.channels)])
    if len(at) and (np.diff(at) == 1).all():
        if len(at) == len(own):
            return part.new[origin]
        return part.call(aten.slice.Tensor, part.new[origin], whole.dim, int(at[0]), int(at[-1]) + 1)
    index = part.buffer(torch.as_tensor(at), "order")
    return part.call(aten.index_select.default, part.new[origin], whole.dim, index)


def _by_element(part: Cut, value: Value) -> Value:
    """The kept elements of an image one by one, as the operator moves them."""
    whole = value.given.source
    source, result = part.channels.layouts[whole], part.channels.layouts[value]
    count = int(np.prod(source.shape[1:]))
    elements = torch.arange(source.shape[0] * count).view(source.shape)
    kept_elements = elements[0]
    if isinstance(source, ChannelRow):
        kept_elements = kept_elements.index_select(source.dim - 1, torch.as_tensor(part.kept(source.channels)))
    moved = run_on(value, elements, part.constants)[0]
    if isinstance(result, ChannelRow):
        moved = moved.index_select(result.dim - 1, torch.as_tensor(part.kept(result.channels)))
    place = torch.full((count,), -1)
    place[kept_elements.flatten()] = torch.arange(kept_elements.numel())
    index = part.buffer(place[moved.flatten()], "order")
    flat = part.call(aten.reshape.default, part.new[whole], [-1, kept_elements.numel()])
    taken = part.call(aten.index_select.default, flat, 1, index)
    return part.call(aten.reshape.default, taken, [-1, *moved.shape])


def reshape_on_lanes(value: Value, shape: tuple[int, ...], lanes: int) -> Value | None:
    """A reshape of the pixels of each channel; None if it changes images or channels."""
    if value.shape[:2] != shape[:2]:
        return None
    return Value(value.number, aten.reshape.default, (value.given.source, [-1, shape[1] * lanes, *value.shape[2:]]))


def split_on_lanes(value: Value, shape: tuple[int, ...], lanes: int) -> Value | None:
    """The split of channels, `lanes` times as many, or of pixels; None for images."""
    given = value.given
    if given.dim % len(shape) != 1:
        return value if given.dim % len(shape) else None
    if value.kind == "chunk":
        sizes = -(-shape[1] // given.chunks)
    else:
        sizes = given.split_sizes if value.kind == "split_with_sizes" else given.split_size
    sizes = [size * lanes for size in sizes] if isinstance(sizes, list) else sizes * lanes
    return Value(value.number, torch.split, (given.source, sizes, 1))


def _takes_all(value: Value) -> bool:
    """Whether a slice is its operand."""
    given = value.given
    return given.step == 1 and given.start in (0, None) and (given.end is None or given.end >= LAST)


def slice_on_lanes(value: Value, shape: tuple[int, ...], lanes: int) -> Value | None:
    """The slice of neighbouring channels or of pixels; None for images, and with steps over channels."""
    given, is_all = value.given, _takes_all(value)
    if given.dim % len(shape) != 1 or is_all:
        return value if given.dim % len(shape) or is_all else None
    first, last, _ = slice(given.start, given.end).indices(shape[1])
    return value.changed(start=first * lanes, end=last * lanes) if given.step == 1 else None


def selection_on_lanes(value: Value, shape: tuple[int, ...], lanes: int) -> Value | None:
    """The selection of channels by a constant index; None for others."""
    given = value.given
    if given.dim % len(shape) != 1 or not isinstance(given.index, Constant):
        return None
    places = given.index.compute()
    places = places[:, None] * lanes + torch.arange(lanes, device=places.device)
    return value.changed(index=places.flatten())
