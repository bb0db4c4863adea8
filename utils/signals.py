"""Ctrl-C, SIGTERM and a closed terminal end a process in order: it closes its files and ends its children."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

ENDING = [number for name in ("SIGINT", "SIGTERM", "SIGHUP") if (number := getattr(signal, name, None))]


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Raise SystemExit (KeyboardInterrupt on Ctrl-C) at the first signal and ignore all later ones.

    So a second signal cannot break off the clean-up after the first. Signals that are ignored, as under nohup, stay
    ignored. For the main thread, which alone receives signals.
    """

    def end(number: int, _: FrameType | None) -> NoReturn:
        for each in ENDING:
            signal.signal(each, signal.SIG_IGN)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + number)

    with _handled_by(end):
        yield


@contextmanager
def signals_held_back() -> Iterator[None]:
    """Let signals wait until the block is done, for steps that must not be broken off."""
    arrived: list[int] = []
    try:
        with _handled_by(lambda number, _: arrived.append(number)):
            yield
    finally:
        if arrived:
            signal.raise_signal(arrived[0])


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    heeded = [number for number in ENDING if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heeded}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
