"""One at a time: who writes some files holds their lock, and the lock says on which machine, and that it still lives.

A lock is a small file that names its holder. On the holder's own machine the process itself is looked for, so the lock
of one that was killed never stands in the way. From another machine its heartbeat counts: the holder touches the file
every few seconds. That is compared with the time of a file touched now, by the clock of the disk that both share; the
machines' own clocks may differ, and jump.
"""

import contextlib
import json
import os
import platform
import shlex
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path

from utils.artifacts import Role
from utils.errors import UserError, reason
from utils.files import create_text, remove_leftovers

BEAT = 2.0  # seconds between two signs of life
SILENCE_LIMIT = 120.0  # seconds without one after which a process of another machine counts as dead
ORPHAN_PATIENCE = 30.0  # seconds that a process whose launcher is gone has to notice it
PAUSE = 0.1  # seconds between two looks
LAUNCHER_VARIABLE = "CNNMOD_LAUNCHER_PID"  # in the environment of a launcher's children


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

    Ends this process if a lock is taken from it, or the launcher that started it is gone. Raises UserError, naming
    the holder, where a living process has one of the locks.
    """
    text = json.dumps(asdict(_this_process())) + "\n"
    taken: list[Path] = []
    ended = threading.Event()
    heart = threading.Thread(target=_beat, args=(taken, text, ended), daemon=True)
    try:
        for role in roles:
            _take(role.lock, text, role.name)
            taken.append(role.lock)
            for pattern in role.writes:
                remove_leftovers(pattern)
        heart.start()
        yield
    finally:
        ended.set()
        if heart.ident is not None:
            heart.join()
        for lock in taken:
            _give_back(lock, text)


def state_of(lock: Path) -> str:
    """In a few words, whether the holder of a lock lives."""
    holder = _read(lock)
    if holder is None:
        return "not running"
    return f"alive on {holder}" if _lives(holder, lock) else f"died on {holder}"


def check_nobody_holds(locks: Iterable[Path], doing: str) -> None:
    """Raises UserError, naming the first living holder of one of the locks, which `doing` would disturb."""
    deadline = time.monotonic() + ORPHAN_PATIENCE
    for lock in locks:
        while (holder := _read(lock)) and _lives(holder, lock):
            if not _is_orphan(holder) or time.monotonic() > deadline:
                raise UserError(f"{doing}: {_description(holder)} works on these files; end it, then try again")
            time.sleep(PAUSE)


def _take(lock: Path, text: str, name: str) -> None:
    deadline = time.monotonic() + ORPHAN_PATIENCE
    while not create_text(lock, text):
        holder = _read(lock)
        if holder is None:  # given back since
            continue
        if not _lives(holder, lock):
            _remove_dead(lock, text, holder)
        elif _is_orphan(holder) and time.monotonic() < deadline:
            time.sleep(PAUSE)
        else:
            raise UserError(
                f"{name} is already running: {_description(holder)}; end it, or wait until it ends ({lock})"
            )


def _remove_dead(lock: Path, text: str, dead: Holder) -> None:
    """Remove a dead process's lock: of several that see it at once, none removes the lock of one that was faster."""
    guard = lock.with_name(f"{lock.name}.takeover")  # a lock itself, so that a process that dies here is no matter
    deadline = time.monotonic() + ORPHAN_PATIENCE
    while not create_text(guard, text):
        other = _read(guard)
        if other is not None and not _lives(other, guard):
            _remove_dead(guard, text, other)
        elif time.monotonic() > deadline:
            raise UserError(f"{guard} stands in the way: {other} is taking over; remove that file if it is not")
        else:
            time.sleep(PAUSE / 10)
    try:
        if _read(lock) == dead:
            lock.unlink(missing_ok=True)
    finally:
        guard.unlink(missing_ok=True)


def _give_back(lock: Path, text: str) -> None:
    with contextlib.suppress(OSError):
        if lock.read_text(encoding="utf-8") == text:
            lock.unlink(missing_ok=True)


def _beat(locks: list[Path], text: str, ended: threading.Event) -> None:
    launcher = _launcher()
    while not ended.wait(BEAT):
        lost = None
        if launcher and os.getppid() != launcher:
            lost = "the launcher is gone"
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
            print(f"error: {lost}: ending; the same command goes on", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGTERM)
            return


def _read(lock: Path) -> Holder | None:
    """The holder of a lock, or None where nobody holds it."""
    try:
        found = Holder(**json.loads(lock.read_text(encoding="utf-8")))
        if all(type(getattr(found, field.name)) is field.type for field in fields(Holder)):
            return found
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"cannot read {lock}: {reason(error)}; mend its permissions, then try again") from None
    except (ValueError, TypeError, RecursionError):
        pass
    return Holder("an unknown machine", "", 0, "", 0, f"(damaged: {lock})")


def _lives(holder: Holder, lock: Path) -> bool:
    if holder.machine == _machine():
        started = _started(holder.pid)
        if started is None or started:
            return started == holder.started
    try:
        return _time_of_disk(lock.parent) - lock.stat().st_mtime < SILENCE_LIMIT
    except FileNotFoundError:  # given back since
        return False


def _time_of_disk(folder: Path) -> float:
    handle, name = tempfile.mkstemp(prefix=".clock.", dir=folder)
    os.close(handle)
    try:
        os.utime(name)
        return Path(name).stat().st_mtime
    finally:
        Path(name).unlink(missing_ok=True)


def _is_orphan(holder: Holder) -> bool:
    """Whether its launcher is gone, so that it will end as soon as it notices."""
    return holder.launcher != 0 and holder.machine == _machine() and _started(holder.launcher) is None


def _description(holder: Holder) -> str:
    return f"{holder.command} on {holder}"


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
    """When a process started, in ticks since the machine did: "" = unknown, None = none of this number runs."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:  # it has ended; or this is not Linux, or hides other users' processes
        return "" if _runs(pid) else None
    values = status[status.rindex(")") + 2 :].split()  # the name before may hold anything
    return None if values[0] in "ZX" else values[19]  # one that has ended, its exit code not yet collected


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        pass
    return True
