"""A patch of plain arrays: any classes in any order, several at once, added ones, and modules that do not help."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from patching.from_arrays import SLACK, fit_patch, least_lowering, patch
from patching.helpful import JudgedModule
from patching.report import BEFORE, NO_MODULE
from patching.rules import Given, Learned
from utils.errors import UserError

CLASSES = 5
WEAK_AT = (1, 3)


def images(n: int = 300, seed: int = 0) -> tuple[np.ndarray, dict[int, np.ndarray], np.ndarray]:
    """The logits of a weak model that knows nothing of two classes, the outputs of their modules, and labels."""
    random = np.random.default_rng(seed)
    labels = random.integers(CLASSES, size=n)
    known = 3.0 * ~np.isin(np.arange(CLASSES), WEAK_AT)
    weak = random.normal(size=(n, CLASSES)) + known * (labels[:, None] == np.arange(CLASSES))
    outputs = {k: 5 + random.normal(size=n) + 4 * (labels == k) for k in WEAK_AT}
    return weak.astype(np.float32), outputs, labels


@pytest.fixture(scope="module")
def patched():
    return patch(*images())


@pytest.mark.slow
def test_two_classes_get_better_at_once_and_the_others_do_not_get_worse(patched):
    assert patched.target_classes == WEAK_AT and all(one.helps for one in patched.judged)
    report = patched.report(*images(seed=1), classes=tuple("abcde"))
    assert report.target_names == ["b", "d"]
    for number in range(2):
        before, after = (report.scores(method, number) for method in (BEFORE, "learned"))
        change = report.change("learned", number)
        assert after.f1 > before.f1 + 0.3 and change.is_significant("f1")
        assert change.f1[0] < after.f1 - before.f1 < change.f1[1] and change.others_accuracy[1] > 0
        assert before.others == after.others == np.isin(images(seed=1)[2], (0, 2, 4)).sum()
    assert np.trace(report.confusion("learned")) > np.trace(report.confusion(BEFORE)) and "b: precision" in str(report)


@pytest.mark.slow
def test_the_last_class_alone_is_the_learned_rule():
    weak, outputs, labels = images()
    order = [0, 2, 4, 3, 1]
    labels = np.argsort(order)[labels]
    found = fit_patch(weak[:, order], {4: outputs[1]}, labels).rule
    expected = Learned.fit(Given(weak[:, order], outputs[1][:, None], labels, (4,)))
    assert torch.equal(found.weight, expected.weight) and torch.equal(found.bias, expected.bias)


@pytest.mark.parametrize("is_useful", [True, False])
def test_what_the_module_is_worth_is_counted_from_the_same_fit_without_it(is_useful):
    weak, outputs, labels = images()
    module = {3: outputs[3] if is_useful else np.random.default_rng(2).normal(size=len(labels))}
    report = patch(weak, module, labels).report(weak, module, labels, tuple("abcde"))
    without = {3: np.zeros(len(labels))}
    control = fit_patch(weak, without, labels).report(weak, without, labels)
    assert report.scores(NO_MODULE) == control.scores("learned")
    assert (report.over_no_module("learned").f1[0] > 0) is is_useful
    gained, alone = (each.scores("learned").f1 for each in (report, control))
    assert report.f1_over_no_module("learned") == pytest.approx(gained - alone)
    lines = str(report).splitlines()
    assert lines[2].startswith("d: compared with no module, F1 changes by ")
    assert ("d: no better than recalibrating the weak model alone: leave the module out" in lines) is not is_useful


def test_a_patch_of_all_classes_says_nothing_of_others():
    weak, _, labels = images(120)
    outputs = {k: 3.0 * (labels == k) for k in range(CLASSES)}
    report = fit_patch(weak, outputs, labels).report(weak, outputs, labels)
    assert not report.scores(BEFORE).others and "other classes" not in str(report)


def test_a_class_that_the_weak_model_does_not_know_is_added():
    weak, outputs, labels = images()
    first, last = [0, 1, 2, 4], 3
    new_labels = np.array([0, 1, 2, 4, 3])[labels]
    added = fit_patch(weak[:, first], {4: outputs[last]}, new_labels)
    assert added.num_classes == 5 and added.weak_classes == 4
    new_weak, new_outputs, test_labels = images(seed=1)
    test = new_weak[:, first], {4: new_outputs[last]}
    assert added(*test).shape == (300, 5)
    report = added.report(*test, np.array([0, 1, 2, 4, 3])[test_labels])
    assert report.scores(BEFORE).f1 == 0 and report.scores("learned").f1 > 0.6
    assert report.change("learned").is_significant("f1")


@pytest.mark.parametrize(
    ("gain", "words"),
    [(0.1394, "reduces the cross-entropy by 0.1394"), (-0.002, "increases the cross-entropy by 0.0020")],
)
def test_a_modules_gain_is_printed_as_a_change_of_cross_entropy(gain, words):
    verdict = "helps" if gain > 0 else "no more than chance"
    assert str(JudgedModule(3, gain, 0.0053)) == f"{words} nats per image (standard error 0.0053): {verdict}"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_auto_changes_nothing_where_no_module_helps(seed):
    random = np.random.default_rng(seed)
    weak, _, labels = images(seed=seed)
    useless = {k: random.normal(size=len(labels)).astype(np.float32) for k in range(3)}
    found = patch(weak, useless, labels, auto=True)
    assert found.rule is None and len(found.judged) == 3
    assert all("no more than chance" in str(one) for one in found.judged)
    np.testing.assert_array_equal(found(weak, useless), weak)
    report = found.report(weak, useless, labels)
    assert report.targets == () and list(report.methods) == [BEFORE] and str(report) == "no module helps"


@pytest.mark.slow
def test_auto_takes_the_modules_that_help_and_leaves_the_others():
    weak, outputs, labels = images()
    useless = np.random.default_rng(1).normal(size=len(labels))
    found = patch(weak, {0: useless, **outputs}, labels, auto=True)
    assert found.target_classes == WEAK_AT
    gains = [one.gain for one in found.judged]
    assert gains[0] == max(gains) and found.judged[-1].target_class == 0 and not found.judged[-1].helps
    without = fit_patch(weak, outputs, labels)
    assert torch.equal(found.rule.weight, without.rule.weight)


def test_the_other_classes_may_lose_only_so_much():
    """A weak model that never answers two classes takes none of the others' images for them; a patch of it does."""
    weak, outputs, labels = images(600)
    weak[:, WEAK_AT] -= 4
    noise = np.random.default_rng(1).normal(size=600)
    outputs = {target: output + 2 * noise for target, output in outputs.items()}
    lost = {}
    for may_lose in (None, 0.02, 0.0):
        report = fit_patch(weak, outputs, labels, others_may_lose=may_lose).report(weak, outputs, labels)
        lost[may_lose] = report.scores(BEFORE).others_accuracy - report.scores("learned").others_accuracy
        assert all(report.scores("learned", n).f1 > report.scores(BEFORE, n).f1 + 0.1 for n in range(2))
    assert lost[None] > 0.02 >= lost[0.02] > 0 >= lost[0.0]
    assert lost[0.02] > 0.01  # and no less is taken than needs be
    assert fit_patch(weak, outputs, labels, others_may_lose=1.0).rule.found_by["lowered_by"] == 0
    with pytest.raises(UserError, match="others_may_lose: expected a share from 0 to 1, given 5"):
        patch(WEAK, OUTPUTS, LABELS, others_may_lose=5)


@given(seed=st.integers(0, 1000), num_targets=st.integers(1, 3), right=st.integers(0, 40))
def test_the_least_lowering_leaves_enough_right_answers(seed, num_targets, right):
    random = np.random.default_rng(seed)
    targets, labels = list(random.permutation(4)[:num_targets]), random.integers(4, size=30)
    scores = random.normal(size=(30, 4)) + (labels[:, None] == np.arange(4))

    def right_after(lowering: float) -> int:
        answers = (scores - lowering * np.isin(np.arange(4), targets)).argmax(1)
        return int((answers == labels)[~np.isin(labels, targets)].sum())

    lowering = least_lowering(scores, labels, targets, right)
    assert lowering >= 0 and right_after(lowering) >= min(right, right_after(1e6))
    if lowering > 0:
        assert right_after(lowering - 2 * SLACK) < min(right, right_after(1e6))


WEAK, OUTPUTS, LABELS = images(60)
NAN = np.where(np.arange(60) == 7, np.nan, OUTPUTS[1])


@pytest.mark.parametrize(
    ("weak", "outputs", "labels", "message"),
    [
        (WEAK[:50], OUTPUTS, LABELS, "expected one number for each of 50 images|labels: expected a whole number"),
        (WEAK, {1: OUTPUTS[1][:50]}, LABELS, r"module_logits\[1\]: expected one number for each of 60 images"),
        (WEAK, {1: NAN}, LABELS, r"module_logits\[1\]: 1 of 60 images have NaN or infinity, the first is 7"),
        (np.full_like(WEAK, np.inf), OUTPUTS, LABELS, "weak_logits: 60 of 60 images have NaN or infinity"),
        (WEAK, OUTPUTS, LABELS + 1, "labels: expected classes from 0 to 4, given 1 to 5"),
        (WEAK, OUTPUTS, LABELS - 1, "labels: expected classes from 0 to 4, given -1 to 3"),
        (WEAK, OUTPUTS, LABELS / 2, "labels: expected a whole number"),
        (WEAK, OUTPUTS, np.where(LABELS == 3, 0, LABELS), "target class 3: expected validation images of it"),
        (WEAK, {}, LABELS, "expected the outputs of at least one module"),
        (WEAK, {6: OUTPUTS[1]}, LABELS, "expected target classes from 0 to 4, or the next numbers"),
        (WEAK, {-1: OUTPUTS[1]}, LABELS, "expected target classes from 0 to 4"),
        (WEAK[:1], {1: OUTPUTS[1][:1]}, LABELS[:1], "weak_logits: expected two or more validation images"),
        (WEAK[:, 0], OUTPUTS, LABELS, r"weak_logits: expected \(images, classes\)"),
        (WEAK, {"1": OUTPUTS[1]}, LABELS, "module_logits: expected whole numbers of target classes, given '1'"),
        (WEAK, {1.0: OUTPUTS[1]}, LABELS, "module_logits: expected whole numbers of target classes, given 1.0"),
        (WEAK * np.float64(1e60), OUTPUTS, LABELS, "the weak model's logits: expected differences of float32's size"),
        (WEAK * np.float64(1e-60), OUTPUTS, LABELS, "the weak model's logits: expected differences of float32's size"),
        (WEAK, {1: OUTPUTS[1] * 1e60}, LABELS, "a module's outputs: expected differences of float32's size"),
        (WEAK, {1: OUTPUTS[1] * 1e-60}, LABELS, "a module's outputs: expected differences of float32's size"),
    ],
)
def test_arrays_that_do_not_fit_are_one_line(weak, outputs, labels, message):
    with pytest.raises(UserError, match=message) as refused:
        patch(weak, outputs, labels)
    assert "\n" not in str(refused.value)


def test_arrays_of_bfloat16_count_as_what_they_hold():
    weak = torch.tensor(WEAK).bfloat16()
    found, expected = (fit_patch(given, OUTPUTS, LABELS).rule for given in (weak, weak.float()))
    assert torch.equal(found.weight, expected.weight)


def test_scores_of_arrays_that_do_not_fit(patched):
    weak, outputs, labels = images(60)
    with pytest.raises(UserError, match="weak_logits: expected logits of 5 classes, given 4"):
        patched(weak[:, :4], outputs)
    with pytest.raises(UserError, match="expected the outputs of the module of class 3, given none"):
        patched(weak, {1: outputs[1]})
    with pytest.raises(UserError, match="labels: expected classes from 0 to 4, given 0 to 9"):
        patched.report(weak, outputs, np.where(labels == 1, 9, labels))
