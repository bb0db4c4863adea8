"""Processes that work together: when one fails all are ended, and none is left behind. Waiting for their files.

The state of a process of this machine is what Linux's /proc says; on other systems it is unknown.
"""

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import global_configure
from utils.errors import UserError, WaitedTooLong, signals_held_back
from utils.progress import say

GRACE = 10.0  # seconds between SIGTERM and SIGKILL
LAST_LINES = 5  # of a failed process's log are looked at
LAUNCHER_VARIABLE = "CNNMOD_LAUNCHER_PID"  # in the environment of a launcher's children
WORTH_A_LINE = 5.0  # seconds that a process is stopped
FIRST_REPORT = 5.0  # seconds of waiting before it is worth a line
REPORT_EVERY = 60.0  # seconds
LONGEST_PAUSE = 0.5  # seconds between two looks
COMPLAINT = "error: "  # how a script's line for users begins


def status_of(pid: int) -> list[str] | None:
    """What /proc/PID/stat says after the process's name: its state first; None where it cannot be read."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:  # it has ended; or this is not Linux, or hides other users' processes
        return None
    return text[text.rindex(")") + 2 :].split()  # the name before may hold anything


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped, by SIGSTOP, Ctrl-Z or a debugger, and does nothing until it is continued."""
    status = status_of(pid)
    return status is not None and status[0] in "Tt"


def how_to_continue(pid: int) -> str:
    """What to do about a stopped process, in words."""
    return f"`kill -CONT {pid}` continues it, `kill -KILL {pid}` ends it"


class Stopped:
    """Remembers which processes are stopped, so that each is mentioned once, some seconds after it was stopped."""

    def __init__(self) -> None:
        self._since: dict[int, float] = {}
        self._mentioned: set[int] = set()

    def news(self, processes: Mapping[str, int]) -> list[str]:
        """A line for each of the processes (numbers by name) that is stopped for some seconds and was not mentioned."""
        now, lines = time.monotonic(), []
        stopped = {pid: name for name, pid in processes.items() if is_stopped(pid)}
        self._since = {pid: self._since.get(pid, now) for pid in stopped}
        self._mentioned &= stopped.keys()
        for pid, name in stopped.items():
            if now - self._since[pid] >= WORTH_A_LINE and pid not in self._mentioned:
                self._mentioned.add(pid)
                lines.append(f"{name} (pid {pid}) is stopped: {how_to_continue(pid)}")
        return lines


def wait_until(is_there: Callable[[], bool], awaited: Callable[[], str]) -> None:
    """Return once `is_there()`. Meanwhile print what is `awaited()` and for how long.

    Raises WaitedTooLong after `global_configure.wait_limit` seconds.
    """
    start = time.monotonic()  # not the wall clock, which may jump
    pause, next_report = 0.005, FIRST_REPORT
    while not is_there():
        waited = time.monotonic() - start
        if waited > global_configure.wait_limit:
            raise WaitedTooLong(f"waited {waited:.0f} s for {awaited()}; see to that, then type the same command again")
        if waited > next_report:
            say(f"waiting for {awaited()}, {waited:.0f} s so far")
            next_report = waited + REPORT_EVERY
        time.sleep(pause)
        pause = min(pause * 1.5, LONGEST_PAUSE)


@dataclass(frozen=True)
class Child:
    """One started process."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    log_start: int  # bytes that earlier runs left in the log


class ProcessGroup:
    """Start Python scripts, watch them, end them all: on an error, on Ctrl-C, on leaving the `with` block."""

    def __init__(self, log_folder: Path) -> None:
        self.log_folder = log_folder
        self.children: list[Child] = []

    def __enter__(self) -> "ProcessGroup":
        return self

    def __exit__(self, *_: object) -> None:
        with signals_held_back():
            for child in self.children:
                child.process.terminate()
            deadline = time.monotonic() + GRACE
            for child in self.children:
                try:
                    child.process.wait(max(0.0, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    child.process.kill()
                    child.process.wait()

    def start(
        self, name: str, script: Path, arguments: Sequence[str], variables: Mapping[str, str] | None = None
    ) -> None:
        """Start a script with this Python, in this environment with `variables`; what it prints goes to NAME.log."""
        log = self.log_folder / f"{name}.log"
        environment = {**os.environ, **(variables or {}), LAUNCHER_VARIABLE: str(os.getpid())}
        try:
            self.log_folder.mkdir(parents=True, exist_ok=True)
            log_start = log.stat().st_size if log.exists() else 0
            # Signals wait, so that no process is started and missing in the list.
            with log.open("ab") as output, signals_held_back():
                command = [sys.executable, str(script), *arguments]
                process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
                self.children.append(Child(name, process, log, log_start))
        except OSError as error:
            raise UserError(f"cannot start {script.name} with its log in {log}: {error.strerror}") from None

    def wait(self, while_waiting: Callable[[], None] = lambda: None) -> None:
        """Return when all have ended well. Raises UserError, with what it said, as soon as one fails."""
        running, stopped = list(self.children), Stopped()
        while running:
            for child in running:
                if child.process.poll() not in (None, 0):
                    said = complaint(child.log, child.log_start) or f"{child.name} said nothing"
                    raise UserError(f"{said} ({child.name} {how_it_ended(child.process)}; whole log: {child.log})")
            running = [child for child in running if child.process.poll() is None]
            for line in stopped.news({child.name: child.process.pid for child in running}):
                say(line)
            while_waiting()
            time.sleep(0.1)


def how_it_ended(process: subprocess.Popen[bytes]) -> str:
    """The exit code of a process that has ended, or the signal that ended it, in words."""
    if process.returncode >= 0:
        return f"ended with exit code {process.returncode}"
    return f"was ended by {signal.Signals(-process.returncode).name}"


def complaint(log: Path, start: int) -> str:
    """Why a process failed, by its log from byte `start` on: its own line for users, else its last lines, on one."""
    with log.open("rb") as file:
        file.seek(start)
        lines = [line.decode(errors="replace").strip() for line in deque(file, LAST_LINES)]
    own = [line.removeprefix(COMPLAINT) for line in lines if line.startswith(COMPLAINT)]
    return own[-1] if own else " | ".join(line for line in lines if line)
