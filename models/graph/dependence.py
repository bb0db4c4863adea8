"""On which masks each value of a graph depends, so that modules which agree on these share what they compute."""

from dataclasses import dataclass

import numpy as np
from torch import fx

from models.graph.graph import Graph
from models.graph.layouts import Layout


@dataclass(frozen=True)
class Dependence:
    """Two modules whose masks agree on `above` have the same maps of every channel that both have.

    If they agree on `own` as well, they have the same channels, so the whole value is the same.
    """

    above: frozenset[int]  # groups whose masks stand in front of this node or of what it is made of
    own: frozenset[int]  # groups of the channels that the value itself has

    @property
    def groups(self) -> frozenset[int]:
        """All groups on which a module's value depends."""
        return self.above | self.own


def dependences(graph: Graph) -> dict[str, Dependence]:
    """Of every node that depends on the images the groups (by number) that its value depends on, by its name."""
    units = graph.units
    group_of_unit = np.full(units.num_units + 1, -1)
    for number, group in enumerate(units.groups):
        group_of_unit[group.units] = number

    def groups_of(channels: np.ndarray) -> frozenset[int]:
        return frozenset(group_of_unit[units.unit_of_channel[channels]].tolist()) - {-1}

    read = {reader.node: groups_of(reader.channels) for reader in graph.channels.readers}
    found: dict[fx.Node, Dependence] = {}
    for node, layouts in graph.channels.layouts.items():
        above = read.get(node, frozenset()).union(
            *(found[operand].above for operand in node.all_input_nodes if operand in found)
        )
        own = frozenset().union(
            *(
                groups_of(_row(graph, layout).channels)
                for layout in (layouts if isinstance(layouts, list) else [layouts])
                if not layout.is_plain
            )
        )
        found[node] = Dependence(above, own)
    return {node.name: dependence for node, dependence in found.items()}


def _row(graph: Graph, layout: Layout) -> Layout:
    return graph.channels.layout(layout.origin.node) if layout.is_scattered else layout
