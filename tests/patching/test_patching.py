"""What each rule makes of one weak model: the controls, and a target class that no test image has."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.names import network_of
from patching.cases import Outputs, PatchCase, evaluate
from patching.metrics import scores_of_target_class
from patching.report import BEFORE, NO_MODULE, WHOLE_MODEL
from patching.rules import RULES


def outputs(n: int, seed: int, num_classes: int = 4) -> Outputs:
    """A weak model that cannot see the last class; a module that can, and a strong model that can better."""
    random = np.random.default_rng(seed)
    labels = random.integers(num_classes, size=n)
    weak = random.normal(size=(n, num_classes)) + 2.5 * np.eye(num_classes)[labels]
    weak[:, -1] -= 2.5 * (labels == num_classes - 1)
    module = 2.5 * (labels == num_classes - 1) + random.normal(size=n)
    strong = 8.0 * (labels == num_classes - 1) + random.normal(size=n)
    return Outputs(labels, *(torch.tensor(values, dtype=torch.float32) for values in (weak, module, strong)))


def case(test: Outputs) -> PatchCase:
    valid = outputs(400, seed=0)
    of_class = valid.labels == 3
    network = network_of("simcnn_tiny", 4)
    of_module, of_strong = valid.module[of_class].numpy(), valid.strong[of_class].numpy()
    classes, kernels = ("a", "b", "c", "target"), np.ones(24, bool)
    return PatchCase(0, classes, 0, network, network, kernels, of_module, valid, test, of_strong)


def test_before_is_the_weak_model_and_controls_frame_the_patch():
    test = outputs(400, seed=1)
    results = evaluate(case(test), ["learned"])
    assert list(results) == [BEFORE, "learned", WHOLE_MODEL.format("learned"), NO_MODULE]
    assert np.trace(results[BEFORE].confusion) == (test.weak.argmax(1).numpy() == test.labels).sum()
    f1 = {method: scores_of_target_class(result.confusion, 3).f1 for method, result in results.items()}
    assert max(f1[BEFORE], f1[NO_MODULE]) < f1["learned"] < f1[WHOLE_MODEL.format("learned")]

    changes = {method: result.over_no_module for method, result in results.items()}
    assert changes["learned"].f1[0] < f1["learned"] - f1[NO_MODULE] < changes["learned"].f1[1]
    assert changes[BEFORE] is None and changes[NO_MODULE] is None


def test_the_scale_and_shift_of_the_weak_logits_do_not_matter():
    """Of weak models that are trained here, too: the learned rule and both of its controls."""
    valid, test = outputs(200, seed=0), outputs(400, seed=1)

    def confusions(change) -> list[np.ndarray]:
        moved = [replace(part, weak=change(part.weak)) for part in (valid, test)]
        results = evaluate(replace(case(moved[1]), valid=moved[0]), ["learned"])
        return [result.confusion for result in results.values()]

    expected = confusions(lambda logits: logits)
    shift = 10 * torch.arange(400)[:, None] % 70
    for change in (
        lambda logits: 1e6 * logits,
        lambda logits: logits.log_softmax(1),
        lambda logits: logits + shift[: len(logits)],
    ):
        for found, wanted in zip(confusions(change), expected, strict=True):
            assert np.abs(found - wanted).sum() <= 4  # two answers may be near ties


@pytest.mark.slow
@pytest.mark.parametrize("calibration", RULES)
def test_every_calibration_has_its_controls(calibration):
    results = evaluate(case(outputs(50, seed=1)), [calibration])
    expected = {BEFORE, calibration, WHOLE_MODEL.format(calibration), NO_MODULE, WHOLE_MODEL.format("learned")}
    assert set(results) == expected
    assert all(result.confusion.sum() == 50 for result in results.values())


def test_a_target_class_that_no_test_image_has():
    test = outputs(60, seed=1)
    keep = torch.tensor(test.labels != 3)
    others = Outputs(test.labels[keep.numpy()], test.weak[keep], test.module[keep], test.strong[keep])
    for result in evaluate(case(others), list(RULES)).values():
        scores = scores_of_target_class(result.confusion, 3)
        assert (scores.recall, scores.true_positives, scores.false_negatives) == (0, 0, 0)
        assert scores.others == len(others.labels)
