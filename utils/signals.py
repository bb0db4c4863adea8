"""Ctrl-C, SIGTERM and a closed terminal end a process in order: what is open is closed, what was started is ended."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

ENDING = [number for name in ("SIGINT", "SIGTERM", "SIGHUP") if (number := getattr(signal, name, None))]


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Raise SystemExit (KeyboardInterrupt on Ctrl-C) at the first signal, and pass over all later ones.

    So a second one cannot break off the clean-up after the first. Signals that are ignored, as under nohup, stay so.
    For the main thread, which alone receives signals.
    """
    heeded = [number for number in ENDING if signal.getsignal(number) != signal.SIG_IGN]

    def end(number: int, _: FrameType | None) -> NoReturn:
        for each in heeded:
            signal.signal(each, signal.SIG_IGN)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + number)

    before = {number: signal.signal(number, end) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def signals_held_back() -> Iterator[None]:
    """Let signals wait until the block is done: for steps that must not be broken off."""
    arrived: list[int] = []
    heeded = [number for number in ENDING if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, lambda number, _: arrived.append(number)) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if arrived:
            signal.raise_signal(arrived[0])
