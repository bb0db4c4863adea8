"""How good a classifier is at one target class, and at the others."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

METRICS = ("precision", "recall", "f1", "others_accuracy")


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """(num_classes, num_classes) int64: how many images of a row's class were taken for a column's class."""
    return np.bincount(labels * num_classes + predictions, minlength=num_classes**2).reshape(num_classes, num_classes)


@dataclass(frozen=True)
class TargetClassScores:
    """Counts of images and what follows from them; a share of no images is 0."""

    true_positives: int  # of the target class, and taken for it
    false_positives: int  # of other classes, but taken for it
    false_negatives: int  # of the target class, but taken for others
    others_right: int  # of other classes, and taken for their own
    others: int  # of other classes

    @property
    def precision(self) -> float:
        """The share of the images predicted as the target class that belong to it."""
        return _share(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float:
        """The share of the target class's images that are taken for it."""
        return _share(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall."""
        return _share(2 * self.true_positives, 2 * self.true_positives + self.false_positives + self.false_negatives)

    @property
    def others_accuracy(self) -> float:
        """The share of the other classes' images that are taken for their own class."""
        return _share(self.others_right, self.others)


def metrics_of(scores: TargetClassScores) -> list[float]:
    """The values of METRICS, shares from 0 to 1."""
    return [getattr(scores, name) for name in METRICS]


def _share(count: int, total: int) -> float:
    return count / total if total else 0.0


def scores_of_target_class(
    confusion: np.ndarray, target_class: int, patched_classes: Collection[int] = ()
) -> TargetClassScores:
    """The scores that a confusion matrix (classes, classes), rows = labels, gives for one class.

    Further classes that the same patch is for, `patched_classes`, are none of the others.
    """
    right, of_class = np.diagonal(confusion), confusion.sum(1)
    others = np.setdiff1d(np.arange(len(confusion)), [target_class, *patched_classes])
    true_positives = int(right[target_class])
    return TargetClassScores(
        true_positives=true_positives,
        false_positives=int(confusion[:, target_class].sum()) - true_positives,
        false_negatives=int(of_class[target_class]) - true_positives,
        others_right=int(right[others].sum()),
        others=int(of_class[others].sum()),
    )
