"""For all pairs of rows of two arrays, in how many columns the first is greater: the hot spot of the search's scoring.

Columns where all pairs agree are counted once, equal rows are counted once, rows without a pair among the best are left
out, and the rest is compared as bytes.
"""

import math
from concurrent.futures import Executor

import numpy as np
import torch

# Columns compared at a time: a count of at most 255 x 8 fits the eight byte-wide counters of a 64-bit word.
COLUMN_BLOCK = 255 * 8
COMPARED_BYTES = 2**20  # of comparisons at a time: in the cache, yet long, since threads change places between them
ROWS_AT_ONCE = 64  # of the shorter array, which a thread compares with all of the longer one


def count_greater(
    values: np.ndarray,
    others: np.ndarray,
    num_best: int | None = None,
    *,
    workers: Executor,
    device: torch.device | None = None,
) -> np.ndarray:
    """For each row of `values` and each row of `others`: in how many columns the first is greater.

    Args:
        values, others: (a, n) and (b, n) integers of one dtype; small ones are compared fastest.
        num_best: how many of the largest counts are wanted; with them all that equal the last of them. Any smaller
            count may be given as 0. None = all.
        workers: of utils.device, for the CPU. The result does not depend on how many they are.
        device: a CUDA device to compare on; None = the CPU.

    Returns (a, b) int64.
    """
    always, undecided = _columns(values, others)
    # `take` lays rows out whole; indexing would lay columns out whole, which is several times slower to compare.
    values, of_value = _distinct(values.take(undecided, axis=1))
    others, of_other = _distinct(others.take(undecided, axis=1))
    counts = np.zeros((len(values), len(others)), np.int64)
    rows, other_rows = _promising(values, others, num_best or counts.size, workers)
    if device is not None and device.type == "cuda":
        counted = _count_on_device(values[rows], others[other_rows], device)
    else:
        counted = _count(values[rows], others[other_rows], workers)
    counts[np.ix_(rows, other_rows)] = counted + always
    all_counts: np.ndarray = counts[np.ix_(of_value, of_other)]
    return all_counts


def _columns(values: np.ndarray, others: np.ndarray) -> tuple[int, np.ndarray]:
    """How many columns are greater in all pairs, and which (k,) are so in some pairs only."""
    always = values.min(0) > others.max(0)
    never = values.max(0) <= others.min(0)
    return int(always.sum()), np.flatnonzero(~(always | never))


def _distinct(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different rows, in order of appearance, and for each row its place among them."""
    place_of: dict[bytes, int] = {}
    places = np.array([place_of.setdefault(row.tobytes(), len(place_of)) for row in rows])
    if len(place_of) == len(rows):
        return rows, places
    return rows[np.unique(places, return_index=True)[1]], places


def _promising(
    values: np.ndarray, others: np.ndarray, num_best: int, workers: Executor
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of both that may have a pair among the `num_best` largest counts, ties included.

    No pair of a row counts more than the row beside the smallest of the others in each column, or the largest. The rows
    with the highest such bounds are counted first; what their best pairs reach is what a row's bound must reach.
    """
    some = 2 * math.isqrt(num_best)
    if 4 * some**2 > len(values) * len(others):
        return np.arange(len(values)), np.arange(len(others))
    # v > min is ~min > ~v, so that one row is compared with many.
    bounds = _count(~others.min(0)[None], ~values, workers)[0], _count(values.max(0)[None], others, workers)[0]
    first, other_first = (np.argsort(-bound, kind="stable")[:some] for bound in bounds)
    reached = _count(values[first], others[other_first], workers).ravel()
    least = np.partition(reached, -num_best)[-num_best] if len(reached) >= num_best else 0
    return np.flatnonzero(bounds[0] >= least), np.flatnonzero(bounds[1] >= least)


def _count(values: np.ndarray, others: np.ndarray, workers: Executor) -> np.ndarray:
    if len(values) > len(others):  # few rows against many are long comparisons; v > o is ~o > ~v
        return _count(~others, ~values, workers).T
    counts = np.zeros((len(values), len(others)), np.int64)
    parts = [slice(first, first + ROWS_AT_ONCE) for first in range(0, len(values), ROWS_AT_ONCE)]
    list(workers.map(lambda part: _count_rows(values[part], others, counts[part]), parts))
    return counts


def _count_rows(values: np.ndarray, others: np.ndarray, counts: np.ndarray) -> None:
    """Add to counts (a, b). A comparison is a byte 0 or 1; they are added eight at a time, as 64-bit words.

    Of the two libraries torch compares bytes faster, and NumPy adds words faster.
    """
    for start in range(0, values.shape[1], COLUMN_BLOCK):
        columns = slice(start, start + COLUMN_BLOCK)
        width = len(values[0, columns])
        padded = -(-width // 8) * 8  # to whole words, with False
        at_once = max(1, COMPARED_BYTES // padded)
        rows = torch.from_numpy(values[:, columns])
        for first in range(0, len(others), at_once):
            block = torch.from_numpy(np.ascontiguousarray(others[first : first + at_once, columns]))
            greater = torch.zeros(len(block), padded, dtype=torch.bool)
            words, compared = greater.numpy().view(np.uint64), greater[:, :width]
            sums = np.empty((len(values), len(block)), np.uint64)
            for row, sum_of_row in zip(rows, sums, strict=True):
                torch.gt(row, block, out=compared)
                np.add.reduce(words, axis=1, out=sum_of_row)
            counts[:, first : first + at_once] += _added_bytes(sums)


def _added_bytes(words: np.ndarray) -> np.ndarray:
    """The sum of each 64-bit word's eight bytes: added in pairs, and these by a product's highest 16 bits."""
    pairs = (words & np.uint64(0x00FF00FF00FF00FF)) + (words >> np.uint64(8) & np.uint64(0x00FF00FF00FF00FF))
    return (pairs * np.uint64(0x0001000100010001) >> np.uint64(48)).astype(np.int64)


def _count_on_device(values: np.ndarray, others: np.ndarray, device: torch.device) -> np.ndarray:
    left, right = torch.as_tensor(values, device=device), torch.as_tensor(np.ascontiguousarray(others), device=device)
    at_once = max(1, 2**28 // max(1, right.numel()))  # comparisons that are held at a time: 256 MiB
    counts = [(rows[:, None] > right[None]).sum(-1) for rows in left.split(at_once)]
    return torch.cat(counts).cpu().numpy()
