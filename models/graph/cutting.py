"""Cutting: the smaller network that computes what the graph computes with the dropped channels at zero.

Every operator is made anew for the channels that are kept, by its rule. An operator all of whose operands are whole is
copied as it is.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.graph.layouts import ChannelRow, Scattered, Several, resized
from models.graph.network import device_and_dtype
from models.graph.propagation import Propagation
from models.graph.units import Units
from models.graph.values import Code, Constant, Value, images_of, replaced, with_arguments

aten = torch.ops.aten
CutOperator = Callable[["Cut", Value], Value | None]


class Plan:
    """What all cuts of a graph have in common, found out once.

    Args:
        channels, constants, units: the graph's.
        cut_of: what gives the operator on the channels that are kept, for each operator.

    Attributes:
        channels, constants, units: the graph's.
        operators: in order, each with what cuts it and the operands that depend on the images.
        logits, images: of the graph's values.
        device, dtype: those of the weights.
    """

    def __init__(
        self,
        channels: Propagation,
        constants: Mapping[str, Tensor],
        units: Units,
        cut_of: Callable[[Value], "CutOperator"],
    ) -> None:
        self.channels, self.constants, self.units = channels, constants, units
        self.device, self.dtype = device_and_dtype(constants)
        self.operators = [
            (value, cut_of(value) if value in channels.layouts else Cut.copy, channels.operands(value))
            for value in channels.values
            if value.target is not None
        ]
        self.logits, self.images = channels.values[-1], images_of(channels.values)
        self._units_of: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def units_and_classes(self, channels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of each channel its unit and, of the logits' channels, its class; -1 if it has none."""
        found = self._units_of.get(id(channels))
        if found is None:
            units = self.units
            found = channels, units.unit_of_channel[channels], units.class_of_channel[channels]
            self._units_of[id(channels)] = found  # with the array, so that no other one gets its id
        return found[1:]


class Cut:
    """A network while it is cut.

    Args:
        plan: of the graph.
        code: where the smaller network is written, which may have others.
        unit_mask: (units,) bool, True = kept.
        target_class: keep only this class's logit; None keeps all.

    Attributes:
        row: the layout of a value of the graph that has a row of channels.
        new: of each value of the graph that depends on the images that of the smaller network; none for what lies
            between a row of channels and the row that it is rearranged to.
        constants: the graph's.
    """

    def __init__(self, plan: Plan, code: Code, unit_mask: np.ndarray, target_class: int | None) -> None:
        self.channels, self.constants, self.row = plan.channels, plan.constants, plan.channels.row
        self.device, self.dtype = plan.device, plan.dtype
        self.new: dict[Value, Value] = {}
        self._plan, self._code, self._target_class = plan, code, target_class
        self._mask = np.append(unit_mask, True)  # unit -1 finds the last one
        self._kept: dict[int, np.ndarray] = {}
        self._whole: dict[Value, bool] = {}

    def kept(self, channels: np.ndarray) -> np.ndarray:
        """The places of a row at which a channel is kept, (kept,) int64."""
        found = self._kept.get(id(channels))
        if found is None:
            units, classes = self._plan.units_and_classes(channels)
            is_kept = self._mask[units]
            if self._target_class is not None:
                is_kept &= (classes < 0) | (classes == self._target_class)
            found = self._kept[id(channels)] = np.flatnonzero(is_kept)
        return found

    def is_empty(self, value: Value) -> bool:
        """Whether a value of the graph is a row of which no channel is kept; there is no `new` of it."""
        found = self.channels.layouts.get(value)
        return isinstance(found, ChannelRow) and not len(self.kept(found.channels))

    def constant(self, constant: Value | None, kept: Mapping[int, np.ndarray] | None = None) -> Value | None:
        """A constant of which along some dimensions only the given places are kept; None stays None."""
        if constant is None:
            return None
        shape = constant.shape
        kept = {dim: places for dim, places in (kept or {}).items() if len(places) != shape[dim]}
        key = tuple((dim, places.tobytes()) for dim, places in kept.items())
        for dim, places in kept.items():
            shape = resized(shape, dim, len(places))

        def sliced(value: Tensor) -> Tensor:
            for dim, places in kept.items():
                value = value.index_select(dim, torch.from_numpy(places).to(value.device))
            return value

        return self.computed_constant(constant, sliced, shape, key)

    def computed_constant(
        self, constant: Value, compute: Callable[[Tensor], Tensor], shape: tuple[int, ...], key: tuple[Any, ...]
    ) -> Value:
        """A constant made of one of the graph's, under its name; `key` says how."""
        whole = self.constants[constant.name]
        return self._code.constant(constant.name, key, shape, lambda: compute(whole))

    def buffer(self, value: Tensor, name: str) -> Value:
        """A tensor that the graph and the mask decide, not the weights."""
        key = (value.dtype, tuple(value.shape), value.view(torch.uint8).numpy().tobytes())
        return self._code.constant(f"cut.{name}", key, tuple(value.shape), lambda: value.to(self.device))

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Value:
        """A value of the smaller network."""
        return self._code.call(function, args, kwargs)

    def operand(self, value: Value) -> Value:
        """An operand as it is in the smaller network."""
        is_constant = isinstance(value, Constant)
        return self.computed_constant(value, lambda whole: whole, value.shape, ()) if is_constant else self.new[value]

    def copy(self, value: Value, **changes: Any) -> Value:
        """The same operator, with some arguments changed, by name, to values of the smaller network or plain things."""
        new = {change for change in changes.values() if isinstance(change, Value)}
        call = with_arguments(value, **changes) if changes else (value.args, value.kwargs)
        operand = (lambda given: given if given in new else self.operand(given)) if new else self.operand
        args, kwargs = replaced(call, Value, operand)
        return self._code.call(value.function, args, kwargs)

    def run(self) -> Value:
        """Cut the whole graph; the logits of the smaller network."""
        self.new[self._plan.images] = self._code.images
        self._code.images.shape = self._plan.images.shape
        for value, cut, operands in self._plan.operators:
            if self.is_empty(value):  # of other classes
                continue
            is_same = all(map(self._is_whole, (value, *operands)))
            made = self.copy(value) if is_same else cut(self, value)
            if made is not None:
                self.new[value] = made
                made.name = made.name or value.name
                made.shape = self._shape(value)
        logits = self.new[self._plan.logits]
        if self._target_class is not None and self._is_whole(self._plan.logits):
            logits = self.call(aten.slice.Tensor, logits, 1, self._target_class, self._target_class + 1)
        return logits

    def readers(self) -> Iterator[tuple[Value, Value, int, np.ndarray]]:
        """What mixes channels in the smaller network: (operator, source, dimension of its row, units at its places)."""
        for reader in self.channels.readers:
            if reader.value in self.new:  # else it is of other classes
                source, operator = self.new[reader.source], self.new[reader.value]
                while operator.args[0] is not source:  # of a few operators that are made for one, the first one
                    operator = operator.args[0]
                units, _ = self._plan.units_and_classes(reader.channels)
                yield operator, source, reader.dim, units[self.kept(reader.channels)]

    def _shape(self, value: Value) -> tuple[int, ...] | None:
        found = self.channels.layouts.get(value)
        if isinstance(found, ChannelRow):
            return resized(found.shape, found.dim, len(self.kept(found.channels)))
        return found.shape if found is not None and found.is_plain else None

    def _is_whole(self, value: Value) -> bool:
        found = self._whole.get(value)
        if found is None:
            found = self._whole[value] = self._find_whole(value)
        return found

    def _find_whole(self, value: Value) -> bool:
        found = self.channels.layouts.get(value)
        for layout in found.parts if isinstance(found, Several) else [found]:
            row = self.row(layout.origin) if isinstance(layout, Scattered) else layout
            if isinstance(row, ChannelRow) and len(self.kept(row.channels)) < len(row.channels):
                return False
        return True
