"""Processes that work together: when one fails all are ended, and none is left behind."""

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.errors import UserError
from utils.locks import LAUNCHER_VARIABLE
from utils.process_state import Stopped
from utils.progress import say
from utils.signals import signals_held_back

GRACE = 10.0  # seconds between SIGTERM and SIGKILL
LAST_LINES = 5  # of a failed process's log are looked at
COMPLAINT = "error: "  # how a script's line for users begins


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
