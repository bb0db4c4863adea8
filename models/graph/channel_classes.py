"""Channels that go together: union-find over numbered channels, some of which are always kept.

Channel 0 stands for whatever has no kernel and is never dropped, such as the channels of the images.
"""

import numpy as np

KEPT = 0


class ChannelClasses:
    """Numbered channels in classes; the channels of a class are kept or dropped together."""

    def __init__(self) -> None:
        self._parent = [KEPT]
        self._kept_because: dict[int, str] = {}  # of single channels, in the order in which that was found out

    def __len__(self) -> int:
        return len(self._parent)

    def new(self, count: int) -> np.ndarray:
        """`count` new channels (count,) int64, each in a class of its own."""
        first = len(self._parent)
        self._parent.extend(range(first, first + count))
        return np.arange(first, first + count)

    def root(self, channel: int) -> int:
        """The number that all channels of this one's class have in common: the smallest of them."""
        parent = self._parent
        while parent[channel] != channel:
            parent[channel] = parent[parent[channel]]
            channel = parent[channel]
        return channel

    def roots(self, channels: np.ndarray) -> np.ndarray:
        """The roots of several channels, (n,) int64."""
        return np.fromiter(map(self.root, channels.tolist()), np.int64, len(channels))

    def join(self, some: np.ndarray, others: np.ndarray, because: str) -> None:
        """Place by place, put two channels into one class; `because` says why, where one of them is always kept."""
        for one, other in dict.fromkeys(zip(some.tolist(), others.tolist(), strict=True)):
            if KEPT in (one, other):
                self._kept_because.setdefault(max(one, other), because)
            else:
                first, second = sorted((self.root(one), self.root(other)))
                self._parent[second] = first

    def keep(self, channels: np.ndarray, because: str) -> None:
        """Never drop these channels."""
        for channel in channels.tolist():
            self._kept_because.setdefault(channel, because)

    def kept_roots(self) -> dict[int, str]:
        """Of every class that is always kept its root, and why."""
        reasons = {KEPT: "it has no kernels"}
        for channel, because in self._kept_because.items():
            reasons.setdefault(self.root(channel), because)
        return reasons
