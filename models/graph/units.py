"""Units: the kernels that are kept or dropped together, and back and forth between masks over units and over kernels.

A unit is a set of tied channels with at least one kernel of a conv layer in it and nothing that is always kept. In a
network without additions a unit is one kernel; layers whose maps are added share their units. Kernels are counted over
all conv layers in the order of the graph.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from models.graph.layouts import ChannelRow, Several
from models.graph.propagation import Propagation

LOGITS = "its kernels are the logits"


@dataclass(frozen=True)
class ConvLayer:
    """A convolution (or a linear layer that is one), with all its kernels."""

    name: str  # of the module in the network
    kernels: slice  # where they stand among all K
    reason: str | None  # why none of its kernels can be dropped; None if some can

    @property
    def width(self) -> int:
        """How many kernels it has."""
        return self.kernels.stop - self.kernels.start

    @property
    def is_cuttable(self) -> bool:
        """Whether kernels of it can be dropped."""
        return self.reason is None


@dataclass(frozen=True)
class Group:
    """Units whose kernels are in the same conv layers."""

    layers: tuple[int, ...]  # conv layers by number
    units: NDArray[np.int64]


@dataclass(frozen=True)
class Units:
    """The units of a graph.

    Attributes:
        unit_of_kernel: (K,) int64; -1: always kept.
        layers: the conv layers; their kernels are counted in this order.
        groups: every unit is in one of them; in the order of their first units.
    """

    unit_of_kernel: NDArray[np.int64]
    layers: tuple[ConvLayer, ...]
    groups: tuple[Group, ...]
    never_empty: tuple[NDArray[np.int64], ...]  # units of which at least one is kept; smallest sets first
    unit_of_channel: NDArray[np.int64]
    # Of the logits' channels their class; as many as there are classes of channels that nothing reads; -1 of others.
    class_of_channel: NDArray[np.int64]
    num_units: int

    @property
    def num_kernels(self) -> int:
        """K: the kernels of all conv layers."""
        return len(self.unit_of_kernel)

    @cached_property
    def first_kernels(self) -> NDArray[np.int64]:
        """(units,) int64: of each unit its first kernel, counted over all K."""
        units, first = np.unique(self.unit_of_kernel, return_index=True)
        return first[units >= 0]

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """(units,) int64: how many kernels each unit has."""
        return np.bincount(self.unit_of_kernel[self.unit_of_kernel >= 0], minlength=self.num_units)

    def of_layer(self, layer: int) -> NDArray[np.int64]:
        """The units that have kernels in a conv layer, ascending."""
        units = np.unique(self.unit_of_kernel[self.layers[layer].kernels])
        return units[units >= 0]

    @cached_property
    def tied_layers(self) -> dict[int, tuple[int, ...]]:
        """Of the conv layers that can be cut those that have the same units, by the first of them."""
        first_with: dict[bytes, int] = {}
        tied: dict[int, list[int]] = {}
        for number, layer in enumerate(self.layers):
            if layer.is_cuttable:
                first = first_with.setdefault(self.of_layer(number).tobytes(), number)
                tied.setdefault(first, []).append(number)
        return {first: tuple(layers) for first, layers in tied.items()}

    def spread(self, of_unit: np.ndarray, always: float = 1) -> np.ndarray:
        """Per kernel (..., K) what is given per unit (..., units); kernels that are always kept have `always`."""
        last = np.full((*of_unit.shape[:-1], 1), always, of_unit.dtype)
        return np.concatenate([of_unit, last], -1)[..., self.unit_of_kernel]  # unit -1 finds the last one

    def gather(self, kernel_mask: np.ndarray) -> np.ndarray:
        """The unit mask (units,) bool of a kernel mask (K,) bool, True = kept.

        Raises ValueError for a mask of another shape, a layer without kernels, kernels of one unit that differ, or one
        that drops what is always kept.
        """
        kernel_mask = np.asarray(kernel_mask)
        if kernel_mask.shape != (self.num_kernels,):
            raise ValueError(f"expected a mask over {self.num_kernels} kernels, given one of shape {kernel_mask.shape}")
        kernel_mask = kernel_mask.astype(bool)
        unit_mask = np.zeros(self.num_units, bool)
        unit_mask[self.unit_of_kernel[kernel_mask & (self.unit_of_kernel >= 0)]] = True
        for layer in self.layers:
            if not kernel_mask[layer.kernels].any():
                raise ValueError(f"{layer.name}: expected at least one kept kernel, given none")
        wrong = np.flatnonzero(self.spread(unit_mask) != kernel_mask)
        if len(wrong):
            raise ValueError(self._difference(int(wrong[0]), kernel_mask))
        self.check(unit_mask)
        return unit_mask

    def _difference(self, kernel: int, kernel_mask: np.ndarray) -> str:
        """What is wrong with a kernel that is dropped though its unit is kept."""
        unit = self.unit_of_kernel[kernel]
        layer, number = self._named(kernel)
        if unit < 0:
            return f"{layer}: kernel {number} is always kept, given a mask that drops it"
        other, other_number = self._named(int(np.flatnonzero((self.unit_of_kernel == unit) & kernel_mask)[0]))
        return (
            f"{layer} is tied to {other}: expected the same for kernel {number} of the one and kernel {other_number} "
            "of the other, given a mask that drops the first and keeps the second"
        )

    def _named(self, kernel: int) -> tuple[str, int]:
        """Of one of all K kernels the layer's name and the kernel's number in it."""
        layer = next(layer for layer in self.layers if kernel < layer.kernels.stop)
        return layer.name, kernel - layer.kernels.start

    def check(self, unit_mask: np.ndarray) -> None:
        """Raises ValueError unless it is a mask (units,) that leaves nothing without channels."""
        if unit_mask.shape != (self.num_units,):
            raise ValueError(f"expected a mask over {self.num_units} units, given one of shape {unit_mask.shape}")
        for units in self.never_empty:
            if not unit_mask[units].any():
                layer, _ = self._named(int(np.flatnonzero(np.isin(self.unit_of_kernel, units))[0]))
                raise ValueError(f"{layer}: expected at least one kept channel where its maps are read, given none")

    def repair(self, unit_masks: np.ndarray, importance: np.ndarray | None = None) -> np.ndarray:
        """The masks (..., units) bool with one unit more wherever none would be left.

        Args:
            unit_masks: True = kept.
            importance: (units,): the most important unit is kept; None: the first one.
        """
        masks = np.array(unit_masks, bool)
        for units in self.never_empty:
            chosen = units[0] if importance is None else units[np.argmax(importance[units])]
            masks[..., chosen] |= ~masks[..., units].any(-1)
        return masks


def units_of(channels: Propagation) -> Units:
    """Number the units; keeps the logits' channels, and states which class each is, if a class can be cut alone."""
    ties, class_of_root = channels.ties, _class_of_root(channels)
    kept_roots = ties.kept_roots()
    conv_layers = [layer for layer in channels.layers if layer.has_kernels]
    unit_of_root: dict[int, int] = {}
    for layer in conv_layers:
        for root in ties.roots(layer.channels).tolist():
            if root not in kept_roots and root not in class_of_root:
                unit_of_root.setdefault(root, len(unit_of_root))
    roots = [ties.root(channel) for channel in range(len(ties))]
    unit_of_channel = np.array([unit_of_root.get(root, -1) for root in roots])
    class_of_channel = np.array([class_of_root.get(root, -1) for root in roots])
    layers, start = [], 0
    for layer in conv_layers:
        reason = None
        if (unit_of_channel[layer.channels] < 0).all():
            root = roots[layer.channels[0]]
            reason = LOGITS if root in class_of_root else kept_roots[root]
        layers.append(ConvLayer(layer.name, slice(start, start + len(layer.channels)), reason))
        start += len(layer.channels)
    unit_of_kernel = np.concatenate([unit_of_channel[layer.channels] for layer in conv_layers])
    return Units(
        unit_of_kernel,
        tuple(layers),
        _groups(layers, unit_of_kernel, len(unit_of_root)),
        _never_empty(channels, unit_of_channel),
        unit_of_channel,
        class_of_channel,
        len(unit_of_root),
    )


def _class_of_root(channels: Propagation) -> dict[int, int]:
    """The class of each channel of the logits; nothing if a class's logit cannot be cut alone.

    Channels that are left out where the logits are selected, and that nothing reads, are of no class: of one more.
    """
    layout, ties = channels.layouts[channels.values[-1]], channels.ties
    if isinstance(layout, ChannelRow) and layout.dim == 1:
        roots = ties.roots(layout.channels).tolist()
        read = {root for reader in channels.readers for root in ties.roots(np.unique(reader.channels)).tolist()}
        used = read | ties.kept_roots().keys()
        if len(set(roots)) == len(roots) and not used & set(roots):
            left_out = {root for row in channels.left_out for root in ties.roots(row).tolist()} - used
            return dict.fromkeys(left_out, len(roots)) | {root: number for number, root in enumerate(roots)}
    channels.keep(layout, "the logits are made of it as a whole")
    return {}


def _groups(layers: list[ConvLayer], unit_of_kernel: np.ndarray, num_units: int) -> tuple[Group, ...]:
    layers_of_unit: list[list[int]] = [[] for _ in range(num_units)]
    for number, layer in enumerate(layers):
        units = np.unique(unit_of_kernel[layer.kernels])
        for unit in units[units >= 0].tolist():
            layers_of_unit[unit].append(number)
    found: dict[tuple[int, ...], list[int]] = {}
    for unit, of_unit in enumerate(layers_of_unit):
        found.setdefault(tuple(of_unit), []).append(unit)
    return tuple(Group(of_group, np.array(units)) for of_group, units in found.items())


def _never_empty(channels: Propagation, unit_of_channel: np.ndarray) -> tuple[np.ndarray, ...]:
    """Whatever is made, handed on or read needs a channel: torch pools and convolves no empty maps."""
    rows = [*channels.never_empty, *(layer.channels for layer in channels.layers)]
    for layout in channels.layouts.values():
        parts = layout.parts if isinstance(layout, Several) else [layout]
        rows.extend(part.channels for part in parts if isinstance(part, ChannelRow))
    found = {}
    for row in rows:
        units = np.unique(unit_of_channel[row])
        if len(units) and units[0] >= 0:
            found[units.tobytes()] = units
    return tuple(sorted(found.values(), key=len))
