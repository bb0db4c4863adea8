"""Waiting for other processes' files: it says what it waits for, and it ends."""

import time
from collections.abc import Callable

import global_configure
from utils.errors import WaitedTooLong
from utils.progress import say

FIRST_REPORT = 5.0  # seconds of waiting before it is worth a line
REPORT_EVERY = 60.0  # seconds
LONGEST_PAUSE = 0.5  # seconds between two looks


def wait_until(is_there: Callable[[], bool], awaited: Callable[[], str]) -> None:
    """Return once `is_there()`. Meanwhile print what is `awaited()` and for how long.

    Raises WaitedTooLong after `global_configure.wait_limit` seconds.
    """
    start = time.monotonic()  # not the wall clock, which may jump
    pause, next_report = 0.005, FIRST_REPORT
    while not is_there():
        waited = time.monotonic() - start
        if waited > global_configure.wait_limit:
            raise WaitedTooLong(f"waited {waited:.0f} s for {awaited()}; see to that, then type the same command again")
        if waited > next_report:
            say(f"waiting for {awaited()}, {waited:.0f} s so far")
            next_report = waited + REPORT_EVERY
        time.sleep(pause)
        pause = min(pause * 1.5, LONGEST_PAUSE)
