"""How well modules know their own class: the area under the ROC curve (AUC) of each module's logit.

It asks whether a module tells images of its class from all others, whatever the other modules say. A composed model
may be right without that: where all others say no, a module that always says the same wins.
"""

import numpy as np

# A module whose AUC is further below the strong model's leaves the work to the others.
MOST_BELOW = 0.02


def auc_by_class(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The chance that an image of a class has a larger logit of that class than another image; ties count half.

    The Mann-Whitney U statistic over the number of pairs (Hanley and McNeil, Radiology 1982).

    Args:
        logits: (images, classes).
        labels: (images,) int.

    Returns (classes,) float64; NaN for a class of which there are all images or none.
    """
    auc = np.full(logits.shape[1], np.nan)
    for number, of_class in enumerate(np.asarray(logits).T):
        own, others = of_class[labels == number], np.sort(of_class[labels != number])
        if len(own) and len(others):
            below, not_above = (np.searchsorted(others, own, side) for side in ("left", "right"))
            auc[number] = (below + not_above).sum() / (2 * len(own) * len(others))
    return auc


def free_riders(of_modules: np.ndarray, of_strong: np.ndarray) -> list[int]:
    """The classes whose module's AUC is more than MOST_BELOW below the strong model's; both (classes,)."""
    return np.flatnonzero(np.asarray(of_modules) < np.asarray(of_strong) - MOST_BELOW).tolist()
