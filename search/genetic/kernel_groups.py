"""Genomes: one gene per group of kernels, and back and forth between a genome and the kernels that it keeps.

Per class and layer the kernels are sorted by importance, most important first, and cut into consecutive groups as equal
as possible. A gene that is 1 keeps all kernels of its group. Layers tied by a residual addition share their genes.
"""

from dataclasses import dataclass

import numpy as np

from configures.base import Config
from models.cnn import Architecture
from utils.errors import UserError


@dataclass(frozen=True)
class GenomeLayout:
    """Which layers a network has and how many genes each has; the same for all classes."""

    architecture: Architecture
    groups: dict[int, int]  # genes of each free layer, by the layer's index
    sensitive: frozenset[int]  # the free layers that are sensitive

    @property
    def num_genes(self) -> int:
        """The length of a genome."""
        return sum(self.groups.values())

    @property
    def gene_slices(self) -> dict[int, slice]:
        """Where each free layer's genes stand in a genome."""
        slices, start = {}, 0
        for layer, groups in self.groups.items():
            slices[layer] = slice(start, start + groups)
            start += groups
        return slices


def genome_layout(architecture: Architecture, config: Config) -> GenomeLayout:
    """`groups` genes for a layer of fewer than `wide_layer` kernels, else `groups_wide`; never more than kernels.

    Raises UserError where `sensitive_layers` names a layer that the network does not have.
    """
    for layer in config.sensitive_layers:
        if layer >= len(architecture.convs):
            raise UserError(f"sensitive_layers {layer}: expected conv layers from 0 to {len(architecture.convs) - 1}")
    groups = {}
    for layer in architecture.free_layers:
        width = architecture.num_kernels[layer]
        groups[layer] = min(width, config.groups if width < config.wide_layer else config.groups_wide)
    sensitive = frozenset(architecture.tied_to[layer] for layer in config.sensitive_layers)
    return GenomeLayout(architecture, groups, sensitive)


@dataclass(frozen=True)
class KernelGroups:
    """One class's groups: which gene decides over each kernel."""

    layout: GenomeLayout
    gene_of_kernel: np.ndarray  # (K,) int64
    most_important: tuple[int, ...]  # per conv layer, the kernel (counted over all K) that an empty layer keeps

    def decode(self, population: np.ndarray) -> np.ndarray:
        """Genomes (population, genes) of 0 and 1 -> kernel masks (population, K) bool, True = kept.

        A layer whose genes are all 0 keeps its most important kernel, so that a module is never cut through.
        """
        masks = population.astype(bool)[:, self.gene_of_kernel]
        for layer_slice, kernel in zip(self.layout.architecture.layer_slices, self.most_important, strict=True):
            empty = ~masks[:, layer_slice].any(axis=1)
            masks[empty, kernel] = True
        return masks

    def encode(self, kernel_mask: np.ndarray) -> np.ndarray:
        """The genome (genes,) uint8 nearest to a mask (K,): a group is on if at least half of its kernels are kept."""
        kept = np.bincount(self.gene_of_kernel, weights=kernel_mask, minlength=self.layout.num_genes)
        size = np.bincount(self.gene_of_kernel, minlength=self.layout.num_genes)
        return (2 * kept >= size).astype(np.uint8)


def kernel_groups(layout: GenomeLayout, importance: np.ndarray) -> KernelGroups:
    """One class's groups from its kernels' importance (K,); equal importance goes by index."""
    slices = layout.architecture.layer_slices
    gene_of_kernel = np.zeros(layout.architecture.total_kernels, np.int64)
    most_important = []
    for layer_slice, first in zip(slices, layout.architecture.tied_to, strict=True):
        order = np.argsort(-importance[slices[first]], kind="stable")
        genes = layout.gene_slices[first]
        for gene, members in enumerate(np.array_split(order, layout.groups[first]), start=genes.start):
            gene_of_kernel[layer_slice.start + members] = gene
        most_important.append(layer_slice.start + int(order[0]))
    return KernelGroups(layout, gene_of_kernel, tuple(most_important))
