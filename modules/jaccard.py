"""How different modules are: the Jaccard distance between the sets of kernels that they keep."""

import numpy as np
import torch

# Distances are kept as multiples of 2^-40. Sums of fewer than 2^12 of them are exact in float64, so a mean distance
# does not depend on the order of summation, and an ensemble has one fitness whatever way it was put together.
RESOLUTION = 2.0**40


def jaccard_distances(masks: np.ndarray, other_masks: np.ndarray) -> np.ndarray:
    """1 - |A and B| / |A or B| for each pair of rows of (a, K) and (b, K) bool masks, as (a, b) float64.

    Rounded to a multiple of 2^-40. Two empty sets are equal: distance 0.
    """
    # Counts up to 2^24 are exact in float32, and torch's matrix product in it is the fastest way to get them.
    rows, columns = (torch.from_numpy(np.ascontiguousarray(some)).float() for some in (masks, other_masks))
    shared = (rows @ columns.T).double().numpy()
    united = masks.sum(1, dtype=np.float64)[:, None] + other_masks.sum(1, dtype=np.float64)[None, :] - shared
    distance = np.where(united > 0, 1 - shared / np.maximum(united, 1), 0.0)
    return np.rint(distance * RESOLUTION) / RESOLUTION


def mean_pairwise_distance(masks: np.ndarray) -> float:
    """The mean Jaccard distance over all pairs of rows of (modules, K) masks; 0 for a single row."""
    modules = len(masks)
    if modules < 2:
        return 0.0
    above_diagonal = np.triu(jaccard_distances(masks, masks), 1)
    return float(above_diagonal.sum() / (modules * (modules - 1) / 2))
