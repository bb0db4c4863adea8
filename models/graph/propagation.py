"""Channels followed from operator to operator through a plain graph.

Every convolution makes new channels, and operators that work channel by channel hand them on. An operator that mixes
channels reads them: only there must a dropped channel be zero, and only there does a mask stand. Whatever lies between
a kernel and its readers (batch norm, any activation, pooling, gates, depthwise convolution) works channel by channel,
so that what a dropped channel holds there cannot matter. An operator that is not known keeps what it reads whole.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from models.graph.layouts import KEPT, ChannelRow, Layout, Scattered, Several, Ties, of_results
from models.graph.values import Constant, Value, users_of


@dataclass(frozen=True)
class Reader:
    """An operator that mixes the channels of its first operand: where the mask stands."""

    value: Value
    source: Value
    dim: int  # of the source: its row of channels
    channels: np.ndarray  # at each place of that row


@dataclass(frozen=True)
class Layer:
    """A layer whose output channels are its own."""

    name: str
    value: Value
    channels: np.ndarray  # (K,) of its kernels
    has_kernels: bool  # whether it makes maps; else gates or neurons, which are always whole
    groups: int = 1


@dataclass
class Propagation:
    """What is found out about a plain graph's channels; `operators.followed` finds it out.

    Args:
        values: the plain graph's.
        freed: names of grouped convolutions whose kernels are dropped one by one, not group by group.
        constants: those that the network's code decides, by name: indices, for example.
    """

    values: Sequence[Value]
    freed: frozenset[str] = frozenset()
    constants: Mapping[str, Tensor] = field(default_factory=dict)
    users: Mapping[Value, Sequence[Value]] = field(init=False)  # of each value those that read it
    ties: Ties = field(default_factory=Ties)
    layouts: dict[Value, Layout] = field(default_factory=dict)
    readers: list[Reader] = field(default_factory=list)
    layers: list[Layer] = field(default_factory=list)
    never_empty: list[np.ndarray] = field(default_factory=list)  # channels of which at least one must be kept
    left_out: list[np.ndarray] = field(default_factory=list)  # channels that a selection does not take
    joins: list[tuple[Value, np.ndarray]] = field(default_factory=list)  # where several maps become one, in order
    _sliced: dict[tuple[str, int], np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.users = users_of(self.values)

    def operands(self, value: Value) -> list[Value]:
        """The operator's operands that depend on the images."""
        return [operand for operand in value.operands if operand in self.layouts]

    def row(self, value: Value) -> ChannelRow:
        """The layout of a value that has a row of channels. Raises TypeError for others."""
        found = self.layouts[value]
        if not isinstance(found, ChannelRow):
            raise TypeError(f"{value} has no row of channels")
        return found

    def whole(self, value: Value, because: str | None = None) -> Layout:
        """An operator that is not known here: it reads all channels, and its result has none."""
        layouts: list[Layout] = []
        for operand in self.operands(value):
            found = self.layouts[operand]
            layouts.extend(found.parts if isinstance(found, Several) else [found])
        for layout in layouts:
            self.keep(layout, because or f"{value.kind} reads it whole")
        pooled = bool(layouts) and all(layout.pooled for layout in layouts)
        return of_results(value.shape, lambda part: Layout(part or (), pooled=pooled))

    def keep(self, layout: Layout, because: str) -> None:
        """Never drop a channel of a value."""
        if isinstance(layout, Scattered):
            layout = self.row(layout.origin)
        if isinstance(layout, ChannelRow):
            self.ties.keep(layout.channels, because)

    def read(self, value: Value, dim: int) -> np.ndarray:
        """Let an operator mix the channels that its first operand has along `dim`; returns them."""
        source = value.given.source
        layout = self.layouts[source]
        if layout.is_plain:
            return np.full(layout.shape[dim], KEPT)
        channels = self.row(source).channels
        self.readers.append(Reader(value, source, dim, channels))
        return channels

    def slice_constant(self, constant: Value | None, dim: int, channels: np.ndarray) -> np.ndarray:
        """Note that a constant is cut along `dim` as these channels are; if it is used twice, both go together.

        Returns the channels.
        """
        if not isinstance(constant, Constant):
            return channels
        before = self._sliced.setdefault((constant.name, dim), channels)
        if before is not channels and len(before) == len(channels):
            self.ties.join(before, channels, f"it shares {constant.name}")
        return channels

    def made_by(self, weight: Value, count: int) -> np.ndarray:
        """The output channels of a weight's layer: new ones, unless the layer was there before."""
        before = self._sliced.get((weight.name, 0))
        if before is None:
            before = self._sliced[weight.name, 0] = self.ties.new(count)
        return before

    def add_layer(self, layer: Layer) -> None:
        """Note a layer, if it was not there before."""
        if all(layer.name != other.name for other in self.layers):
            self.layers.append(layer)


def of_row(follow: Callable[[Propagation, Value, ChannelRow], Layout]) -> Callable[[Propagation, Value], Layout]:
    """Make an `OperatorRule.follow` of a function that also takes the layout of the operator's source, a row.

    If the source has no channels, neither has the result. If its channels are scattered, the operator is not known.
    """

    def followed(channels: Propagation, value: Value) -> Layout:
        source = channels.layouts[value.given.source]
        if source.is_plain:
            return Layout(value.shape, source.pooled)
        return follow(channels, value, source) if isinstance(source, ChannelRow) else channels.whole(value)

    return followed
