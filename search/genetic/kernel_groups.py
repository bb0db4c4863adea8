"""Genomes: one gene per group of units, and back and forth between a genome and the units that it keeps.

A unit is a kernel with those that are kept or dropped with it. Per class and set of layers the units are sorted by
importance, most important first, and cut into consecutive groups as equal as possible. A gene that is 1 keeps all units
of its group.
"""

from dataclasses import dataclass

import numpy as np

from configures.base import Config
from models.graph import Units
from utils.errors import UserError


@dataclass(frozen=True)
class GenomeLayout:
    """How many genes the units of a network have; the same for all classes."""

    units: Units
    groups: dict[int, int]  # genes of each of `units.groups`, by its index
    sensitive: frozenset[int]  # those of `units.groups` that are in a sensitive layer

    @property
    def num_genes(self) -> int:
        """The length of a genome."""
        return sum(self.groups.values())

    @property
    def gene_slices(self) -> dict[int, slice]:
        """Where the genes of each of `units.groups` stand in a genome."""
        slices, start = {}, 0
        for group, genes in self.groups.items():
            slices[group] = slice(start, start + genes)
            start += genes
        return slices

    @property
    def sensitive_layers(self) -> tuple[int, ...]:
        """The sensitive layers, of tied ones the first."""
        chosen = {layer for group in self.sensitive for layer in self.units.groups[group].layers}
        return tuple(layer for layer in self.units.tied_layers if layer in chosen)


def genome_layout(units: Units, config: Config) -> GenomeLayout:
    """`groups` genes for fewer than `wide_layer` units in the same layers, else `groups_wide`; never more than units.

    Raises UserError if `sensitive_layers` names a layer that the network does not have.
    """
    for layer in config.sensitive_layers:
        if layer >= len(units.layers):
            raise UserError(f"sensitive_layers {layer}: expected conv layers from 0 to {len(units.layers) - 1}")
    groups = {}
    for number, group in enumerate(units.groups):
        width = len(group.units)
        groups[number] = min(width, config.groups if width < config.wide_layer else config.groups_wide)
    sensitive = {
        number for number, group in enumerate(units.groups) if set(group.layers) & set(config.sensitive_layers)
    }
    return GenomeLayout(units, groups, frozenset(sensitive))


@dataclass(frozen=True)
class KernelGroups:
    """One class's groups: which gene decides over each unit."""

    layout: GenomeLayout
    gene_of_unit: np.ndarray  # (U,) int64
    importance: np.ndarray  # (U,)

    def decode(self, population: np.ndarray) -> np.ndarray:
        """Genomes (population, genes) of 0 and 1 -> unit masks (population, U) bool, True = kept.

        If nothing would be left of a layer, its most important unit is kept, so that no module is cut through.
        """
        return self.layout.units.repair(population.astype(bool)[:, self.gene_of_unit], self.importance)

    def encode(self, unit_mask: np.ndarray) -> np.ndarray:
        """The genome (genes,) uint8 nearest to a mask (U,): a group is on if at least half of its units are kept."""
        kept = np.bincount(self.gene_of_unit, weights=unit_mask, minlength=self.layout.num_genes)
        size = np.bincount(self.gene_of_unit, minlength=self.layout.num_genes)
        return (2 * kept >= size).astype(np.uint8)


def kernel_groups(layout: GenomeLayout, importance: np.ndarray) -> KernelGroups:
    """One class's groups from its kernels' importance (K,); equal importance goes by index."""
    of_unit = importance[layout.units.first_kernels]
    gene_of_unit = np.zeros(layout.units.num_units, np.int64)
    for number, group in enumerate(layout.units.groups):
        order = group.units[np.argsort(-of_unit[group.units], kind="stable")]
        genes = layout.gene_slices[number]
        for gene, members in enumerate(np.array_split(order, layout.groups[number]), start=genes.start):
            gene_of_unit[members] = gene
    return KernelGroups(layout, gene_of_unit, of_unit)
