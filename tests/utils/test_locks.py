"""One at a time: a living holder is named, a dead one is no obstacle, and nobody takes over twice."""

import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from conftest import TOP

from utils import locks
from utils.artifacts import Role
from utils.errors import UserError
from utils.locks import check_nobody_holds, held, is_held, keep_there, state_of

HOLD = """
import signal, sys, time, types
from pathlib import Path
sys.modules["torch"] = types.ModuleType("torch")  # takes seconds to import, and locks do without it
from utils.artifacts import Role
from utils import locks
from utils.errors import run
locks.BEAT = 0.05
signal.signal(signal.SIGINT, signal.default_int_handler)  # where the tests run in the background they may be ignored
signal.signal(signal.SIGHUP, signal.SIG_DFL)
def main():
    role = Role("the work", Path(sys.argv[1]), (Path(sys.argv[2]),))
    with locks.held(role):
        print("held", flush=True)
        if sys.argv[3] == "stay":
            time.sleep(60)
        if sys.argv[3] == "fail":
            raise ValueError
        time.sleep(float(sys.argv[3] if sys.argv[3] != "stay" else 0))
run(main)
"""


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def role(tmp_path: Path) -> Role:
    return Role("the work", tmp_path / "locks" / "work.lock", (tmp_path / "files" / "gen_*",))


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a process that takes a lock; none outlives the test."""
    processes = []

    def start(role: Role, task: str = "stay") -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HOLD, str(role.lock), str(role.writes[0]), task]
        pipe = subprocess.PIPE
        processes.append(subprocess.Popen(command, cwd=TOP, stdout=pipe, stderr=pipe, text=True))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def start_and_hold(start: Start) -> Start:
    """The same, and return when it has the lock."""

    def start_and_hold(role: Role, task: str = "stay") -> subprocess.Popen[str]:
        process = start(role, task)
        assert process.stdout.readline() == "held\n", process.communicate()
        return process

    return start_and_hold


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300  # the machine may be busy
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def write_lock(role: Role, **changes: object) -> None:
    """The lock of another process; by default of one of another machine."""
    holder = replace(locks._this_process(), **{"host": "elsewhere", "machine": "another", **changes})
    role.lock.parent.mkdir(exist_ok=True)
    role.lock.write_text(json.dumps(asdict(holder)) + "\n")


def test_a_second_one_is_refused_and_told_who_is_first(role: Role, start: Start, start_and_hold: Start) -> None:
    first = start_and_hold(role)
    alive = f"alive on {platform.node()}, pid {first.pid}"
    assert state_of(role.lock) == alive
    second = start(role)
    output, error = second.communicate(timeout=60)
    assert (second.returncode, output) == (2, "")
    (line,) = error.splitlines()
    assert line.startswith("error: the work is already running: python -c ")
    assert f" on {platform.node()}, pid {first.pid}; end it, or wait until it ends ({role.lock})" in line
    with pytest.raises(UserError, match=f"--fresh sets it aside: .*pid {first.pid} works on these files; end it"):
        check_nobody_holds([role.lock], "--fresh sets it aside")
    assert state_of(role.lock) == alive


def test_a_killed_ones_lock_is_taken_over_with_its_half_written_files(
    role: Role, tmp_path: Path, start_and_hold: Start
) -> None:
    for folder, name in (("files", ".gen_1.npy.a1b2.partial"), ("files", ".settings.json.a1.partial"), ("", "gen_1")):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / name).write_text("half")
    first = start_and_hold(role)
    first.kill()
    # Not collected yet: a zombie has its number still.
    until(lambda: locks._started(first.pid) is None)
    assert state_of(role.lock) == f"died on {platform.node()}, pid {first.pid}"
    check_nobody_holds([role.lock], "--fresh")
    (tmp_path / "files" / ".gen_2.npy.a1b2.partial").write_text("half")
    with held(role):
        assert state_of(role.lock) == f"alive on {platform.node()}, pid {os.getpid()}"
        assert sorted(path.name for path in (tmp_path / "files").iterdir()) == [".settings.json.a1.partial"]
    assert list(role.lock.parent.iterdir()) == []
    assert state_of(role.lock) == "not running"


def test_a_number_that_was_given_again_is_not_the_holder(role: Role) -> None:
    write_lock(role, machine=locks._machine(), started="1")  # this process's number, another time
    assert state_of(role.lock).startswith("died on elsewhere")
    with held(role):
        assert "alive" in state_of(role.lock)


def test_a_process_that_cannot_be_looked_at_is_judged_by_its_heartbeat(
    role: Role, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user's, where the system hides it, or any without /proc."""
    write_lock(role, machine=locks._machine())
    monkeypatch.setattr(locks, "_started", lambda pid: "")
    assert state_of(role.lock) == f"alive on elsewhere, pid {os.getpid()}"
    os.utime(role.lock, (1, 1))
    assert state_of(role.lock) == f"died on elsewhere, pid {os.getpid()}"


def test_numbers_of_processes() -> None:
    assert int(locks._started(os.getpid())) > 0
    for nobody in (2**22 + 1, 2**40, 2**70):
        assert locks._started(nobody) is None


@pytest.mark.parametrize(("ending", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_gives_the_lock_back(
    role: Role, ending: signal.Signals, exit_code: int, start_and_hold: Start
) -> None:
    process = start_and_hold(role)
    process.send_signal(ending)
    process.communicate(timeout=60)
    assert process.returncode == exit_code
    assert list(role.lock.parent.iterdir()) == []


def test_an_end_and_an_exception_give_the_lock_back(role: Role, start_and_hold: Start) -> None:
    for task, exit_code in (("0.1", 0), ("fail", 1)):
        process = start_and_hold(role, task)
        process.communicate(timeout=60)
        assert process.returncode == exit_code
        assert list(role.lock.parent.iterdir()) == []


def test_of_many_that_see_a_dead_lock_one_takes_it_over(role: Role, start: Start) -> None:
    write_lock(role, machine=locks._machine(), pid=2**22 + 1)
    processes = [start(role) for _ in range(4)]
    until(lambda: sum(process.poll() is not None for process in processes) >= 3)
    time.sleep(0.5)
    (winner,) = [process for process in processes if process.poll() is None]
    for process in processes:
        if process is not winner:
            assert process.returncode == 2
            assert f"pid {winner.pid};" in process.communicate()[1]


def test_one_that_died_while_it_took_over_is_no_obstacle(role: Role) -> None:
    write_lock(role, machine=locks._machine(), pid=2**22 + 1)
    guard = role.lock.with_name("work.lock.takeover")
    guard.write_text(role.lock.read_text())
    with held(role):
        assert "alive" in state_of(role.lock)
    assert list(role.lock.parent.iterdir()) == []


@pytest.mark.parametrize("clock", [-1e9, 0.0, 1e9])
def test_another_machine_is_judged_by_its_heartbeat_whatever_the_clock(
    role: Role, clock: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lock(role)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + clock)
    assert state_of(role.lock) == f"alive on elsewhere, pid {os.getpid()}"
    with pytest.raises(UserError, match=r"already running: python .* on elsewhere, pid"), held(role):
        pass
    os.utime(role.lock, (now - 300, now - 300))
    assert state_of(role.lock) == f"died on elsewhere, pid {os.getpid()}"
    with held(role):
        assert f"alive on {platform.node()}" in state_of(role.lock)


def test_the_heart_beats(role: Role, start_and_hold: Start) -> None:
    start_and_hold(role)
    os.utime(role.lock, (1, 1))
    until(lambda: role.lock.stat().st_mtime != 1)


def test_one_whose_lock_is_taken_ends_and_leaves_it(role: Role, start_and_hold: Start) -> None:
    process = start_and_hold(role)
    write_lock(role)
    theirs = role.lock.read_text()
    _, error = process.communicate(timeout=60)
    assert process.returncode == 143
    assert error == f"error: another process has taken {role.lock}: ending; the same command goes on\n"
    assert role.lock.read_text() == theirs


@pytest.mark.slow
def test_an_orphan_ends_and_the_next_waits_for_it(role: Role) -> None:
    """A killed launcher's children need a moment to notice; the same launcher started again must not fail by that."""
    launcher = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os, subprocess, sys, time\n"
            "subprocess.Popen(sys.argv[1:], env={**os.environ, 'CNNMOD_LAUNCHER_PID': str(os.getpid())})\n"
            "time.sleep(60)",
            *(sys.executable, "-c", HOLD.replace("0.05", "2"), str(role.lock), str(role.writes[0]), "stay"),
        ],
        cwd=TOP,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert launcher.stdout.readline() == "held\n"
    with pytest.raises(UserError, match="already running"), held(role):
        pass
    launcher.kill()
    launcher.wait()
    with held(role):
        assert f"pid {os.getpid()}" in state_of(role.lock)
    assert "the launcher is gone" in launcher.communicate()[1]


def test_a_damaged_lock_counts_while_it_is_fresh(role: Role) -> None:
    role.lock.parent.mkdir()
    for content in ("", "{}", "[1]", "\0", json.dumps({**asdict(locks._this_process()), "pid": "1"})):
        role.lock.write_text(content)
        with (
            pytest.raises(UserError, match=r"already running: \(damaged: .*work\.lock\) on an unknown machine"),
            held(role),
        ):
            pass
        os.utime(role.lock, (1, 1))
        with held(role):
            pass


def test_several_roles_are_held_or_none(role: Role, tmp_path: Path) -> None:
    other = Role("the other work", tmp_path / "locks" / "other.lock")
    write_lock(role)
    with pytest.raises(UserError, match="the work is already running"), held(other, role):
        pass
    assert [path.name for path in role.lock.parent.iterdir()] == ["work.lock"]


def test_a_folder_that_cannot_be_written(role: Role, tmp_path: Path) -> None:
    (tmp_path / "locks").write_text("not a folder")
    with pytest.raises(UserError, match=r"cannot write .*work\.lock: "), held(role):
        pass


def test_windows_processes_are_not_signalled(role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    """There `os.kill(pid, 0)` would send Ctrl-C: the heartbeat tells whether a process lives."""
    write_lock(role, machine=locks._machine(), pid=2**22 + 1)
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("signalled"))
    assert state_of(role.lock) == f"alive on elsewhere, pid {2**22 + 1}"
    os.utime(role.lock, (1, 1))
    assert state_of(role.lock) == f"died on elsewhere, pid {2**22 + 1}"


@pytest.mark.skipif(sys.platform != "linux", reason="of Linux's /proc")
def test_a_stopped_holder_is_alive_and_said_to_be_stopped(role: Role, start_and_hold: Start) -> None:
    process = start_and_hold(role)
    process.send_signal(signal.SIGSTOP)
    stopped = f"pid {process.pid}, but stopped: `kill -CONT {process.pid}` continues it"
    until(lambda: stopped in state_of(role.lock))
    assert is_held(role.lock)
    with pytest.raises(UserError, match="already running") as error, held(role):
        pass
    assert stopped in str(error.value)
    with pytest.raises(UserError, match="would disturb") as error:
        check_nobody_holds([role.lock], "this would disturb")
    assert stopped in str(error.value)
    process.send_signal(signal.SIGCONT)
    until(lambda: "stopped" not in state_of(role.lock))


def test_a_holder_that_does_not_beat_is_said_to_be_silent(role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "BEAT", 1000.0)
    with held(role):
        assert "without" not in state_of(role.lock)
        os.utime(role.lock, (time.time() - 500, time.time() - 500))
        assert ", but without a sign of life for 5" in state_of(role.lock)
        assert is_held(role.lock)
    assert not is_held(role.lock)


def test_a_file_that_is_needed_is_written_again_while_the_lock_is_held(
    role: Role, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(locks, "BEAT", 0.02)
    other = Role("other work", tmp_path / "locks" / "other.lock")
    outer, inner, unknown = (tmp_path / "files" / name for name in ("outer", "inner", "unknown"))
    outer.parent.mkdir()

    def keep(path: Path) -> None:
        path.write_text(path.name)
        keep_there(path, lambda: path.write_text(path.name))

    keep(unknown)  # no lock is held
    with held(role):
        keep(outer)
        with held(other):
            keep(inner)
            for path in (outer, inner, unknown):
                path.unlink()
            until(lambda: outer.exists() and inner.exists())
        inner.unlink()
        outer.unlink()
        until(outer.exists)
        assert (outer.read_text(), inner.exists(), unknown.exists()) == ("outer", False, False)
        outer.unlink()
        until(outer.exists)
        outer.parent.rename(tmp_path / "away")  # at once: between two steps the file would be written again
        time.sleep(0.1)
        assert not outer.parent.exists()
    assert f"{outer} was removed while it is needed: written again" in capsys.readouterr().out
