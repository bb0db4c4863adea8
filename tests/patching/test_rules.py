"""The rules on numbers that can be checked by hand, as plain values, and from plain arrays."""

import json

import numpy as np
import pytest
import torch

from patching.rules import RULES, Given, RangeRule, rule_saved_as, scale_to_range
from utils.errors import UserError

RANGES = [name for name, rule in RULES.items() if issubclass(rule, RangeRule)]


def logits_outputs_and_labels(n: int = 60):
    """Float32 arrays of a weak model of three classes and a module, the last class is the target class."""
    random = np.random.default_rng(0)
    labels = np.arange(n) % 3
    return random.normal(size=(n, 3)).astype(np.float32), random.normal(size=n).astype(np.float32), labels


@pytest.mark.parametrize(
    ("calibration", "expected"),
    [
        ("min_max", (0.0, 100.0)),
        ("percentile", (0.9, 8 + 0.1 * 92)),  # a tenth of the way between the outermost two values at either end
        ("outlier", (0.0, 8.0)),
        ("norm", (13.6 - 835.44**0.5, 13.6 + 835.44**0.5)),  # mean of the squares 1020.4, less 13.6 squared
    ],
)
def test_ranges_by_hand(calibration, expected):
    outputs = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 100], np.float32)
    assert tuple(RULES[calibration].range_of(outputs)) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("calibration", RANGES)
def test_constant_outputs_give_a_range_that_scales_without_nan(calibration):
    low, high = (torch.tensor(float(value)) for value in RULES[calibration].range_of(np.full(5, 2.5, np.float32)))
    assert low == high == 2.5
    assert scale_to_range(torch.tensor([2.0, 2.5, 3.0]), low, high).tolist() == [0.0, 0.5, 1.0]


def test_only_the_target_entry_is_replaced():
    logits = torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, 1.0]])
    scores = RangeRule(0, 2)(logits, torch.tensor([[1.0], [4.0]]))
    assert scores[:, 2].tolist() == [0.5, 2.0]  # outputs beyond the range are not clipped
    torch.testing.assert_close(scores[:, :2], torch.softmax(logits, 1)[:, :2])
    assert scores.argmax(1).tolist() == [2, 2]


@pytest.mark.parametrize("calibration", RANGES)
def test_a_range_is_that_of_the_target_classs_outputs(calibration):
    logits, outputs, labels = logits_outputs_and_labels()
    own, more = outputs[labels == 2], np.linspace(3, 9, 7)
    for of_class, expected in ((None, own), ([more], more)):
        rule = RULES[calibration].fit(Given(logits, outputs[:, None], labels, (2,), of_class))
        found = rule.to_json()
        assert [*found["low"], *found["high"]] == pytest.approx(list(RULES[calibration].range_of(expected)))
    others = labels != 2
    with pytest.raises(UserError, match="validation images of the target class"):
        RULES[calibration].fit(Given(logits[others], outputs[others, None], labels[others], (2,)))


def test_several_entries_are_replaced_and_classes_added():
    logits = torch.tensor([[0.0, 2.0, 0.0]])
    scores = RangeRule([0, 10], [2, 20], targets=[1, 3])(logits, torch.tensor([[1.0, 12.0]]))
    expected = torch.softmax(logits, 1)[0].tolist()
    assert scores[0].tolist() == pytest.approx([expected[0], 0.5, expected[2], 0.2])


@pytest.mark.parametrize("calibration", RULES)
@pytest.mark.parametrize("targets", [(2,), (0, 2)])
def test_json_and_buffers_give_a_rule_back(calibration, targets):
    logits, outputs, labels = logits_outputs_and_labels()
    outputs = np.stack([outputs + target for target in targets], 1)
    rule = RULES[calibration].fit(Given(logits, outputs, labels, targets))
    again = RULES[calibration].from_json(json.loads(json.dumps(rule.to_json())))
    assert again.to_json() == rule.to_json()
    for other in (again, rule_saved_as(rule.saved_as).from_buffers(dict(rule.named_buffers()))):
        assert torch.equal(*(each(torch.tensor(logits), torch.tensor(outputs)) for each in (other, rule)))


@pytest.mark.parametrize("calibration", RULES)
@pytest.mark.parametrize("fitted", [{}, {"low": "x", "high": 1}, {"weight": [[1], [2, 3]], "bias": [0]}, {"y": 1}])
def test_values_of_no_rule_are_refused(calibration, fitted):
    with pytest.raises((TypeError, ValueError, RuntimeError)):
        RULES[calibration].from_json(fitted)
