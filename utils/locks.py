"""Locks, so that one process at a time writes certain files, on one machine or on several that share a disk.

A lock is a small file that names its holder. On the holder's own machine the process itself is looked for, so a killed
process's lock is free at once. From another machine the heartbeat counts: the holder touches the file every few
seconds, and its time is compared with that of a file touched now. Both times are of the shared disk's clock, so the
machines' own clocks do not matter.

filelock's SoftFileLease does not replace this: it makes every newcomer wait for a dead machine's whole lease, takes a
killed process that nobody has collected for alive, and cannot say at once for a screen whether a holder lives.
"""

import contextlib
import json
import math
import os
import platform
import shlex
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path

from utils.artifacts import Role
from utils.errors import UserError, reason
from utils.files import create_text, remove_leftovers
from utils.processes import LAUNCHER_VARIABLE, how_to_continue, is_stopped, status_of
from utils.progress import say
from utils.tables import printable

BEAT = 2.0  # seconds between two signs of life
LONG_SILENCE = 30.0  # seconds without one after which people are told
SILENCE_LIMIT = 120.0  # seconds without one after which a process of another machine counts as dead
PATIENCE = 30.0  # seconds that a process which will end soon has to do so
PAUSE = 0.1  # seconds between two looks


# What `keep_there` was told, by path; the innermost block of `held` comes last.
_kept: list[dict[Path, Callable[[], None]]] = []


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock."""

    host: str
    machine: str  # where `pid` means this process: one boot of one machine, one container
    pid: int
    started: str  # so that a later process of the same number is not taken for this one
    launcher: int  # the process that started it and ends it; 0 = none
    command: str

    def __str__(self) -> str:
        return f"{self.host}, pid {self.pid}"


@contextlib.contextmanager
def held(*roles: Role) -> Iterator[None]:
    """Hold the locks of some roles, and remove what killed holders left half written.

    Ends this process if a lock is taken from it, or the launcher that started it is gone. Restores the files of
    `keep_there` where they are removed. Raises UserError, naming the holder, where a living process has one of the
    locks.
    """
    kept: dict[Path, Callable[[], None]] = {}
    text = json.dumps(asdict(_this_process())) + "\n"
    taken: list[Path] = []
    ended = threading.Event()
    heart = threading.Thread(target=_beat, args=(taken, text, kept, ended), daemon=True)
    heart.start()
    _kept.append(kept)
    try:
        for role in roles:
            _take(role.lock, text, role.name)
            taken.append(role.lock)
            for pattern in role.writes:
                remove_leftovers(pattern)
        yield
    finally:
        _kept.pop()
        ended.set()
        heart.join()
        for lock in taken:
            with contextlib.suppress(OSError):
                if lock.read_text(encoding="utf-8") == text:
                    lock.unlink(missing_ok=True)


def keep_there(path: Path, write: Callable[[], None]) -> None:
    """Let `write` write a file again where it is removed before the block of `held` that this runs in ends.

    For small files that other processes wait for, or without which a search could not go on. Outside such a block, or
    where the whole folder is removed, it stays removed.
    """
    if _kept:
        _kept[-1][path] = write


def state_of(lock: Path) -> str:
    """In a few words, whether the holder of a lock lives."""
    holder = _read(lock)
    if holder is None:
        return "not running"
    if not _lives(holder, lock):
        return f"died on {holder}"
    return f"alive on {holder}{_but_idle(holder, lock)}"


def is_held(lock: Path) -> bool:
    """Whether a living process holds a lock."""
    holder = _read(lock)
    return holder is not None and _lives(holder, lock)


def check_nobody_holds(locks: Iterable[Path], doing: str) -> None:
    """Raises UserError, naming the first living holder of one of the locks, which `doing` would disturb."""
    for lock in locks:
        if holder := _living_holder(lock, _is_orphan):
            idle = _but_idle(holder, lock)
            raise UserError(f"{doing}: {holder.command} on {holder}{idle} works on these files; end it, then try again")


def _take(lock: Path, text: str, name: str) -> None:
    while not create_text(lock, text):
        if holder := _living_holder(lock, _is_orphan):
            raise UserError(
                f"{name} is already running: {holder.command} on {holder}{_but_idle(holder, lock)}; "
                f"end it, or wait until it ends ({lock})"
            )
        _remove_dead(lock, text)


def _living_holder(lock: Path, will_end_soon: Callable[[Holder], bool]) -> Holder | None:
    """Who holds a lock and lives, after some patience with one that will end soon; None where nobody does."""
    deadline = time.monotonic() + PATIENCE
    while (holder := _read(lock)) and _lives(holder, lock):
        if not will_end_soon(holder) or time.monotonic() > deadline:
            return holder
        time.sleep(PAUSE)
    return None


def _remove_dead(lock: Path, text: str) -> None:
    """Remove a dead process's lock, under a second lock: else a slow process could remove a faster one's new lock."""
    guard = lock.with_name(f"{lock.name}.takeover")
    while not create_text(guard, text):
        if other := _living_holder(guard, lambda _: True):
            raise UserError(f"{guard} stands in the way: {other} is taking over; remove that file if it is not")
        _remove_dead(guard, text)
    try:
        if (holder := _read(lock)) and not _lives(holder, lock):
            lock.unlink(missing_ok=True)
    finally:
        guard.unlink(missing_ok=True)


def _beat(locks: list[Path], text: str, kept: dict[Path, Callable[[], None]], ended: threading.Event) -> None:
    launcher = _launcher()
    while not ended.wait(BEAT):
        lost = "the launcher is gone" if launcher and os.getppid() != launcher else None
        for lock in locks:
            try:
                os.utime(lock)  # the disk's time, where it is another machine's
                if lock.read_text(encoding="utf-8") != text:
                    lost = f"another process has taken {lock}"
            except FileNotFoundError:
                lost = f"{lock} was removed"
            except OSError:  # the disk may come back
                continue
        if lost and not ended.is_set():
            with contextlib.suppress(OSError):
                print(f"error: {printable(str(lost))}: ending; the same command goes on", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGTERM)
            return
        for path, write in kept.copy().items():
            with contextlib.suppress(OSError, UserError):  # the next beat tries again
                if not path.exists() and path.parent.is_dir():
                    write()
                    say(f"{path} was removed while it is needed: written again")


def _read(lock: Path) -> Holder | None:
    """The holder of a lock, or None where nobody holds it."""
    try:
        found = Holder(**json.loads(lock.read_text(encoding="utf-8")))
        if all(type(getattr(found, field.name)) is field.type for field in fields(Holder)):
            return found
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"cannot read {lock}: {reason(error)}; change its permissions, then try again") from None
    except (ValueError, TypeError, RecursionError):
        pass
    return Holder("an unknown machine", "", 0, "", 0, f"(damaged: {lock})")


def _lives(holder: Holder, lock: Path) -> bool:
    if holder.machine == _machine():
        started = _started(holder.pid)
        if started is None or started:
            return started == holder.started
    return _silence(lock) < SILENCE_LIMIT


def _but_idle(holder: Holder, lock: Path) -> str:
    """Words on a living holder that makes no progress; none where it does."""
    if holder.machine == _machine() and is_stopped(holder.pid):
        return f", but stopped: {how_to_continue(holder.pid)}"
    silence = _silence(lock)
    return f", but without a sign of life for {silence:.0f} s" if LONG_SILENCE < silence < math.inf else ""


def _silence(lock: Path) -> float:
    """Seconds since the holder's last sign of life, by the disk's clock; infinite where the lock is given back."""
    try:
        return _time_of_disk(lock.parent) - lock.stat().st_mtime
    except FileNotFoundError:
        return math.inf


def _time_of_disk(folder: Path) -> float:
    with tempfile.NamedTemporaryFile(prefix=".clock.", dir=folder) as file:
        os.utime(file.name)
        return Path(file.name).stat().st_mtime


def _is_orphan(holder: Holder) -> bool:
    """Whether its launcher is gone, so that it will end as soon as it notices."""
    return holder.launcher != 0 and holder.machine == _machine() and _started(holder.launcher) is None


def _this_process() -> Holder:
    pid = os.getpid()
    command = shlex.join(["python", *sys.argv])
    return Holder(platform.node(), _machine(), pid, _started(pid) or "", _launcher(), command)


def _launcher() -> int:
    return int(os.environ.get(LAUNCHER_VARIABLE, 0))


@cache
def _machine() -> str:
    """Where a process number means one process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{platform.node()} {boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not Linux
        return platform.node()


def _started(pid: int) -> str | None:
    """When a process started, in ticks since the machine did; "" = unknown, None = no process of this number runs."""
    status = status_of(pid)
    if status is None:
        return "" if _runs(pid) else None
    return None if status[0] in "ZX" else status[19]  # one that has ended, its exit code not yet collected


def _runs(pid: int) -> bool:
    if sys.platform == "win32":  # where os.kill would interrupt it; its heartbeat tells whether it runs
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        pass
    return True
