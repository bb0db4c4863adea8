"""What a stage does, how far it is and how long it will take: a bar on a terminal, a line now and then in a log.

Only after some seconds, so that what is fast says nothing. Of loops within each other the outermost speaks. `--quiet`
ends all of it, and with it the lines on the way that `say` prints: what is left are results and errors. Somebody else's
program that imports this project says nothing unless it asks for that.
"""

import contextlib
import io
import logging
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TypeVar

from tqdm import tqdm

from utils.tables import for_stream, printable

Item = TypeVar("Item")

FIRST_LINE = 3.0  # seconds; what takes less needs no line
BAR_FORMAT = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{remaining}]"  # tqdm's, with the time that is left
LONGEST_PAUSE = 60.0  # seconds between two lines in a log; the first ones follow faster

_speaking = threading.Lock()  # held by the outermost loop
_is_shown = False  # until a stage's command line decides


def show_progress(shown: bool) -> None:
    """Enable or disable progress lines of long computations (default: off).

    Example: `show_progress(True)`.

    Args:
        shown: whether they are printed. Scripts enable them, except with `--quiet`.
    """
    global _is_shown
    _is_shown = shown


def is_shown() -> bool:
    """Whether this run says what it does."""
    return _is_shown


def say(line: str) -> None:
    """Print a line on the way to the results."""
    if _is_shown:
        print(f"{for_stream(line, sys.stdout)}\n", end="", flush=True)  # in one piece, whichever thread says it


def progress(items: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
    """The items, while it is said how many of `total` (default: len(items)) are done."""
    with steps(what, len(items) if total is None else total) as advance:  # type: ignore[arg-type]
        for item in items:
            yield item
            advance()


@contextmanager
def steps(what: str, total: int | None, done: int = 0) -> Iterator[Callable[[], object]]:
    """A function to call after each of `total` steps, of which some may have been `done` by an earlier run.

    None, or 1: it is one step, whose length nobody knows.
    """
    total, what = None if total == 1 else total, printable(what)
    if not _is_shown or not _speaking.acquire(blocking=False):
        yield lambda: None
        return
    try:
        if sys.stderr is not None and sys.stderr.isatty() and total is not None:
            # No rate, and few words: else the bar is one character wide on a narrow terminal.
            form: dict[str, Any] = {"desc": textwrap.shorten(what, 34, placeholder="..."), "bar_format": BAR_FORMAT}
            with tqdm(total=total, initial=done, leave=False, delay=0.5, dynamic_ncols=True, **form) as bar:
                yield bar.update
        else:
            with _Lines(what, total, done) as lines:
                yield lines.advance
    finally:
        _speaking.release()


class _Lines:
    """One line after some seconds, then others ever more rarely."""

    def __init__(self, what: str, total: int | None, done: int) -> None:
        self._what, self._total, self._done, self._done_before = what, total, done, done
        self._start = time.monotonic()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._speak, daemon=True)

    def __enter__(self) -> "_Lines":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()  # no line after the results

    def advance(self) -> None:
        """One more step is done."""
        self._done += 1

    def _speak(self) -> None:
        pause = FIRST_LINE
        while not self._is_over.wait(pause):
            seconds, now = time.monotonic() - self._start, self._done - self._done_before
            with contextlib.suppress(OSError):  # the reader left, or the disk is full: results will say so
                say(progress_line(self._what, self._total, self._done, now, seconds))
            pause = min(1.5 * max(pause, 1.0), LONGEST_PAUSE)


def progress_line(what: str, total: int | None, done: int, done_now: int, seconds: float) -> str:
    """`what: 34 of 100, about 35 s left`; `done_now` of the steps done took the `seconds`."""
    if total is None:
        return f"{what}, {time_in_words(seconds)} so far"
    left = f", about {time_in_words(seconds / done_now * (total - done))} left" if done_now else ""
    return f"{what}: {done:,} of {total:,}{left}"


def time_in_words(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


@contextmanager
def quiet() -> Iterator[None]:
    """Without the pages that an exporter logs, prints and warns about."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
