"""What a network and its graph are, in words and tables: parameters, FLOPs, layers, units, groups."""

from collections.abc import Sequence

from torch import nn

from models.graph import Graph, Units
from models.weights import count_parameters
from utils.tables import show_table

LISTED = 3  # groups of a layer that has more are counted


def show_cost(network: nn.Module, graph: Graph) -> None:
    """Print what an image costs."""
    print(f"parameters: {count_parameters(network):,}")
    print(f"FLOPs of an image: {graph.flops:,} (a multiply-accumulate counts 2)\n")


def show_layers(units: Units) -> None:
    """Print which conv layers can lose kernels, and why others cannot."""
    rows = []
    for number, layer in enumerate(units.layers):
        groups = [group for group, of_group in enumerate(units.groups) if number in of_group.layers]
        rows.append(
            [number, layer.name, layer.width, listed(groups), "yes" if layer.is_cuttable else f"no: {layer.reason}"]
        )
    show_table(["number", "conv layer", "kernels", "group", "can be cut"], rows)
    free = int((units.unit_of_kernel >= 0).sum())
    cuttable = sum(layer.is_cuttable for layer in units.layers)
    print(f"\nconv layers that can be cut: {cuttable} of {len(units.layers)}")
    print(f"kernels that can be dropped: {free:,} of {units.num_kernels:,}")
    print(f"units (kernels that go together, for example across an addition): {units.num_units:,}")
    print(f"groups (units in the same conv layers): {len(units.groups)}")


def listed(groups: Sequence[int]) -> str:
    """The groups of a layer, or how many there are."""
    return ", ".join(map(str, groups)) if len(groups) <= LISTED else f"{len(groups)} groups"
