"""How large each unit's maps are, for kernel importance: the L1 norm of what the unit's first reader is given.

For layers that are added it is the first reader behind the last addition, so that the sum counts. A map is taken before
it is pooled.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.graph.graph import Graph
from models.graph.layouts import ChannelRow
from models.graph.operators import MOVES, POOLS
from models.graph.propagation import Propagation
from models.graph.values import Value

HANDED_ON = {*POOLS.split(), *MOVES.split(), "mean"} - {"getitem"}  # what is looked through on the way back to the map


@dataclass(frozen=True)
class Observed:
    """Units whose maps are in one value."""

    name: str  # of the value
    dim: int  # of the value: its row of channels
    places: np.ndarray  # (m,) in that row
    units: np.ndarray  # (m,) at these places


def unit_norms(graph: Graph, images: Tensor, of_value: Callable[[Tensor], Tensor] = torch.abs) -> tuple[Tensor, Tensor]:
    """Logits (n, classes), and each unit's L1 norm on each image (n, units) float32.

    A unit of several channels has the sum of their norms.

    Args:
        graph: whose units.
        images: (n, channels, side, side), as of `Graph.forward`.
        of_value: what is summed over a map, of its values; by default their absolute values.
    """
    norms = torch.zeros(len(images), graph.num_units, device=images.device)

    def observe(observed: list[Observed]) -> Callable[[Tensor], None]:
        def enter(value: Tensor) -> None:
            for part in observed:
                pixels = [dim for dim in range(1, value.dim()) if dim != part.dim]
                sums = of_value(value).float()
                sums = sums.sum(pixels) if pixels else sums
                places, units = (torch.as_tensor(index, device=value.device) for index in (part.places, part.units))
                norms.index_add_(1, units, sums.index_select(1, places))

        return enter

    by_name: dict[str, list[Observed]] = {}
    for part in observed_values(graph):
        by_name.setdefault(part.name, []).append(part)
    logits = graph.forward(images, observe={name: observe(parts) for name, parts in by_name.items()})
    return logits, norms


def stream_maps(graph: Graph) -> list[Observed]:
    """The maps that readers are given and that residual additions have added to, with all channels of theirs.

    Of a network without additions, all maps that readers are given. Units are -1 where a channel is always kept.
    """
    units, no_class = graph.units.unit_of_channel, graph.units.class_of_channel < 0
    rows = {
        reader.source: reader
        for reader in graph.channels.readers
        if (units[reader.channels] >= 0).any() and no_class[reader.channels].all()
    }
    joined = np.unique(np.concatenate([np.array([-1]), *(units[row] for _, row in graph.channels.joins)]))
    stream = {value: row for value, row in rows.items() if np.isin(units[row.channels], joined).all()}
    return [
        Observed(value.name, row.dim, np.arange(len(row.channels)), units[row.channels])
        for value, row in (stream or rows).items()
    ]


def observed_values(graph: Graph) -> list[Observed]:
    """Where each unit's maps are looked at; every unit is in exactly one of them, unless nothing reads it."""
    channels, unit_of_channel = graph.channels, graph.units.unit_of_channel
    last_join = np.full(graph.num_units + 1, -1)  # the last place is that of what is always kept
    for value, row in channels.joins:
        last_join[unit_of_channel[row]] = value.number
    chosen: list[Observed] = []
    is_open = np.append(np.ones(graph.num_units, bool), False)
    # Behind the last join, in order; what is only read before it, by its last reader.
    in_order = sorted(channels.readers, key=lambda reader: reader.value.number)
    for readers, before_join in ((in_order, False), (in_order[::-1], True)):
        for reader in readers:
            units = unit_of_channel[reader.channels]
            wanted = is_open[units] & (before_join | (last_join[units] < reader.value.number))
            if wanted.any():
                found = np.unique(units[wanted])
                chosen.extend(_maps_of(channels, reader.source, found, unit_of_channel))
                is_open[found] = False
    return chosen


def _maps_of(channels: Propagation, source: Value, units: np.ndarray, unit_of_channel: np.ndarray) -> list[Observed]:
    """The maps that a value has of units, before pooling."""
    while source.kind in HANDED_ON:
        maps = source.given.source
        before = channels.layouts.get(maps)
        if not isinstance(before, ChannelRow) or not np.isin(units, unit_of_channel[before.channels]).all():
            break
        source = maps
    layout = channels.row(source)
    of_place = unit_of_channel[layout.channels]
    places = np.flatnonzero(np.isin(of_place, units))
    return [Observed(source.name, layout.dim, places, of_place[places])]
