"""The genetic operators by their exact definitions."""

import dataclasses
from collections import Counter
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from random_modules import tied_units

from configures.base import Config
from search.genetic.kernel_groups import genome_layout
from search.genetic.operators import crossover, first_population, mutate, next_generation, rank_by_fitness
from utils.errors import UserError

CONFIG = Config("simcnn", "digits", 10, population=400, sensitive_layers=(1,), rank_scale=2.0)
LAYOUT = genome_layout(tied_units((10, 20, 10, 300), (0, 1, 0, 3)), CONFIG)


def replaced(**changes: Any) -> Config:
    return dataclasses.replace(CONFIG, **changes)


def test_first_population_has_the_asked_numbers_of_active_genes():
    population = first_population(LAYOUT, CONFIG, 0, 3)
    assert population.shape == (400, 10 + 10 + 100)
    assert population.dtype == np.uint8
    for group, groups, ratios in ((0, 10, (4, 5, 6, 7)), (1, 10, (6, 7, 8)), (2, 100, (40, 50, 60, 70))):
        active = population[:, LAYOUT.gene_slices[group]].sum(1)
        assert LAYOUT.groups[group] == groups
        share = Counter(active.tolist())
        assert set(share) == set(ratios)
        assert all(abs(count / 400 - 1 / len(ratios)) < 0.1 for count in share.values())  # four standard deviations


def test_shares_that_binary_numbers_miss_are_rounded_down_from_what_was_meant():
    layout = genome_layout(tied_units((300,), (0,)), replaced(sensitive_layers=()))
    for ratio, active in ((0.29, 29), (0.57, 57), (0.58, 58), (0.999, 99), (0.009, 0)):
        population = first_population(layout, replaced(active_ratios=(ratio,), sensitive_layers=()), 0, 0)
        assert set(population.sum(1).tolist()) == {active}


def test_important_groups_are_drawn_by_the_published_weights():
    """One of ten genes: its chance is exp((9 - rank) / rank_scale) over the sum of these."""
    config = replaced(active_ratios=(0.1,), sensitive_layers=(), population=4000)
    layout = genome_layout(tied_units((10,), (0,)), config)
    found = first_population(layout, config, 0, 0).mean(0)
    weights = np.exp((9 - np.arange(10)) / 2.0)
    expected = weights / weights.sum()
    np.testing.assert_allclose(found, expected, atol=4 * np.sqrt(0.25 / 4000))


@pytest.mark.parametrize("rank_scale", [0.17, 1e300])
def test_extreme_rank_scales(rank_scale):
    population = first_population(LAYOUT, replaced(rank_scale=rank_scale, population=50), 0, 0)
    wide = population[:, LAYOUT.gene_slices[2]]
    assert set(wide.sum(1).tolist()) == {40, 50, 60, 70}
    if rank_scale == 0.17:  # the next group is exp(1 / 0.17) = 359 times less likely
        assert wide[:, :35].all()


def test_a_rank_scale_that_no_float_holds_is_refused():
    with pytest.raises(UserError, match=r"expected at least 0\.17"):
        first_population(LAYOUT, replaced(rank_scale=0.1), 0, 0)


def test_random_first_population_is_of_fair_coins():
    population = first_population(LAYOUT, replaced(init_pop_mode="random"), 0, 0)
    assert population.shape == (400, LAYOUT.num_genes)
    assert set(np.unique(population)) == {0, 1}
    assert abs(population.mean() - 0.5) < 4 * 0.5 / np.sqrt(population.size)
    assert (abs(population.mean(0) - 0.5) < 5 * 0.5 / np.sqrt(400)).all()


def test_populations_depend_on_seed_class_and_generation_alone():
    first = first_population(LAYOUT, CONFIG, 0, 3)
    assert np.array_equal(first, first_population(LAYOUT, CONFIG, 0, 3))
    assert not np.array_equal(first, first_population(LAYOUT, CONFIG, 1, 3))
    assert not np.array_equal(first, first_population(LAYOUT, CONFIG, 0, 4))
    fitness = np.zeros(400)
    second = next_generation(first, fitness, CONFIG, 0, 3, 1)
    assert np.array_equal(second, next_generation(first, fitness, CONFIG, 0, 3, 1))
    for seed, target_class, generation in ((1, 3, 1), (0, 4, 1), (0, 3, 2)):
        assert not np.array_equal(second, next_generation(first, fitness, CONFIG, seed, target_class, generation))


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1))
def test_rank_by_fitness(fitness):
    expected = sorted(range(len(fitness)), key=lambda chromosome: (-fitness[chromosome], chromosome))
    assert rank_by_fitness(np.array(fitness)).tolist() == expected


@given(
    num_parents=st.integers(1, 6), num_genes=st.integers(1, 9), num_offspring=st.integers(0, 9), seed=st.integers(0, 99)
)
def test_crossover_is_single_point(num_parents, num_genes, num_offspring, seed):
    # Each gene of each parent is a number of its own, so that its origin shows.
    parents = np.arange(num_parents * num_genes).reshape(num_parents, num_genes)
    offspring = crossover(parents, num_offspring, np.random.default_rng(seed))
    assert offspring.shape == (num_offspring, num_genes)
    for number, child in enumerate(offspring.tolist()):
        first, second = parents[number % num_parents].tolist(), parents[(number + 1) % num_parents].tolist()
        points = range(1, num_genes) if num_genes > 1 else [1]
        assert child in [first[:point] + second[point:] for point in points]


def test_every_crossover_point_is_as_likely():
    parents = np.stack([np.zeros(5, np.uint8), np.ones(5, np.uint8)])
    offspring = crossover(parents, 8000, np.random.default_rng(0))
    points = Counter((offspring != offspring[:, :1]).argmax(1).tolist())
    assert set(points) == {1, 2, 3, 4}
    assert all(abs(count / 8000 - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 8000) for count in points.values())


@given(
    num_offspring=st.integers(0, 5),
    num_genes=st.integers(1, 60),
    share=st.sampled_from([0.0, 0.05, 0.29, 0.5, 1.0]),
    seed=st.integers(0, 99),
)
def test_mutate_redraws_a_share_of_the_genes(num_offspring, num_genes, share, seed):
    # Genes of value 2 show which ones were drawn again, whether or not the new value is the old one.
    offspring = np.full((num_offspring, num_genes), 2, np.uint8)
    mutated = mutate(offspring, share, np.random.default_rng(seed))
    num_mutated = max(1, num_genes * round(100 * share) // 100) if share else 0
    assert ((mutated != 2).sum(1) == num_mutated).all()
    assert set(np.unique(mutated)) <= {0, 1, 2}
    assert (offspring == 2).all()


def test_every_gene_is_redrawn_as_often_and_fairly():
    mutated = mutate(np.full((4000, 20), 2, np.uint8), 0.05, np.random.default_rng(0))
    np.testing.assert_allclose((mutated != 2).mean(0), 0.05, atol=4 * np.sqrt(0.05 * 0.95 / 4000))
    assert abs((mutated == 1).sum() / 4000 - 0.5) < 4 * 0.5 / np.sqrt(4000)


@given(
    fitness=st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=6, max_size=6),
    elites=st.integers(1, 6),
    parents=st.integers(1, 6),
    generation=st.integers(1, 5),
)
def test_next_generation_keeps_elites_and_breeds_from_the_parents(fitness, elites, parents, generation):
    num_genes = 10
    population = np.arange(6)[:, None] * np.ones(num_genes, np.uint8) + 10
    config = Config("simcnn", "digits", 10, population=6, elites=elites, parents=parents, mutation=0.1)
    bred = next_generation(population.astype(np.uint8), np.array(fitness), config, 0, 0, generation)
    best_first = sorted(range(6), key=lambda chromosome: -fitness[chromosome])
    assert bred.shape == population.shape
    assert (bred[:elites] == population[best_first[:elites]]).all()
    for number, child in enumerate(bred[elites:].tolist()):
        first, second = (10 + best_first[(number + step) % parents] for step in (0, 1))
        kept = [gene for gene in child if gene >= 10]
        assert len(kept) == num_genes - 1
        assert kept == sorted(kept, key=lambda gene: gene != first)
        assert set(kept) <= {first, second}
