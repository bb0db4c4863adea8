"""What each rule makes of one weak model: the controls, a target class that no test image has, several classes."""

import numpy as np
import pytest

from patching.comparison import Answers, compare
from patching.metrics import scores_of_target_class
from patching.report import BEFORE, NO_MODULE, WHOLE_MODEL, PatchedWeakModel
from patching.rules import RULES

NAMES = ("a", "b", "c", "target")


def answers(n: int, seed: int, targets: tuple[int, ...] = (3,)) -> Answers:
    """A weak model that cannot see the target classes; modules that can, and a strong model that can better."""
    random = np.random.default_rng(seed)
    labels = random.integers(4, size=n)
    weak = random.normal(size=(n, 4)) + 2.5 * np.eye(4)[labels]
    modules, strong = {}, {}
    for target in targets:
        weak[:, target] -= 2.5 * (labels == target)
        modules[target] = (2.5 * (labels == target) + random.normal(size=n)).astype(np.float32)
        strong[target] = (8.0 * (labels == target) + random.normal(size=n)).astype(np.float32)
    of_class = [{target: each[target][labels == target] for target in targets} for each in (modules, strong)]
    return Answers(labels, weak.astype(np.float32), modules, strong, *of_class)


VALID = answers(400, seed=0)


def compared(valid: Answers, test: Answers, *calibrations: str) -> PatchedWeakModel:
    _, methods = compare(valid, test, NAMES, calibrations)
    return PatchedWeakModel(NAMES, tuple(sorted(valid.modules)), len(test.labels), methods)


def test_before_is_the_weak_model_and_controls_frame_the_patch():
    test = answers(400, seed=1)
    found = compared(VALID, test, "learned")
    assert list(found.methods) == [BEFORE, "learned", WHOLE_MODEL.format("learned"), NO_MODULE]
    assert np.trace(found.confusion(BEFORE)) == (test.weak.argmax(1) == test.labels).sum()
    f1 = {method: found.scores(method).f1 for method in found.methods}
    assert max(f1[BEFORE], f1[NO_MODULE]) < f1["learned"] < f1[WHOLE_MODEL.format("learned")]

    over = found.over_no_module("learned").f1
    assert over[0] < f1["learned"] - f1[NO_MODULE] < over[1]
    assert found.over_no_module(BEFORE) is None and found.over_no_module(NO_MODULE) is None


@pytest.mark.slow
@pytest.mark.parametrize("calibration", RULES)
@pytest.mark.parametrize("targets", [(3,), (1, 3)])
def test_every_calibration_has_its_controls_for_one_class_and_several(calibration, targets):
    valid, test = answers(400, 0, targets), answers(400, 1, targets)
    found = compared(valid, test, calibration)
    expected = {BEFORE, calibration, WHOLE_MODEL.format(calibration), NO_MODULE, WHOLE_MODEL.format("learned")}
    assert set(found.methods) == expected
    assert all(found.confusion(method).sum() == 400 for method in expected)
    for number in range(len(targets)):
        f1 = {method: found.scores(method, number).f1 for method in expected}
        assert f1[WHOLE_MODEL.format(calibration)] > f1[BEFORE]
        assert found.change(calibration, number) and found.over_no_module(calibration, number)


def test_a_target_class_that_no_test_image_has():
    test = answers(60, seed=1)
    keep = test.labels != 3
    modules, strong = ({3: each[3][keep]} for each in (test.modules, test.strong))
    others = Answers(test.labels[keep], test.weak[keep], modules, strong)
    found = compared(VALID, others, *RULES)
    for method in found.methods:
        scores = scores_of_target_class(found.confusion(method), 3)
        assert (scores.recall, scores.true_positives, scores.false_negatives) == (0, 0, 0)
        assert scores.others == len(others.labels)
