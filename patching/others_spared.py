"""How far target classes' scores must be lowered for the other classes to keep their right answers."""

from collections.abc import Sequence

import numpy as np

SLACK = 1e-4  # by which a lowered score stays below the one that it is to leave first, in spite of rounding


def others_right(answers: np.ndarray, labels: np.ndarray, targets: Sequence[int]) -> int:
    """How many images of classes that are no targets are answered rightly; both (images,) int64."""
    return int((answers == labels)[~np.isin(labels, list(targets))].sum())


def least_lowering(scores: np.ndarray, labels: np.ndarray, targets: Sequence[int], right: int) -> float:
    """What to take from all target classes' scores, 0 or more, for `right` images of other classes to be right.

    Where fewer can be, the least that makes all of them right which can be. The fewer images of other classes are
    lost, the fewer of the target classes are won.

    Args:
        scores: (images, classes) float.
        labels: (images,) int64.
        targets: the target classes, of which at least one class is none.
        right: how many.
    """
    is_target = np.isin(np.arange(scores.shape[1]), list(targets))
    without = np.where(is_target, -np.inf, scores)
    winnable = without.argmax(1) == labels
    margins = np.sort((np.where(is_target, scores, -np.inf).max(1) - without.max(1))[winnable])
    needed = min(right, len(margins))
    return max(0.0, float(margins[needed - 1]) + SLACK) if needed > 0 else 0.0
