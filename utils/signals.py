"""Ctrl-C, SIGTERM and a closed terminal end a process in order: it closes its files and ends its children."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

ENDING = [number for name in ("SIGINT", "SIGTERM", "SIGHUP") if (number := getattr(signal, name, None))]


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Raise SystemExit (KeyboardInterrupt on Ctrl-C) at the first signal, and ignore all later ones.

    So a second signal breaks off neither the clean-up after the first one nor the end of the interpreter, which follows
    the outermost block: signals stay ignored behind it. Signals that are ignored before, as under nohup, are ignored
    all along. For the main thread, which alone receives signals.
    """
    before = {number: signal.getsignal(number) for number in _heeded()}
    arrived: list[int] = []

    def end(number: int, _: FrameType | None) -> NoReturn:
        arrived.append(number)
        for each in before:
            # Not SIG_IGN: Python complains about a signal that came just before it was set.
            signal.signal(each, lambda *_: None)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + number)

    try:
        for number in before:
            signal.signal(number, end)
        yield
    finally:
        for number, earlier in before.items():
            if earlier in (signal.SIG_DFL, signal.default_int_handler):
                signal.signal(number, signal.SIG_IGN)  # which holds to the very end, as Python's own handlers do not
            elif not arrived:  # a script that runs another one
                signal.signal(number, earlier)


@contextmanager
def signals_held_back() -> Iterator[None]:
    """Let signals wait until the block is done, for steps that must not be broken off."""
    arrived: list[int] = []
    before = {number: signal.signal(number, lambda number, _: arrived.append(number)) for number in _heeded()}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
        if arrived:
            signal.raise_signal(arrived[0])


def _heeded() -> list[int]:
    return [number for number in ENDING if signal.getsignal(number) != signal.SIG_IGN]
