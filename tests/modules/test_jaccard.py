"""Jaccard distances against sets, and sums of them that do not depend on their order."""

import itertools
from fractions import Fraction

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays

from modules.jaccard import distance_units, mean_pairwise_distance


def distance(mask: np.ndarray, other: np.ndarray) -> Fraction:
    a, b = set(np.flatnonzero(mask)), set(np.flatnonzero(other))
    return 1 - Fraction(len(a & b), len(a | b)) if a | b else Fraction(0)


@given(data=st.data(), kernels=st.integers(1, 30))
def test_distances_are_those_of_the_sets(data: st.DataObject, kernels: int) -> None:
    masks = data.draw(arrays(bool, (4, kernels)))
    others = data.draw(arrays(bool, (3, kernels)))
    found = distance_units(masks, others)
    assert found.shape == (4, 3)
    for (row, mask), (column, other) in itertools.product(enumerate(masks), enumerate(others)):
        assert abs(Fraction(int(found[row, column]), 2**40) - distance(mask, other)) <= Fraction(1, 2**41)
    assert np.array_equal(found.T, distance_units(others, masks))


@given(data=st.data(), modules=st.integers(1, 6))
def test_mean_over_the_pairs(data: st.DataObject, modules: int) -> None:
    masks = data.draw(arrays(bool, (modules, 12)))
    pairs = [distance(a, b) for a, b in itertools.combinations(masks, 2)]
    expected = sum(pairs) / len(pairs) if pairs else 0
    assert abs(mean_pairwise_distance(masks) - expected) < 1e-12


def test_sums_do_not_depend_on_their_order() -> None:
    """Not even those over all pairs of a thousand modules, which float64 would round."""
    masks = np.random.default_rng(0).random((1000, 40)) < 0.05
    units = distance_units(masks, masks)[np.triu_indices(len(masks), 1)]
    total = sum(units.tolist())
    assert int(units.sum()) == int(np.sort(units).cumsum()[-1]) == total > 2**53
    shuffled = np.random.default_rng(1).permutation(len(masks))
    expected = float(Fraction(total, len(units) * 2**40))
    assert mean_pairwise_distance(masks) == mean_pairwise_distance(masks[shuffled])
    assert abs(mean_pairwise_distance(masks) - expected) <= 2**-52


def test_more_modules_than_are_summed_exactly_are_refused() -> None:
    with pytest.raises(ValueError, match="expected at most 4,096 modules, given 4,097"):
        mean_pairwise_distance(np.ones((4097, 1), bool))
