"""A saved model is compared with what was reported: another answer is an error."""

from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from patching.as_reported import MOST_IMAGES, TOLERANCE, Reported, check_as_reported, checked_places, differs
from utils.errors import UserError

PATH = Path("patched.py")
SCORES = np.random.default_rng(0).normal(size=(120, 4)).astype(np.float32)


def reported(scores: np.ndarray = SCORES) -> Reported:
    return Reported({"pixels": np.arange(len(scores))}, scores, TOLERANCE)


@given(scale=st.floats(1e-6, 1e6), shift=st.floats(-10, 10))
def test_rounding_is_no_difference_and_a_larger_error_is(scale: float, shift: float) -> None:
    """Whatever the scores' scale: a thousandth of their spread is allowed."""
    scores = scale * (SCORES.astype(np.float64) + shift)
    spread = np.ptp(scores, axis=1, keepdims=True)
    sign = np.where(SCORES > 0, 1, -1)
    assert not differs(scores + 0.4 * TOLERANCE * spread * sign, scores, TOLERANCE).any()
    error = np.zeros_like(scores)
    error[7, 2] = 5 * TOLERANCE * spread.max()
    assert np.flatnonzero(differs(scores + error, scores, TOLERANCE)).tolist() == [7]


def test_another_decision_is_a_difference_except_at_a_tie_and_so_is_nan() -> None:
    scores = np.array([[1.0, 0, 0], [1, 0, 0], [1, 1 - 1e-5, 0], [1, 0, 0]])
    found = np.array([[1.0, 0, 0], [0, 1, 0], [1 - 1e-5, 1, 0], [1, np.nan, 0]])
    assert differs(found, scores, TOLERANCE).tolist() == [False, True, False, True]


def test_a_model_is_run_on_one_image_and_in_batches_on_all_or_an_even_sample() -> None:
    seen = []

    def answer(places: np.ndarray) -> np.ndarray:
        seen.append(len(places))
        return SCORES[places]

    check_as_reported(PATH, lambda: answer, reported())
    assert seen == [1, 50, 50, 19]
    assert checked_places(7).tolist() == list(range(7))
    some = checked_places(10_000)
    assert len(np.unique(some)) == MOST_IMAGES and some[0] == 0 and some[-1] == 9999


def fails(places: np.ndarray) -> np.ndarray:
    raise RuntimeError("no kernel\nand more")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda places: SCORES[places][:, ::-1], r"other scores on 120 of 120 test images, another class on \d+"),
        (lambda places: SCORES[places][:, :3], r"gives scores \(120, 3\), expected \(120, 4\)"),
        (fails, "does not run: no kernel; nothing was saved"),
    ],
)
def test_other_answers_are_one_line(answer, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        check_as_reported(PATH, lambda: answer, reported())
    assert "\n" not in str(refused.value)
