"""Intervals, p-values and the scores of a class against plain versions and scikit-learn's; facts of every patch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2
from sklearn import metrics as sk

from patching.confidence import Change, accuracy_change, better_and_worse, change_of, mcnemar_p
from patching.metrics import METRICS, confusion_matrix, metrics_of, scores_of_target_class


def answers_of(n: int, right_before: float, right_after: float, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Labels of 4 classes, and answers that are right by so much."""
    random = np.random.default_rng(seed)
    labels = random.integers(4, size=n)
    answers = [
        np.where(random.random(n) < right, labels, random.integers(4, size=n)) for right in (right_before, right_after)
    ]
    return labels, *answers


def metrics(labels: np.ndarray, answers: np.ndarray) -> np.ndarray:
    return np.array(metrics_of(scores_of_target_class(confusion_matrix(labels, answers, 4), 3)))


def test_intervals_are_those_of_drawing_images():
    labels, before, after = answers_of(400, 0.6, 0.7)
    random = np.random.default_rng(1)
    drawn = [random.integers(400, size=400) for _ in range(2000)]
    changes = [metrics(labels[index], after[index]) - metrics(labels[index], before[index]) for index in drawn]
    expected = np.percentile(changes, (2.5, 97.5), axis=0).T
    found = np.array([getattr(change_of(labels, before, after, 3), name) for name in METRICS])
    np.testing.assert_allclose(found, expected, atol=0.02)
    width = expected[:, 1] - expected[:, 0]
    assert (width > 0.06).all()  # so that 0.02 says something
    right = [(answers == labels).astype(float) for answers in (before, after)]
    expected = np.percentile([right[1][index].mean() - right[0][index].mean() for index in drawn], (2.5, 97.5))
    assert accuracy_change(labels, before, after) == pytest.approx(tuple(expected), abs=0.01)
    assert accuracy_change(labels, before, before) == (0, 0)


@given(st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=60), st.integers(0, 2**31))
def test_the_mean_draw_is_near_the_change_and_nothing_changed_is_0(images, seed):
    labels, before, after = np.array(images).T
    change = change_of(labels, before, before, 3, seed=seed)
    assert all(getattr(change, name) == (0, 0) for name in METRICS) and set(change.p) == {1}
    change = change_of(labels, before, after, 3, seed=seed)
    for name in METRICS:
        low, high = getattr(change, name)
        assert -1 <= low <= high <= 1
    backwards = change_of(labels, after, before, 3, seed=seed)
    assert backwards.p == pytest.approx(change.p)
    assert all(0 < p <= 1 for p in change.p)


def test_of_many_patches_that_change_nothing_few_seem_to():
    """An interval of 95 % holds the true change, 0, in about 95 of 100 trials."""
    held = [change_of(*answers_of(500, 0.7, 0.7, seed), 3).is_significant("f1") for seed in range(200)]
    assert 0 < sum(held) < 24


@pytest.mark.parametrize(("gained", "is_enough"), [(5, False), (6, True)])
def test_a_handful_of_gains_is_chance_however_sure_the_bootstrap_is(gained, is_enough):
    """Each of five gains would be a loss with the answers swapped: with probability 2 / 2**5 all go one way."""
    labels = np.repeat([3, 0], [20, 180])
    before = np.where(np.arange(200) < 10, 0, labels)
    after = np.where(np.arange(200) < 10 - gained, 0, labels)
    change = change_of(labels, before, after, 3)
    assert change.f1[0] > 0 and change.p[METRICS.index("f1")] == pytest.approx(2 / 2**gained, abs=0.01)
    assert change.is_significant("f1") == change.is_better("f1") == is_enough
    assert better_and_worse([change, None, change_of(labels, after, before, 3)], "f1") == (is_enough, is_enough)


def test_swaps_are_those_of_whole_images():
    labels, before, after = answers_of(60, 0.6, 0.7)
    random = np.random.default_rng(1)
    swaps = random.random((2000, 60)) < 0.5
    observed = np.abs(metrics(labels, after) - metrics(labels, before))
    found = [
        np.abs(metrics(labels, np.where(swap, before, after)) - metrics(labels, np.where(swap, after, before)))
        for swap in swaps
    ]
    expected = (np.array(found) >= observed - 1e-12).mean(0)
    assert change_of(labels, before, after, 3).p[:3] == pytest.approx(tuple(expected[:3]), abs=0.04)
    assert expected.min() < 0.9


def test_a_clear_gain_holds_and_the_other_patched_classes_are_none_of_the_others():
    labels, before, after = answers_of(2000, 0.5, 0.9)
    change = change_of(labels, before, after, 3)
    assert change.f1[0] > 0.2 and all(map(change.is_significant, METRICS)) and change.others_p < 1e-6
    after = np.where(labels == 2, after, before)  # only class 2 gets better
    apart = change_of(labels, before, after, 3, patched_classes=(2, 3))
    assert apart.others_accuracy == (0, 0) and apart.others_p == 1
    assert change_of(labels, before, after, 3).others_accuracy[0] > 0


def test_the_others_of_two_targets_have_one_interval():
    labels, before, after = answers_of(400, 0.5, 0.7)
    found = [change_of(labels, before, after, target, patched_classes=(1, 3)) for target in (1, 3)]
    assert found[0].others_accuracy == found[1].others_accuracy and found[0].others_p == found[1].others_p


def test_mcnemar():
    assert mcnemar_p(0, 0) == mcnemar_p(5, 5) == 1
    assert mcnemar_p(0, 10) == mcnemar_p(10, 0) == pytest.approx(2 / 2**10)
    won, lost = 400, 300  # as many as make the approximation with chi squared good
    assert mcnemar_p(won, lost) == pytest.approx(chi2.sf((won - lost - 1) ** 2 / (won + lost), 1), rel=0.05)


def test_same_seed_same_interval_and_written_and_read():
    answers = answers_of(300, 0.6, 0.7)
    change = change_of(*answers, 3)
    assert change == change_of(*answers, 3) == Change.from_json(change.to_json()) != change_of(*answers, 3, seed=1)
    with pytest.raises((KeyError, TypeError, ValueError)):
        Change.from_json({**change.to_json(), "f1": [1]})


def test_what_version_1_0_wrote_is_read():
    """It tested the others' accuracy alone."""
    written = {"precision": [0, 0], "recall": [0.1, 0.2], "f1": [0.1, 0.2], "others_accuracy": [-0.2, -0.1]}
    change = Change.from_json(written | {"others_p": 0.06})
    assert [change.is_significant(name) for name in METRICS] == [False, True, True, False]


# The scores of a target class
pairs = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60)


@given(pairs)
def test_scores_equal_scikit_learns(pairs):
    labels, predictions = np.array(pairs).T
    confusion = confusion_matrix(labels, predictions, 4)
    np.testing.assert_array_equal(confusion, sk.confusion_matrix(labels, predictions, labels=range(4)))
    precision, recall, f1, support = sk.precision_recall_fscore_support(
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
