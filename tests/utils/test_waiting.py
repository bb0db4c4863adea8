"""Waiting says what for, and ends."""

import time

import pytest

import global_configure
from utils import processes
from utils.errors import WaitedTooLong
from utils.processes import wait_until


def test_returns_when_it_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    answers = iter([False, False, True])
    wait_until(lambda: next(answers), lambda: "a file")
    assert list(answers) == []
    assert capsys.readouterr().out == ""


def test_says_what_it_waits_for_and_gives_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr(processes.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(processes.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    monkeypatch.setattr(global_configure, "wait_limit", 130)
    with pytest.raises(
        WaitedTooLong, match=r"waited 13\d s for a file \(command\); see to that, then type the same command again"
    ):
        wait_until(lambda: False, lambda: "a file (command)")
    lines = capsys.readouterr().out.splitlines()
    assert [line.rsplit(", ", 1)[0] for line in lines] == ["waiting for a file (command)"] * 3
    assert [int(line.rsplit(", ", 1)[1].split()[0]) // 5 * 5 for line in lines] == [5, 65, 125]


@pytest.mark.parametrize("jump", [-1e9, 1e9])
def test_a_clock_that_jumps_neither_ends_nor_prolongs_a_wait(jump: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(global_configure, "wait_limit", 1)
    clock = time.time
    answers = iter([False] * 5 + [True])

    def look() -> bool:
        monkeypatch.setattr(time, "time", lambda: clock() + jump)
        return next(answers)

    wait_until(look, lambda: "a file")
    start = time.monotonic()
    with pytest.raises(WaitedTooLong):
        wait_until(lambda: False, lambda: "a file")
    assert time.monotonic() - start < 30
