"""Cutting: the smaller network that computes what the graph computes with the dropped channels at zero.

Every operator is made anew for the channels that are kept, by its rule. An operator all of whose operands are whole is
copied as it is.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, fx

from models.graph.atoms import is_constant, kind
from models.graph.layouts import Layout
from models.graph.network import GraphNetwork, device_and_dtype
from models.graph.propagation import Propagation, rule_of
from models.graph.tracing import erase_unused

if TYPE_CHECKING:
    from models.graph.graph import Graph

aten = torch.ops.aten


class Cut:
    """A network while it is cut.

    Attributes:
        new: of each node of the graph that of the smaller network; none for what lies between a row of channels and
            the row that it is rearranged to.
        constants: the graph's.
    """

    def __init__(
        self,
        graph: "Graph",
        unit_mask: np.ndarray,
        target_class: int | None,
        gains: np.ndarray | None,
        logit_map: tuple[float, float] | None = None,
    ) -> None:
        self.channels: Propagation = graph.channels
        self.constants = graph.constants
        self.new: dict[fx.Node, fx.Node] = {}
        self.device, self.dtype = device_and_dtype(graph.constants)
        self._units, self._unit_mask, self._target_class = graph.units, unit_mask, target_class
        self._gains = None if gains is None else torch.as_tensor(np.append(gains, 1.0))  # unit -1 finds the last one
        self._logit_map = logit_map
        self._readers = {reader.node: reader for reader in self.channels.readers}
        self._graph = fx.Graph()
        self._tensors: dict[str, Tensor] = {}
        self._made: dict[tuple, fx.Node] = {}
        self._graph_decides: set[str] = set()

    def layout(self, node: fx.Node) -> Layout:
        """The layout of a value of the graph that is one tensor."""
        return self.channels.layout(node)

    def kept(self, channels: np.ndarray) -> np.ndarray:
        """The places of a row at which a channel is kept, (kept,) int64."""
        units = self._units.unit_of_channel[channels]
        is_kept = np.append(self._unit_mask, True)[units]
        if self._target_class is not None:
            classes = self._units.class_of_channel[channels]
            is_kept &= (classes < 0) | (classes == self._target_class)
        return np.flatnonzero(is_kept)

    def factors(self, node: fx.Node) -> Tensor | None:
        """The gains of the channels that a reader reads, for its whole row of channels; None where there are none."""
        reader = self._readers.get(node)
        if self._gains is None or reader is None:
            return None
        return self._gains[torch.as_tensor(self._units.unit_of_channel[reader.channels])]

    def with_factors(self, node: fx.Node) -> fx.Node:
        """A reader's first operand times the gains, for readers without a weight that could take them in."""
        source, factors = self.new[node.args[0]], self.factors(node)
        if factors is None:
            return source
        reader = self._readers[node]
        factors = factors[torch.as_tensor(self.kept(reader.channels))]
        shape = [1] * len(self.layout(node.args[0]).shape)
        shape[reader.dim] = len(factors)
        name = f"gains.{node.name}"
        self._tensors[name] = factors.to(self.device, self.dtype).view(shape)
        return self.call(aten.mul.Tensor, source, self._graph.create_node("get_attr", name))

    def constant(
        self, constant: fx.Node | None, kept: Mapping[int, np.ndarray] | None = None, factors: Tensor | None = None
    ) -> fx.Node | None:
        """A constant of which along some dimensions only the given places are kept; None stays None.

        `factors` (for all channels) multiply it along dimension 1.
        """
        if constant is None:
            return None
        kept = kept or {}

        def sliced(value: Tensor) -> Tensor:
            if factors is not None:
                value = value * factors.to(value).view(-1, *[1] * (value.dim() - 2))
            for dim, places in kept.items():
                if len(places) != value.shape[dim]:
                    value = value.index_select(dim, torch.as_tensor(places, device=value.device))
            return value

        key = [*((dim, places.tobytes()) for dim, places in kept.items())]
        if factors is not None:
            key.append(factors.numpy().tobytes())
        return self.computed_constant(constant, sliced, tuple(key))

    def computed_constant(self, constant: fx.Node, compute: Callable[[Tensor], Tensor], key: tuple = ()) -> fx.Node:
        """A constant made of one of the graph's, under its name."""
        name = constant.target
        if (name, key) not in self._made:
            whole = self.constants[name]
            value = compute(whole).detach()
            while name in self._tensors:  # of a weight that two operators cut in different ways
                name += "_again"
            self._tensors[name] = value.clone() if value.data_ptr() == whole.data_ptr() else value
            self._made[constant.target, key] = self._graph.create_node("get_attr", name)
        return self._made[constant.target, key]

    def buffer(self, value: Tensor, name: str) -> fx.Node:
        """A tensor that the graph and the mask decide, not the weights."""
        name = f"cut.{name}_{len(self._graph_decides)}"
        self._graph_decides.add(name)
        self._tensors[name] = value.to(self.device)
        return self._graph.create_node("get_attr", name)

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        """A node of the smaller network."""
        return self._graph.call_function(function, args, kwargs)

    def operand(self, node: fx.Node) -> fx.Node:
        """An operand as it is in the smaller network."""
        return self.constant(node) if is_constant(node) else self.new[node]

    def copy(self, node: fx.Node) -> fx.Node:
        """The same operator."""
        return self._graph.node_copy(node, self.operand)

    def run(self, learned: frozenset[str], buffers: frozenset[str]) -> GraphNetwork:
        """Cut the whole graph."""
        for node in self.channels.nodes.nodes:
            if is_constant(node):
                continue
            if node.op == "output":
                self._output(node)
            elif node.op == "placeholder" or node not in self.channels.layouts or self._is_as_it_was(node):
                self.new[node] = self.copy(node)
            else:
                rule = rule_of(node)
                made = self.copy(node) if rule is None else rule.cut(self, node)
                if made is not None:
                    self.new[node] = made
        erase_unused(self._graph)
        return self._network(learned, buffers)

    def _is_as_it_was(self, node: fx.Node) -> bool:
        if self._gains is not None and node in self._readers:
            return False
        operands = [operand for operand in node.all_input_nodes if operand in self.channels.layouts]
        return all(map(self._is_whole, [node, *operands]))

    def _is_whole(self, node: fx.Node) -> bool:
        found = self.channels.layouts[node]
        for layout in found if isinstance(found, list) else [found]:
            row = self.layout(layout.origin.node) if layout.is_scattered else layout
            if row.is_row and len(self.kept(row.channels)) < len(row.channels):
                return False
        return True

    def _output(self, node: fx.Node) -> None:
        logits = self.new[node.args[0]]
        if self._target_class is not None and self._is_whole(node.args[0]):
            logits = self.call(aten.slice.Tensor, logits, 1, self._target_class, self._target_class + 1)
        self._graph.output(logits if self._logit_map is None else self._mapped(logits, *self._logit_map))

    def _mapped(self, logits: fx.Node, scale: float, bias: float) -> fx.Node:
        """The logits times a scale, plus a bias: by the linear layer that makes them, if it has weights of its own."""
        own = logits.args[1:3] if kind(logits) == "linear" else ()
        if len(own) == 2 and all(is_constant(value) and len(value.users) == 1 for value in own):
            weight, old_bias = (value.target for value in own)
            self._tensors[weight] = self._tensors[weight] * scale
            self._tensors[old_bias] = self._tensors[old_bias] * scale + bias
            return logits
        for name, value, function in (("logit.scale", scale, aten.mul.Tensor), ("logit.bias", bias, aten.add.Tensor)):
            self._tensors[name] = torch.tensor(value, device=self.device, dtype=self.dtype)
            logits = self.call(function, logits, self._graph.create_node("get_attr", name))
        return logits

    def _network(self, learned: frozenset[str], buffers: frozenset[str]) -> GraphNetwork:
        parameters, persistent, others = {}, {}, {}
        order = {name: number for number, name in enumerate(self.constants)}
        names = {node.target for node in self._graph.nodes if is_constant(node)}
        for name in sorted(names, key=lambda name: (order.get(name, len(order)), name)):
            value, own_name = self._tensors[name], name.removesuffix("_again")
            if name.startswith(("gains.", "logit.")) or own_name in learned & buffers:
                persistent[name] = value
            elif own_name in learned:
                (parameters if value.is_floating_point() else persistent)[name] = value
            else:
                others[name] = value
        return GraphNetwork(self._graph, parameters, persistent, others)
