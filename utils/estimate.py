"""What a long stage takes: its expected time and peak memory, measured on its first steps and said in one line.

The first step also compiles, reads and makes room. So where steps are short, the time is that of those after it.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import torch

from utils import progress
from utils.given_places import readable
from utils.tables import for_stream

Item = TypeVar("Item")

ENOUGH = 1.0  # seconds of steps, without the first one, that an estimate rests on
AT_ONCE = 20.0  # seconds of a first step after which nobody waits for a second one
LONG = 7  # times the seconds before a loop says how far it is: of what takes less nothing is said
FAST = 2e11  # floating-point operations a second, which few machines reach here
DAY = 86400.0  # seconds; of what takes more it is said what to do instead


class Estimate:
    """Measures a loop's first steps, and says what all of them take.

    Args:
        what: the stage, for people.
        total: how many steps it has; of a loop whose steps become cheaper, how many as long as the first ones.
    """

    def __init__(self, what: str, total: float) -> None:
        self._what, self._total = what, total
        self._start, self._done, self._first, self._is_said = time.perf_counter(), 0, 0.0, False

    def advance(self) -> None:
        """One more step is done."""
        if self._is_said:
            return
        self._done += 1
        if self._done == 1 or time.perf_counter() - self._start - self._first >= ENOUGH:
            _wait_for_devices()
        seconds = time.perf_counter() - self._start
        self._first = seconds if self._done == 1 else self._first
        later = seconds - self._first
        if seconds < AT_ONCE if self._done == 1 else later < ENOUGH:
            return
        a_step = later / (self._done - 1) if self._done > 1 else seconds
        self._is_said = True
        say_estimate(self._what, self._first + a_step * (self._total - 1))


def estimated(items: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
    """The items of a loop, whose first steps are measured: see `Estimate`; `total` is len(items) unless it is given.

    Example: `for step in estimated(range(1000), "training"): ...`
    """
    estimate = Estimate(what, len(items) if total is None else total)  # type: ignore[arg-type]
    for item in items:
        yield item
        estimate.advance()


def say_estimate(what: str, seconds: float, *, more_bytes: int = 0, instead: str = "") -> None:
    """Say what a stage is expected to take, unless that is little; and warn where memory will not suffice.

    Args:
        what: the stage, for people.
        seconds: that it is expected to take.
        more_bytes: of memory that it comes to hold beyond what this process held at most until now.
        instead: what to do where there is less memory.
    """
    advice = f"; {instead}" if instead else ""
    if seconds >= LONG * progress.FIRST_LINE:
        on_gpu = f", {readable(torch.cuda.max_memory_allocated())} on the GPU" if torch.cuda.is_initialized() else ""
        memory = readable(peak_memory() + more_bytes)
        progress.say(
            f"{what}: expected to take {progress.time_in_words(seconds)} and at most {memory} of memory{on_gpu}"
            f"{advice if seconds > DAY else ''}"
        )
    free = free_memory()
    if free is not None and more_bytes > free:
        line = f"warning: {what}: {readable(more_bytes)} of memory are needed, {readable(free)} are free{advice}"
        print(for_stream(line, sys.stdout), flush=True)


def is_worth_measuring(flops: float) -> bool:
    """Whether work of so many floating-point operations may take long enough for an estimate."""
    return flops / FAST >= LONG * progress.FIRST_LINE


def seconds_of(step: Callable[[], object]) -> float:
    """How long a step takes, after one that warms up where it is short."""
    for _ in range(2):
        start = time.perf_counter()
        step()
        _wait_for_devices()
        seconds = time.perf_counter() - start
        if seconds > ENOUGH:
            break
    return seconds


def peak_memory() -> int:
    """The most bytes of memory that this process has held until now; where the system does not say, 0."""
    # Not getrusage's: that counts what a process held before it became this program.
    if (kib := _kib("/proc/self/status", "VmHWM")) is not None:
        return kib * 2**10
    if sys.platform == "win32":
        return 0
    import resource  # not on every system

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 2**10


def free_memory() -> int | None:
    """The bytes of memory that the system can give; None where it does not say."""
    kib = _kib("/proc/meminfo", "MemAvailable")
    return None if kib is None else kib * 2**10


def _kib(path: str, name: str) -> int | None:
    """The number after a name in a file of the system, in KiB."""
    if not Path(path).exists():
        return None
    with Path(path).open(encoding="utf-8") as lines:
        return next((int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), None)


def _wait_for_devices() -> None:
    """Devices work on after a function that gives them work is back."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
