"""Genomes and masks: groups by importance, as equal as can be, and back and forth without loss."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from random_modules import tied_units, units_of_layers

from configures.base import Config
from models.graph import Units
from models.strong_model import graph_of
from search.genetic.kernel_groups import GenomeLayout, KernelGroups, genome_layout, kernel_groups
from utils.errors import UserError

CONFIG = Config("simcnn", "digits", 10)


@st.composite
def any_units(draw: st.DrawFn) -> Units:
    """Of one to five layers; a layer may share units with the others, all or some, and have kernels always kept."""
    units_of_each: list[list[int]] = []
    num_units = 0
    for number in range(draw(st.integers(1, 5))):
        shared = draw(st.sampled_from([[], *units_of_each])) if number else []
        shared = shared[: draw(st.integers(0, len(shared)))] if draw(st.booleans()) else shared
        new = draw(st.integers(0 if any(unit >= 0 for unit in shared) else 1, 20))
        always_kept = draw(st.sampled_from([0, 0, 0, 2]))
        units_of_each.append([*shared, *range(num_units, num_units + new), *[-1] * always_kept])
        num_units += new
    return units_of_layers(units_of_each)


@st.composite
def layouts(draw: st.DrawFn) -> GenomeLayout:
    """Any units, cut into few or many groups."""
    groups, groups_wide, wide_layer = (draw(st.integers(1, 12)) for _ in range(3))
    config = Config("simcnn", "digits", 10, groups=groups, groups_wide=groups_wide, wide_layer=wide_layer)
    return genome_layout(draw(any_units()), config)


@st.composite
def groups_of_a_class(draw: st.DrawFn) -> tuple[KernelGroups, np.ndarray]:
    """Importance (U,) has few distinct values, so that many units tie; also negative ones and zeros."""
    layout = draw(layouts())
    units = layout.units
    importance = np.array(draw(st.lists(st.integers(-1, 4), min_size=units.num_units, max_size=units.num_units)))
    return kernel_groups(layout, units.spread(importance.astype(np.float32), always=9)), importance


@pytest.mark.slow
def test_published_genomes() -> None:
    for name, genes, layers in (("simcnn", 4 * 10 + 9 * 100, 13), ("rescnn", 3 * 10 + 6 * 100, 9)):
        layout = genome_layout(graph_of(Config(name, "digits", 10)).units, CONFIG)
        assert layout.num_genes == genes
        assert list(layout.groups) == list(range(layers))
        assert list(layout.groups.values()) == [10 if len(g.units) < 256 else 100 for g in layout.units.groups]


def test_genome_of_resnet20() -> None:
    """The stem's units go through all stages; what the later ones have besides are groups of their own."""
    units = graph_of(Config("resnet20", "digits", 10)).units
    layout = genome_layout(units, CONFIG)
    assert len(layout.groups) == 12
    assert layout.num_genes == 12 * 10
    assert layout.sensitive == frozenset()
    of_layer = {group.layers: number for number, group in enumerate(units.groups)}
    everywhere, from_8, from_14 = tuple(range(0, 19, 2)), tuple(range(8, 19, 2)), (14, 16, 18)
    for sensitive, found, shown in (
        ((8,), {everywhere, from_8}, (0, 8, 14)),
        ((16,), {everywhere, from_8, from_14}, (0, 8, 14)),
        ((9,), {(9,)}, (9,)),
    ):
        layout = genome_layout(units, Config("resnet20", "digits", 10, sensitive_layers=sensitive))
        assert layout.sensitive == {of_layer[layers] for layers in found}
        assert layout.sensitive_layers == shown
    groups = kernel_groups(layout, np.random.default_rng(0).random(units.num_kernels))
    masks = groups.decode(np.random.default_rng(0).integers(0, 2, (50, layout.num_genes)))
    nothing = groups.decode(np.zeros((1, layout.num_genes), np.uint8))
    for mask in [*masks, *nothing]:
        assert np.array_equal(units.gather(units.spread(mask)), mask)
    assert 0 < nothing.sum() < len(units.layers)


@given(groups_of_a_class())
def test_groups_are_consecutive_and_as_equal_as_possible(given: tuple[KernelGroups, np.ndarray]) -> None:
    groups, importance = given
    layout = groups.layout
    assert np.array_equal(groups.importance, importance)
    for number, group in enumerate(layout.units.groups):
        # Most important first, equal ones by index.
        order = sorted(group.units.tolist(), key=lambda unit: (-importance[unit], unit))
        genes = groups.gene_of_unit[order]
        assert (np.diff(genes) >= 0).all()
        numbers, sizes = np.unique(genes, return_counts=True)
        where = layout.gene_slices[number]
        assert numbers.tolist() == list(range(where.start, where.stop))
        assert sizes.max() - sizes.min() <= 1


@given(given=groups_of_a_class(), data=st.data())
def test_decode_and_round_trip(given: tuple[KernelGroups, np.ndarray], data: st.DataObject) -> None:
    groups, importance = given
    layout, units = groups.layout, groups.layout.units
    genomes = data.draw(st.lists(st.lists(st.integers(0, 1), min_size=layout.num_genes, max_size=layout.num_genes)))
    population = np.array(genomes, np.uint8).reshape(-1, layout.num_genes)
    masks = groups.decode(population)
    assert masks.shape == (len(population), units.num_units)
    assert masks.dtype == bool
    for genome, mask in zip(population, masks, strict=True):
        expected = genome[groups.gene_of_unit] == 1
        added = np.flatnonzero(mask & ~expected)
        assert (mask | ~expected).all()
        for layer in range(len(units.layers)):
            of_layer = units.of_layer(layer)
            if len(of_layer) == units.layers[layer].width:
                assert mask[of_layer].any()
        for unit in added:  # the most important one of a layer that would be empty
            empty = [o for o in map(units.of_layer, range(len(units.layers))) if unit in o and not expected[o].any()]
            assert any(importance[unit] == importance[of_layer].max() for of_layer in empty)
        if not len(added):
            assert groups.encode(mask).tolist() == genome.tolist()


def test_encode_takes_the_nearer_value() -> None:
    layout = genome_layout(tied_units((6,), (0,)), Config("simcnn", "digits", 10, groups=2))
    groups = kernel_groups(layout, np.arange(6, 0, -1))
    assert groups.gene_of_unit.tolist() == [0, 0, 0, 1, 1, 1]
    assert groups.encode(np.array([1, 1, 0, 0, 0, 1], bool)).tolist() == [1, 0]


def test_a_sensitive_layer_makes_those_tied_to_it_sensitive() -> None:
    def layout(layers: tuple[int, ...]) -> GenomeLayout:
        return genome_layout(tied_units((4, 4, 4), (0, 1, 0)), Config("m", "d", 2, sensitive_layers=layers))

    assert layout((2,)).sensitive == {0}
    assert layout((2,)).sensitive_layers == (0,)
    assert layout((0, 1, 2)).sensitive == {0, 1}
    with pytest.raises(UserError, match="sensitive_layers 3: expected conv layers from 0 to 2"):
        layout((3,))
