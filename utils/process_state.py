"""The state of a process of this machine, as Linux's /proc says; on other systems it is unknown."""

import time
from collections.abc import Mapping
from pathlib import Path

WORTH_A_LINE = 5.0  # seconds that a process is stopped


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
