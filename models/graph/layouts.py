"""Where the channels of a value stand, and which channels are tied: kept or dropped together.

A value is one of three: it has no channels that could be dropped ("plain"); one of its dimensions is a row of channels,
one or several places each ("row"); or channels are scattered over several dimensions, on the way to a row again
("scattered"), as between the two reshapes of a channel shuffle.

Channel 0 stands for whatever has no kernel and is never dropped, such as the channels of the images.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.graph.values import Value

KEPT = 0


@dataclass(frozen=True)
class Layout:
    """A value's shape (of two images), and where its channels stand; of a plain value, nowhere."""

    shape: tuple[int, ...]
    # Behind global pooling channels are no maps any more: layers there make gates or neurons, which have no kernels.
    pooled: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether there is no channel that could be dropped."""
        return type(self) is Layout


@dataclass(frozen=True, kw_only=True)
class ChannelRow(Layout):
    """One dimension is a row of channels."""

    dim: int
    channels: np.ndarray  # (shape[dim],) int64: the channel at each place of the row

    def row(self, shape: tuple[int, ...], dim: int | None = None, pooled: bool | None = None) -> "ChannelRow":
        """The layout of what an operator makes channel by channel."""
        pooled = self.pooled if pooled is None else pooled
        return ChannelRow(shape, pooled, dim=self.dim if dim is None else dim, channels=self.channels)


@dataclass(frozen=True, kw_only=True)
class RearrangedRow(ChannelRow):
    """A row whose elements were rearranged."""

    origin: Value  # a row
    index: np.ndarray  # at each place of the row, the place in the origin's row


@dataclass(frozen=True, kw_only=True)
class Scattered(Layout):
    """The elements of a row on the way to another one, with channels in several dimensions."""

    origin: Value  # a row
    places: Tensor  # at each element, the place in the origin's row


@dataclass(frozen=True, kw_only=True)
class Several(Layout):
    """The layouts of several results of one operator."""

    parts: tuple[Layout, ...]


def of_results(shape: Any, make: Callable[[tuple[int, ...]], Layout]) -> Layout:
    """The layout of an operator's result from its shape; of several results, whose shapes are in a list, `Several`."""
    return Several((), parts=tuple(map(make, shape))) if isinstance(shape, list) else make(shape)


def places_along(shape: tuple[int, ...], dim: int, labels: np.ndarray) -> Tensor:
    """A tensor of that shape that has at each element the label of its place along `dim`."""
    view = [1] * len(shape)
    view[dim] = len(labels)
    return torch.as_tensor(labels, dtype=torch.int32).view(view).expand(shape)


def resized(shape: tuple[int, ...], dim: int, size: int) -> tuple[int, ...]:
    """The shape with another size at `dim`."""
    return (*shape[:dim], size, *shape[dim + 1 :])


class Ties:
    """Union-find over numbered channels: those that are tied are kept or dropped together."""

    def __init__(self) -> None:
        self._parent = [KEPT]
        self._kept_because: dict[int, str] = {}  # of single channels, in the order in which that was found out

    def __len__(self) -> int:
        return len(self._parent)

    def new(self, count: int) -> np.ndarray:
        """`count` new channels (count,) int64, each tied to none."""
        first = len(self._parent)
        self._parent.extend(range(first, first + count))
        return np.arange(first, first + count)

    def root(self, channel: int) -> int:
        """The number that all channels tied to this one have in common: the smallest of theirs."""
        parent = self._parent
        while parent[channel] != channel:
            parent[channel] = parent[parent[channel]]
            channel = parent[channel]
        return channel

    def roots(self, channels: np.ndarray) -> np.ndarray:
        """The roots of several channels, (n,) int64."""
        return np.fromiter(map(self.root, channels.tolist()), np.int64, len(channels))

    def join(self, some: np.ndarray, others: np.ndarray, because: str) -> None:
        """Tie two channels, place by place; `because` is the reason, if one of them is always kept."""
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
        """The roots of channels that are always kept, and why."""
        reasons = {KEPT: "it has no kernels"}
        for channel, because in self._kept_because.items():
            reasons.setdefault(self.root(channel), because)
        return reasons
