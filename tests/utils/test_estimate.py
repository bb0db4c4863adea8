"""Estimates against loops whose time and memory are known."""

import pytest

from utils import estimate
from utils.estimate import Estimate, estimated, free_memory, peak_memory, say_estimate, seconds_of


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of this test, which it moves itself."""
    now = [100.0]
    monkeypatch.setattr(estimate.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(estimate.progress, "FIRST_LINE", 3.0)
    monkeypatch.setattr(estimate, "peak_memory", lambda: 2**30)
    return now


@pytest.mark.parametrize(
    ("seconds", "total", "expected"),
    [
        ([5, 0.5, 0.5, 0.5], 100, "54 s"),  # the first step does more than the others
        ([50, 50], 4, "3 min"),  # a long first step is enough
        ([0.1] * 30, 30, None),  # too short
        ([2], 1, None),
    ],
)
def test_the_time_is_that_of_the_first_steps(
    clock: list[float], capsys: pytest.CaptureFixture, seconds: list[float], total: int, expected: str | None
) -> None:
    for _, step in zip(estimated(range(total), "training"), seconds, strict=False):
        clock[0] += step
    line = f"training: expected to take {expected} and at most 1.0 GiB of memory\n"
    assert capsys.readouterr().out == (line if expected else "")


def test_one_line_for_a_loop(clock: list[float], capsys: pytest.CaptureFixture) -> None:
    of_loop = Estimate("training", 50)
    for _ in range(50):
        clock[0] += 2
        of_loop.advance()
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_what_is_too_large_is_said_with_what_to_do(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "free_memory", lambda: 2**30)
    say_estimate("the search", 0, more_bytes=3 * 2**30, instead="lower population")
    expected = "warning: the search: 3.0 GiB of memory are needed, 1.0 GiB are free; lower population\n"
    assert capsys.readouterr().out == expected


def test_the_memory_of_this_process() -> None:
    before, free = peak_memory(), free_memory()
    held = bytearray(64 * 2**20)
    assert peak_memory() >= max(before, len(held))
    assert free is None or free > 0


def test_a_short_step_is_warmed_up(clock: list[float]) -> None:
    steps = iter([0.5, 0.25, 9])

    def step() -> None:
        clock[0] += next(steps)

    assert seconds_of(step) == 0.25
    assert seconds_of(step) == 9
