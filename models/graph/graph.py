"""A traced CNN classifier: its graph, its units, and what can be done with them."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.graph.agreement import check_answers
from models.graph.cutting import Cut, Plan
from models.graph.errors import NetworkRefused, refused
from models.graph.flops import flops_of
from models.graph.network import GraphNetwork, check_names, device_and_dtype, network_of
from models.graph.operators import followed, rule_of
from models.graph.propagation import Propagation
from models.graph.running import Program, program_of
from models.graph.tracing import Plain, trace_plain
from models.graph.units import Units, units_of
from models.graph.values import Code, Constant, Value, images_of, replaced

FEWEST_UNITS = 8  # a grouped convolution that would have fewer has its kernels dropped one by one


@dataclass(frozen=True, eq=False)
class Graph:
    """A traced CNN: a graph of operators, with the units of its kernels. Use `trace` to make one.

    Attributes for users: `num_classes`; `image_shape` (channels, height, width); `flops` of one image;
    `units.num_kernels`, K; `units.layers`, the conv layers; `num_units`; `network`, the CNN as a module of torch.

    Its constants share memory with the network's weights, except those that were computed from weights, and all of
    those of a network that does more than to set a flag when its mode changes.

    Attributes:
        values: the images, constants and operators in order; operators are known by their names, the last one is the
            logits.
        constants: weights and other constants by name.
        learned: names of the constants that a state_dict holds.
        buffers: names of the constants that are buffers of the network.
        channels: what was found out about channels.
        units: the units.
    """

    values: tuple[Value, ...]
    constants: Mapping[str, Tensor]
    learned: frozenset[str]
    buffers: frozenset[str]
    channels: Propagation
    units: Units

    @property
    def num_units(self) -> int:
        """U: how many units can be kept or dropped."""
        return self.units.num_units

    @property
    def num_classes(self) -> int:
        """How many logits the network has."""
        return self.values[-1].shape[1]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
        return images_of(self.values).shape[1:]

    @cached_property
    def digest(self) -> str:
        """A number (hexadecimal) of the graph's structure: operators, arguments, shapes and names of weights.

        The same for the same code and image size under the same version of torch, whatever the weights, their
        precision and their device.
        """
        number_of = {value: f"%{number}" for number, value in enumerate(self.values)}
        lines = []
        for value in self.values:
            args = replaced((value.args, value.kwargs), Value, number_of.__getitem__)
            others = f"get_attr {value.name}" if isinstance(value, Constant) else f"placeholder {value.name}"
            target = others if value.target is None else value.operator.overload
            lines.append(f"{target} {_without_precision(args)} {value.shape}")
        lines.append(f"output output {_without_precision(((number_of[self.values[-1]],), {}))} None")
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    @cached_property
    def code_values(self) -> tuple[float, ...]:
        """Two numbers of each constant that the network's code decides, not its state_dict; other code, other numbers.

        Its root mean square, and its product with a fixed wave. Other processors give nearly the same.
        """
        numbers = []
        for name, value in self.constants.items():
            if name in self.learned or not value.numel() or value.is_meta:
                continue
            values = value.detach().cpu().double().flatten().nan_to_num(0, 1e4, -1e4)
            wave = torch.arange(len(values), dtype=torch.double).cos()
            numbers += [float(values.square().mean().sqrt()), float(values @ wave / len(values) ** 0.5)]
        return tuple(numbers)

    @cached_property
    def network(self) -> GraphNetwork:
        """The graph as a module of torch, with the graph's own weights by the network's names, in evaluation mode."""
        program = program_of(self.values, self.values[-1:])
        return GraphNetwork(program, self.constants, self.learned, self.buffers)

    @cached_property
    def plan(self) -> Plan:
        """What all its cuts have in common."""
        return Plan(self.channels, self.constants, self.units, lambda value: rule_of(value).cut)

    @cached_property
    def program(self) -> Program:
        """The graph as it is run, with its readers."""
        of_channel = self.units.unit_of_channel
        readers = [(each.value, each.source, each.dim, of_channel[each.channels]) for each in self.channels.readers]
        return program_of(self.values, self.values[-1:], readers)

    def forward(
        self,
        images: Tensor,
        factors: Tensor | None = None,
        *,
        observe: Mapping[str, Callable[[Any], None]] | None = None,
    ) -> Tensor:
        """Logits (n, classes) of images (n, channels, side, side), with units' maps times factors where they are read.

        Args:
            images: normalised, of the constants' dtype and device.
            factors: (units,) or one row for each image (n, units), of the images' dtype; 0 = dropped. Differentiable.
            observe: by operators' names, what is called with their values.
        """
        constants = [self.constants[name] for _, name in self.program.constants]
        (logits,) = self.program.run(images, constants, factors=factors, observe=observe)
        return logits

    def cut(self, unit_mask: np.ndarray, target_class: int | None = None) -> GraphNetwork:
        """The smaller network that computes what `forward` computes with the dropped units' factors at zero.

        Its state_dict has the network's own names. A network that was cut alike loads it.

        Args:
            unit_mask: (units,) bool, True = kept.
            target_class: keep only this class's logit; None keeps all.

        Returns a module of its own, in evaluation mode: images (n, channels, side, side) -> logits (n, 1 or classes).
        Raises ValueError for a mask or a class that does not fit.
        """
        unit_mask = np.asarray(unit_mask)
        self.check(unit_mask, target_class)
        with torch.no_grad():
            part = Cut(self.plan, Code(), unit_mask.astype(bool), target_class)
            logits = part.run()
            return network_of(logits, self.constants, self.learned, self.buffers, part.readers())

    def check(self, unit_mask: np.ndarray, target_class: int | None = None) -> None:
        """Raises ValueError for a mask or a class that does not fit."""
        self.units.check(unit_mask)
        if target_class is not None and not 0 <= target_class < self.num_classes:
            raise ValueError(f"expected a class from 0 to {self.num_classes - 1}, given {target_class}")

    @cached_property
    def flops(self) -> int:
        """What an image costs; see `count_flops`."""
        return flops_of(self.network, self.image_shape)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "Graph":
        """The same graph with its weights on another device or in another precision."""
        cast = {
            name: value.to(device or value.device, dtype if value.is_floating_point() and dtype else value.dtype)
            for name, value in self.constants.items()
        }
        return self.with_constants(cast)

    def channels_last(self) -> "Graph":
        """The same graph with its weights of images in channels-last layout, in which convolutions are faster."""
        laid_out = {
            name: value.contiguous(memory_format=torch.channels_last)
            if name in self.learned and value.dim() == 4
            else value
            for name, value in self.constants.items()
        }
        return self.with_constants(laid_out)

    def with_constants(self, constants: Mapping[str, Tensor]) -> "Graph":
        """The same graph with other weights of the same names and shapes."""
        return replace(self, constants=constants)

    @property
    def device_and_dtype(self) -> tuple[torch.device, torch.dtype]:
        """Those of the weights."""
        return device_and_dtype(self.constants)


def trace(
    network: nn.Module,
    image_side: int,
    channels: int = 3,
    num_classes: int | None = None,
) -> Graph:
    """Follow a CNN classifier's code once and return its graph.

    Args:
        network: images (n, channels, image_side, image_side) -> logits (n, classes), or several outputs with them. It
            is read in evaluation mode and left as it was.
        image_side: in pixels.
        channels: of an image.
        num_classes: the logits are the first output (n, num_classes); if none is that wide, or the number is not
            given, the first (n, any number).

    Raises NetworkRefused, a ValueError of one line, if that does not work.
    """
    try:
        plain = trace_plain(network, image_side, channels, num_classes)
        check_names(plain.constants)
        graph = graph_of(plain)
        check_answers(network, graph.forward, plain.ends, graph.image_shape, graph.num_classes)
    except NetworkRefused:
        raise
    except Exception as error:  # whatever torch makes of somebody's network
        raise refused("the network cannot be traced", error) from error
    return graph


def graph_of(plain: Plain) -> Graph:
    """The graph of a plain one. Raises NetworkRefused if it has no convolution."""
    freed: frozenset[str] = frozenset()
    of_code = {name: value for name, value in plain.constants.items() if name not in plain.learned}
    while True:
        channels = followed(plain.values, freed, of_code)
        if not any(layer.has_kernels for layer in channels.layers):
            raise NetworkRefused("the network has no convolution: there are no kernels to choose from")
        units = units_of(channels)
        too_few = frozenset(
            layer.name
            for layer in channels.layers
            if layer.groups > 1
            and layer.value.given.weight.shape[1] > 1
            and len(set(units.unit_of_channel[layer.channels].tolist()) - {-1}) < FEWEST_UNITS
        )
        if too_few <= freed:
            return Graph(plain.values, plain.constants, plain.learned, plain.buffers, channels, units)
        freed |= too_few


def _without_precision(args: Any) -> str:
    if isinstance(args, dict):
        return str({name: _without_precision(arg) for name, arg in args.items() if name not in ("dtype", "device")})
    if isinstance(args, list | tuple):
        return str([_without_precision(arg) for arg in args])
    return str(args)
