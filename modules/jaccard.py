"""How different modules are: the Jaccard distance between the sets of kernels that they keep."""

import numpy as np
import torch

# Distances are whole multiples of 2^-40. Their sums are of whole numbers, and exact for up to 2^23 pairs (4,096
# modules), so a mean distance does not depend on the order of summation, and an ensemble has one fitness whatever way
# it was put together.
RESOLUTION = 2.0**40
MOST_MODULES = 4096
ROWS_AT_ONCE = 256  # masks of one side that are compared at a time


def distance_units(masks: np.ndarray, other_masks: np.ndarray) -> np.ndarray:
    """1 - |A and B| / |A or B| for each pair of rows of (a, K) and (b, K) bool masks: (a, b) int64 multiples of 2^-40.

    They are summed exactly. Two empty sets are equal: distance 0.
    """
    # Counts up to 2^24 are exact in float32, and torch's matrix product in it is the fastest way to get them.
    rows, columns = (torch.from_numpy(np.ascontiguousarray(some)).float() for some in (masks, other_masks))
    shared = (rows @ columns.T).double().numpy()
    united = masks.sum(1, dtype=np.float64)[:, None] + other_masks.sum(1, dtype=np.float64)[None, :] - shared
    distance = np.where(united > 0, 1 - shared / np.maximum(united, 1), 0.0)
    return np.rint(distance * RESOLUTION).astype(np.int64)


def mean_of_units(total: np.ndarray, modules: int) -> np.ndarray:
    """The mean distance over all pairs of so many modules, float64, of the sum of their `distance_units`, int64."""
    return total / RESOLUTION / max(1, modules * (modules - 1) // 2)


def mean_pairwise_distance(masks: np.ndarray) -> float:
    """The mean Jaccard distance over all pairs of rows of (modules, K) masks; 0 for a single row.

    Raises ValueError for more than 4,096 modules, whose sum may not be exact.
    """
    modules = len(masks)
    if modules > MOST_MODULES:
        raise ValueError(f"expected at most {MOST_MODULES:,} modules, given {modules:,}")
    total = 0
    for start in range(0, modules, ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        total += int(np.triu(distance_units(masks[rows], masks[start:]), 1).sum())
    return float(mean_of_units(np.array(total), modules))
