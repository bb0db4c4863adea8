"""Counting pairs of rows, whatever blocks, threads, equal rows and decided columns there are."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

from search.genetic import pair_counting
from search.genetic.pair_counting import COLUMN_BLOCK, _count_on_device, count_greater
from utils.device import core_threads

SIZES = [0, 1, 7, 8, 9, COLUMN_BLOCK - 1, COLUMN_BLOCK, COLUMN_BLOCK + 1, 2 * COLUMN_BLOCK + 3]


def compared(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    return (values[:, None] > others[None]).sum(-1)


def counted(
    values: np.ndarray, others: np.ndarray, num_best: int | None = None, threads: int | None = None
) -> np.ndarray:
    with core_threads(torch.device("cpu"), threads) as workers:
        return count_greater(values, others, num_best, workers=workers)


@pytest.mark.parametrize("num_columns", SIZES)
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int32])
def test_counting(num_columns, kind):
    random = np.random.default_rng(0)
    values, others = (random.integers(0, 4, (rows, num_columns)).astype(kind) for rows in (5, 3))
    expected = compared(values, others)
    for threads in (1, 2, 7, None):
        assert np.array_equal(counted(values, others, threads=threads), expected)
    for lift, everywhere in ((5, num_columns), (0, 0)):
        counts = counted(np.full_like(values, lift), np.full_like(others, 1))
        assert counts.dtype == np.int64
        assert (counts == everywhere).all()
    # The same operations that run on CUDA.
    assert np.array_equal(_count_on_device(values, others, torch.device("cpu")), expected)


@pytest.mark.parametrize("num_columns", SIZES)
def test_counts_are_as_large_as_columns_are_many(num_columns):
    """One pair that is greater everywhere beside one that never is, so that no column is decided for all."""
    values, others = np.ones((2, num_columns), np.uint8), np.zeros((2, num_columns), np.uint8)
    values[1] = 0
    assert counted(values, others).tolist() == [[num_columns] * 2, [0, 0]]


@given(
    rows=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    num_columns=st.integers(0, 12),
    largest=st.integers(1, 4),
    seed=st.integers(0, 999),
)
def test_equal_rows_and_decided_columns(rows, num_columns, largest, seed):
    random = np.random.default_rng(seed)
    drawn = []
    for count in rows:
        low, spread = random.integers(0, largest, (2, num_columns))
        different = low + random.integers(0, 2, (count, num_columns)) * spread
        drawn.append(different[random.integers(count, size=count)].astype(np.uint8))
    values, others = drawn
    assert np.array_equal(counted(values, others), compared(values, others))


@pytest.mark.parametrize("threads", [1, 2, 3, 100])
def test_threads_and_blocks_of_any_size(threads, monkeypatch):
    monkeypatch.setattr(pair_counting, "ROWS_AT_ONCE", 3)
    monkeypatch.setattr(pair_counting, "COMPARED_BYTES", 64)
    random = np.random.default_rng(threads)
    values, others = (random.integers(0, 9, (rows, 31)).astype(np.uint8) for rows in (40, 17))
    assert np.array_equal(counted(values, others, threads=threads), compared(values, others))


@given(
    rows=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    num_columns=st.integers(0, 9),
    largest=st.integers(1, 9),
    num_best=st.integers(1, 20),
    seed=st.integers(0, 999),
)
def test_the_best_counts_are_exact(rows, num_columns, largest, num_best, seed):
    """All that are among the best, or equal the last of them; the others are 0 where they are not exact."""
    random = np.random.default_rng(seed)
    values, others = (
        random.integers(0, largest, (count, num_columns)) * random.integers(0, 2, (count, 1)) for count in rows
    )
    expected = compared(values.astype(np.uint8), others.astype(np.uint8))
    found = counted(values.astype(np.uint8), others.astype(np.uint8), num_best)
    last = np.sort(expected.ravel())[-min(num_best, expected.size)]
    assert np.array_equal(found[expected >= last], expected[expected >= last])
    assert ((found == expected) | (found == 0)).all()


def test_rows_far_from_the_best_are_left_out():
    random = np.random.default_rng(0)
    values, others = (random.integers(0, largest, (20, 40)).astype(np.uint8) for largest in (2, 3))
    values[:2] = [[5], [6]]
    found = counted(values, others, 2)
    assert (found[:2] == 40).all()
    assert found[2:].max() == 0 < compared(values, others)[2:].min()
