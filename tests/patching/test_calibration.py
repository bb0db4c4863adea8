"""The published rule and its ranges on numbers that can be checked by hand."""

import numpy as np
import pytest
import torch

from patching.calibration import RANGES, linear_scores, replace_target_entry, scale_to_range


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
    assert RANGES[calibration](outputs) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("calibration", RANGES)
def test_constant_outputs_give_a_range_that_scales_without_nan(calibration):
    low, high = (torch.tensor(value) for value in RANGES[calibration](np.full(5, 2.5, np.float32)))
    assert low == high == 2.5
    assert scale_to_range(torch.tensor([2.0, 2.5, 3.0]), low, high).tolist() == [0.0, 0.5, 1.0]


def test_only_the_target_entry_is_replaced():
    logits = torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, 1.0]])
    scores = replace_target_entry(logits, torch.tensor([1.0, 4.0]), torch.tensor(0.0), torch.tensor(2.0))
    assert scores[:, 2].tolist() == [0.5, 2.0]  # outputs beyond the range are not clipped
    torch.testing.assert_close(scores[:, :2], torch.softmax(logits, 1)[:, :2])
    assert scores.argmax(1).tolist() == [2, 2]


def test_linear_scores_by_hand():
    weight = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 3.0]])
    scores = linear_scores(torch.tensor([[5.0, 7.0]]), torch.tensor([10.0]), weight, torch.tensor([0.5, -1.0]))
    assert scores.tolist() == [[5.5, 43.0]]
