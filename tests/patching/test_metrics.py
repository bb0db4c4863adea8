"""The scores of a target class against scikit-learn's, and where a class has no images."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from patching.metrics import confusion_matrix, scores_of_target_class

pairs = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60)


@given(pairs)
def test_scores_equal_scikit_learns(pairs):
    labels, predictions = np.array(pairs).T
    confusion = confusion_matrix(labels, predictions, 4)
    np.testing.assert_array_equal(confusion, metrics.confusion_matrix(labels, predictions, labels=range(4)))
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        labels, predictions, labels=range(4), zero_division=0
    )
    for target_class in range(4):
        scores = scores_of_target_class(confusion, target_class)
        np.testing.assert_allclose(
            [scores.precision, scores.recall, scores.f1],
            [precision[target_class], recall[target_class], f1[target_class]],
        )
        others = labels != target_class
        assert scores.others == others.sum()
        assert scores.true_positives + scores.false_negatives == support[target_class]
        if others.any():
            assert scores.others_accuracy == (labels == predictions)[others].mean()


def test_target_class_without_images():
    scores = scores_of_target_class(confusion_matrix(np.array([0, 0, 1]), np.array([0, 2, 1]), 3), 2)
    assert (scores.precision, scores.recall, scores.f1) == (0, 0, 0)
    assert (scores.false_positives, scores.false_negatives, scores.others_right, scores.others) == (1, 0, 2, 3)
