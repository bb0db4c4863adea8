"""Whether the head of a Ray cluster answers.

Where it does not, Ray's calls wait for it, and after a minute Ray ends the process, whatever that is at. Asked before
them, it is an error like others, and the process ends in order.
"""

import contextlib
import socket
import time

from utils.errors import UserError

PATIENCE = 30.0  # seconds that a head may be away: half of what Ray itself gives it
PAUSE = 1.0  # seconds between two looks
LONGEST_ANSWER = 5.0  # seconds


class RayHead:
    """The head at HOST:PORT."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._host, _, self._port = address.rpartition(":")
        self._last_look, self._gone_since = float("-inf"), float("inf")

    def wait(self) -> None:
        """Return as soon as it answers. Raises UserError where it is gone for long."""
        while not self._look():
            time.sleep(PAUSE)

    def check(self) -> None:
        """Raises UserError where it is gone for long. Looks once a second at the most, however often it is called."""
        if time.monotonic() - self._last_look >= PAUSE:
            self._look()

    def _look(self) -> bool:
        self._last_look = now = time.monotonic()
        is_there = _somebody_listens(self._host, int(self._port))
        self._gone_since = float("inf") if is_there else min(self._gone_since, now)
        if now - self._gone_since > PATIENCE:
            raise UserError(
                f"the head of the Ray cluster, {self.address}, has not answered for {PATIENCE:.0f} s; "
                "start a cluster, then type the same command again: it goes on"
            )
        return is_there


def _somebody_listens(host: str, port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection((host.strip("[]"), port), timeout=LONGEST_ANSWER).close()
        return True
    return False
