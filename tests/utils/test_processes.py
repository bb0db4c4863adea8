"""Processes that work together fail together, and none is left behind; waiting says what for, and ends."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import global_configure
from utils import processes
from utils.errors import UserError, WaitedTooLong
from utils.processes import ProcessGroup, Stopped, complaint, is_stopped, wait_until

SCRIPT = """
import os, signal, sys, time
task, *words = sys.argv[1:]
if task == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
print("task", task, *words, flush=True)
if task == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("ready", flush=True)
if task in ("sleep", "stubborn"):
    time.sleep(60)
if task == "fail":
    for number in range(9):
        print("line", number, flush=True)
    sys.exit(7)
if task == "parent":
    print(os.environ["CNNMOD_LAUNCHER_PID"] == str(os.getppid()))
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


def test_all_end_well(script: Path, tmp_path: Path) -> None:
    looks = []
    with ProcessGroup(tmp_path / "logs") as group:
        group.start("one", script, ["parent"])
        group.start("two", script, ["print", "--set=a;b $HOME"])
        group.wait(lambda: looks.append(1))
    assert looks
    assert (tmp_path / "logs" / "one.log").read_text() == "task parent\nTrue\n"
    assert (tmp_path / "logs" / "two.log").read_text() == "task print --set=a;b $HOME\n"


def test_one_that_fails_ends_all(script: Path, tmp_path: Path) -> None:
    start = time.monotonic()
    message = r"^line 4 \| line 5 \| line 6 \| line 7 \| line 8 \(bad ended with exit code 7; whole log: .*bad\.log\)$"
    with pytest.raises(UserError, match=message), ProcessGroup(tmp_path) as group:
        group.start("good", script, ["sleep"])
        group.start("bad", script, ["fail"])
        group.wait(lambda: None)
    assert time.monotonic() - start < 30
    for child in group.children:
        assert child.process.returncode is not None
        with pytest.raises(ProcessLookupError):
            os.kill(child.process.pid, 0)


def test_an_exception_leaves_none_behind_however_stubborn(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "GRACE", 0.3)
    with pytest.raises(KeyboardInterrupt), ProcessGroup(tmp_path) as group:
        group.start("good", script, ["sleep"])
        group.start("stubborn", script, ["stubborn"])
        while "ready" not in (tmp_path / "stubborn.log").read_text():
            time.sleep(0.01)
        raise KeyboardInterrupt
    assert [child.process.returncode for child in group.children] == [-15, -9]


def test_a_log_that_cannot_be_written_is_one_line(script: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot start script.py with its log in .*file/one\.log"):
        ProcessGroup(tmp_path / "file").start("one", script, [])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a\n\n b \n\xff\n", "a | b | \ufffd"),
        (b"generation 3\nerror: no room\n", "no room"),
        (b"error: the first\nerror: the last\nmore\n", "the last"),
        (b"Traceback:\n  line\nKeyError: 3\n", "Traceback: | line | KeyError: 3"),
        (b"error: long ago\n1\n2\n3\n4\n5\n", "1 | 2 | 3 | 4 | 5"),
        (b"", ""),
    ],
)
def test_complaint(content: bytes, expected: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"error: an earlier run\n" + content)
    assert complaint(log, len(b"error: an earlier run\n")) == expected


def test_an_earlier_run_is_not_quoted(script: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.log").write_text("an earlier run\n")
    message = r"^bad said nothing \(bad was ended by SIGKILL; whole log"
    with pytest.raises(UserError, match=message), ProcessGroup(tmp_path) as group:
        group.start("bad", script, ["killed"])
        group.wait(lambda: None)
    assert (tmp_path / "bad.log").read_text() == "an earlier run\n"


# Stopped processes, and waiting
@pytest.mark.skipif(sys.platform != "linux", reason="of Linux's /proc")
def test_a_stopped_process_is_mentioned_once_after_some_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(processes.time, "monotonic", lambda: clock[0])
    process = subprocess.Popen(["/bin/sleep", "60"])
    try:
        stopped, named = Stopped(), {"explorer_0": process.pid}
        assert stopped.news(named) == [] and not is_stopped(process.pid)
        for turn in range(2):
            process.send_signal(19)
            while not is_stopped(process.pid):
                time.sleep(0.01)
            assert stopped.news(named) == []
            clock[0] += 6
            (line,) = stopped.news(named)
            assert line.startswith(f"explorer_0 (pid {process.pid}) is stopped: `kill -CONT {process.pid}` continues")
            clock[0] += 600
            assert stopped.news(named) == []
            process.send_signal(18)
            while is_stopped(process.pid):
                time.sleep(0.01)
            assert stopped.news(named) == [], turn
    finally:
        process.kill()
        process.wait()
    assert not is_stopped(process.pid)


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
