"""Tasks for the tests of engines: functions of a module, so that workers can import them."""

import os
import signal
import time
from pathlib import Path

import numpy as np

from utils.errors import UserError


def scaled(values: np.ndarray, factor: int) -> np.ndarray:
    return values * factor


def slow(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def dies_the_first_times(count: int, notes: str) -> str:
    """Its worker is killed until `count` starts are noted."""
    with Path(notes).open("a", encoding="utf-8") as file:
        file.write("started\n")
    if len(Path(notes).read_text(encoding="utf-8").splitlines()) <= count:
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def waits(notes: str, go: str) -> str:
    """Until the file `go` is there."""
    with Path(notes).open("a", encoding="utf-8") as file:
        file.write("started\n")
    while not Path(go).exists():
        time.sleep(0.1)
    return "done"


def fails(notes: str) -> None:
    with Path(notes).open("a", encoding="utf-8") as file:
        file.write("started\n")
    raise ZeroDivisionError("as always")


def complains() -> None:
    raise UserError("expected 1, given 2")
