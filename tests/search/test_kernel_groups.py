"""Genomes and kernel masks: groups by importance, as equal as can be, and back and forth without loss."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from random_modules import tied_architecture

from configures.base import Config
from models.registry import architecture_of
from search.genetic.kernel_groups import GenomeLayout, KernelGroups, genome_layout, kernel_groups
from utils.errors import UserError

CONFIG = Config("simcnn", "digits", 10)


@st.composite
def layouts(draw: st.DrawFn) -> GenomeLayout:
    """Networks of one to five layers, some tied to an earlier one of the same width."""
    num_kernels: list[int] = []
    tied_to: list[int] = []
    for layer in range(draw(st.integers(1, 5))):
        first = draw(st.sampled_from([layer, *sorted(set(tied_to))]))
        num_kernels.append(draw(st.integers(1, 20)) if first == layer else num_kernels[first])
        tied_to.append(first)
    groups, groups_wide, wide_layer = (draw(st.integers(1, 12)) for _ in range(3))
    config = Config("simcnn", "digits", 10, groups=groups, groups_wide=groups_wide, wide_layer=wide_layer)
    return genome_layout(tied_architecture(num_kernels, tied_to), config)


@st.composite
def groups_of_a_class(draw: st.DrawFn) -> tuple[KernelGroups, np.ndarray]:
    """Importance has few distinct values, so that many kernels tie; also negative ones and zeros."""
    layout = draw(layouts())
    num_kernels = layout.architecture.total_kernels
    importance = draw(st.lists(st.integers(-1, 4), min_size=num_kernels, max_size=num_kernels))
    return kernel_groups(layout, np.array(importance, np.float32)), np.array(importance)


def test_published_genomes() -> None:
    for name, genes in (("simcnn", 4 * 10 + 9 * 100), ("rescnn", 3 * 10 + 6 * 100)):
        architecture = architecture_of(name)
        layout = genome_layout(architecture, CONFIG)
        assert layout.num_genes == genes
        assert tuple(layout.groups) == architecture.free_layers


@given(groups_of_a_class())
def test_groups_are_consecutive_and_as_equal_as_possible(given: tuple[KernelGroups, np.ndarray]) -> None:
    groups, importance = given
    layout = groups.layout
    for layer, kernels in enumerate(layout.architecture.layer_slices):
        first = layout.architecture.tied_to[layer]
        of_first = layout.architecture.layer_slices[first]
        # Most important first, equal ones by index.
        order = sorted(range(layout.architecture.num_kernels[layer]), key=lambda k: (-importance[of_first][k], k))
        genes = groups.gene_of_kernel[kernels][order]
        assert (np.diff(genes) >= 0).all()
        numbers, sizes = np.unique(genes, return_counts=True)
        where = layout.gene_slices[first]
        assert numbers.tolist() == list(range(where.start, where.stop))
        assert sizes.max() - sizes.min() <= 1
        assert groups.most_important[layer] == kernels.start + order[0]


@given(given=groups_of_a_class(), data=st.data())
def test_decode_and_round_trip(given: tuple[KernelGroups, np.ndarray], data: st.DataObject) -> None:
    groups, importance = given
    layout = groups.layout
    genomes = data.draw(st.lists(st.lists(st.integers(0, 1), min_size=layout.num_genes, max_size=layout.num_genes)))
    population = np.array(genomes, np.uint8).reshape(-1, layout.num_genes)
    masks = groups.decode(population)
    assert masks.shape == (len(population), layout.architecture.total_kernels)
    assert masks.dtype == bool
    for genome, mask in zip(population, masks, strict=True):
        some_empty = False
        for layer, kernels in enumerate(layout.architecture.layer_slices):
            expected = genome[groups.gene_of_kernel[kernels]] == 1
            if not expected.any():
                some_empty = True
                of_first = importance[layout.architecture.layer_slices[layout.architecture.tied_to[layer]]]
                expected[int(np.argmax(of_first))] = True
            assert mask[kernels].tolist() == expected.tolist()
            assert (
                mask[kernels].tolist()
                == mask[layout.architecture.layer_slices[layout.architecture.tied_to[layer]]].tolist()
            )
        if not some_empty:
            assert groups.encode(mask).tolist() == genome.tolist()


def test_encode_takes_the_nearer_value() -> None:
    layout = genome_layout(tied_architecture((6,), (0,)), Config("simcnn", "digits", 10, groups=2))
    groups = kernel_groups(layout, np.arange(6, 0, -1))
    assert groups.gene_of_kernel.tolist() == [0, 0, 0, 1, 1, 1]
    assert groups.encode(np.array([1, 1, 0, 0, 0, 1], bool)).tolist() == [1, 0]


def test_a_sensitive_layer_makes_those_tied_to_it_sensitive() -> None:
    def sensitive(layers: tuple[int, ...]) -> set[int]:
        return set(
            genome_layout(
                tied_architecture((4, 4, 4), (0, 1, 0)), Config("m", "d", 2, sensitive_layers=layers)
            ).sensitive
        )

    assert sensitive((2,)) == {0}
    assert sensitive((0, 1, 2)) == {0, 1}
    with pytest.raises(UserError, match="sensitive_layers 3: expected conv layers from 0 to 2"):
        sensitive((3,))
