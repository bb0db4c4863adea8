"""How well modules know their own class: the area under the ROC curve (AUC) of each module's logit.

It measures whether a module tells images of its class from all others, whatever the other modules' outputs. A composed
model may be right without that: if all other outputs are low, a module with a constant output wins.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

# A module whose AUC is further below the strong model's leaves the work to the others.
MOST_BELOW = 0.02


def auc_by_class(logits: np.ndarray, labels: np.ndarray, target_classes: Sequence[int] | None = None) -> np.ndarray:
    """The chance that an image of a class has a larger logit of that class than another image; ties count half.

    The Mann-Whitney U statistic over the number of pairs (Hanley and McNeil, Radiology 1982).

    Args:
        logits: (images, n).
        labels: (images,) int.
        target_classes: of the n columns; None = column c belongs to class c.

    Returns (n,) float64; NaN for a class of which there are all images or none.
    """
    logits, labels = np.asarray(logits), np.asarray(labels)
    target_classes = range(logits.shape[1]) if target_classes is None else target_classes
    auc = np.full(logits.shape[1], np.nan)
    for number, target_class in enumerate(target_classes):
        is_own = labels == target_class
        own, others = logits[is_own, number], np.sort(logits[~is_own, number])
        if len(own) and len(others):
            below, not_above = (np.searchsorted(others, own, side) for side in ("left", "right"))
            auc[number] = (below + not_above).sum() / (2 * len(own) * len(others))
    return auc


def explained_variance(logits: np.ndarray, strong_logits: np.ndarray) -> np.ndarray:
    """The share of the strong logits' variance that modules' logits explain: 1 - mean squared difference / variance.

    Both (images, modules); returns (modules,) float64. A strong logit that never varies counts as variance 1.
    """
    logits, strong_logits = (np.asarray(values, np.float64) for values in (logits, strong_logits))
    variance = strong_logits.var(0)
    unexplained: np.ndarray = np.square(logits - strong_logits).mean(0) / np.where(variance > 0, variance, 1)
    return 1 - unexplained


def uninformative(of_modules: ArrayLike, of_strong: ArrayLike) -> list[int]:
    """The classes whose module's AUC is more than MOST_BELOW below the strong model's; both (classes,)."""
    return np.flatnonzero(np.asarray(of_modules) < np.asarray(of_strong) - MOST_BELOW).tolist()
