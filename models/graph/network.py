"""A program as a module of torch: weights by the names that the network has for them, one forward."""

from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.graph.errors import NetworkRefused
from models.graph.running import Program, program_of
from models.graph.values import Constant, Value, needed


class GraphNetwork(nn.Module):
    """A network made by this toolkit: a module, or the traced network. A plain nn.Module; users never construct it.

    images (n, channels, side, side) -> logits (n, classes), in evaluation mode; a module of one class has (n, 1).

    Args:
        program: its constants are the tensors, by name.
        tensors: by name; dots in a name are submodules. They move with the module.
        learned: names of those that the module's state_dict holds, not being decided by the graph itself.
        buffers: names of those that are buffers; integers always are.
    """

    def __init__(self, program: Program, tensors: Mapping[str, Tensor], learned: Set[str], buffers: Set[str]) -> None:
        super().__init__()
        # Layers keep the names that the network has for them: names here are such as no layer has.
        self.graph_program = program
        self._graph_constants: list[tuple[nn.Module, str]] = []
        parameters = {name for name in learned - buffers if tensors[name].is_floating_point()}
        for name in sorted(tensors, key=lambda name: (name not in parameters, name not in learned)):
            try:
                owner, leaf = self._owner(name)
                if name in parameters:
                    owner.register_parameter(leaf, nn.Parameter(tensors[name]))
                else:
                    owner.register_buffer(leaf, tensors[name], persistent=name in learned)
            except KeyError as error:  # an attribute that a module of torch, or this class, has
                raise NetworkRefused(
                    f"the network's {name} cannot keep its name: modules of torch or of this toolkit have an attribute "
                    "of that name; rename the layer or the tensor in the network's code"
                ) from error
        self._graph_constants = [self._owner(name) for _, name in program.constants]
        self.eval()

    def _owner(self, name: str) -> tuple[nn.Module, str]:
        """The submodule that has a tensor, made if it is not there, and the tensor's name in it."""
        owner: nn.Module = self
        *path, leaf = name.split(".")
        for part in path:
            if part not in owner._modules:
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        return owner, leaf

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, classes) of normalised images (n, channels, side, side)."""
        return self.run_graph(self.graph_program, images)

    def run_graph(
        self,
        program: Program,
        images: Tensor,
        *,
        factors: Tensor | None = None,
        observe: Mapping[str, Callable[[Any], None]] | None = None,
    ) -> Tensor:
        """What another program of the same constants computes with the network's weights; see `Program.run`."""
        constants = [getattr(owner, leaf) for owner, leaf in self._graph_constants]
        (logits,) = program.run(images, constants, factors=factors, observe=observe)
        return logits


def check_names(names: Iterable[str]) -> None:
    """Raises NetworkRefused if a network cannot have tensors of these names."""
    GraphNetwork(Program(1, (), (), ()), dict.fromkeys(names, torch.zeros(())), frozenset(), frozenset())


def network_of(
    logits: Value,
    constants: Mapping[str, Tensor],
    learned: frozenset[str],
    buffers: frozenset[str],
    readers: Iterable[tuple[Value, Value, int, np.ndarray]],
) -> GraphNetwork:
    """The network that computes one value of straight-line code; it shares no memory with the weights.

    Args:
        logits: the value.
        constants, learned, buffers: those of the graph that the code was cut from.
        readers: as of `program_of`.
    """
    values, order = needed([logits]), {name: number for number, name in enumerate(constants)}
    names: dict[Constant, str] = {}  # if one is made in several ways, it has another name each time
    taken: set[str] = set()
    for value in values:
        if isinstance(value, Constant):
            name = value.name
            while name in taken:
                name += "_again"
            taken.add(name)
            names[value] = name
    tensors, in_state, not_parameters = {}, set(), set()
    for value, name in sorted(names.items(), key=lambda item: (order.get(item[1], len(order)), item[1])):
        tensor = tensors[name] = value.compute().detach()
        if value.name in constants and tensor.data_ptr() == constants[value.name].data_ptr():
            tensors[name] = tensor.clone()
        is_factor = value.name.startswith("logit.")
        in_state |= {name} if is_factor or value.name in learned else set()
        not_parameters |= {name} if is_factor or value.name in buffers else set()
    return GraphNetwork(program_of(values, [logits], readers, names), tensors, in_state, not_parameters)


def device_and_dtype(constants: Mapping[str, Tensor]) -> tuple[torch.device, torch.dtype]:
    """Those of the weights."""
    for value in constants.values():
        if value.is_floating_point():
            return value.device, value.dtype
    return torch.device("cpu"), torch.get_default_dtype()
