"""A program as a module of torch: weights by the names that the network has for them, one forward."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from models.graph.running import Program, program_of
from models.graph.values import Constant, Value, needed


class GraphNetwork(nn.Module):
    """What a program computes: images (n, channels, side, side) -> logits (n, classes), in evaluation mode.

    Args:
        program: its constants are the tensors, by name.
        parameters: by name; dots in a name are submodules.
        buffers: likewise.
        others: tensors that the graph itself decides (orders of channels): they move with the module, but its
            state_dict does not have them.
    """

    def __init__(
        self,
        program: Program,
        parameters: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        others: Mapping[str, Tensor],
    ) -> None:
        super().__init__()
        for name, value in parameters.items():
            owner, leaf = self._owner(name)
            owner.register_parameter(leaf, nn.Parameter(value))
        for name, value in (*buffers.items(), *others.items()):
            owner, leaf = self._owner(name)
            owner.register_buffer(leaf, value, persistent=name in buffers)
        self.program = program
        self._constants = [self._owner(name) for _, name in self.program.constants]
        self.eval()

    def _owner(self, name: str) -> tuple[nn.Module, str]:
        """The submodule that has a tensor, made if it is not there, and the tensor's name in it."""
        owner: nn.Module = self
        *path, leaf = name.split(".")
        for part in path:
            if part not in owner._modules:
                owner.add_module(part, nn.Module())
            owner = owner._modules[part]
        return owner, leaf

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, classes) of normalised images (n, channels, side, side)."""
        (logits,) = self.program.run(images, [getattr(owner, leaf) for owner, leaf in self._constants])
        return logits


def network_of(
    logits: Value, constants: Mapping[str, Tensor], learned: frozenset[str], buffers: frozenset[str]
) -> GraphNetwork:
    """The network that computes one value of straight-line code; it shares no memory with the weights.

    Args:
        logits: the value.
        constants, learned, buffers: those of the graph that the code was cut from.
    """
    values = needed([logits])
    names = _names([value for value in values if isinstance(value, Constant)])
    order = {name: number for number, name in enumerate(constants)}
    parameters, persistent, others = {}, {}, {}
    for value, name in sorted(names.items(), key=lambda item: (order.get(item[1], len(order)), item[1])):
        tensor = value.compute().detach()
        if value.name in constants and tensor.data_ptr() == constants[value.name].data_ptr():
            tensor = tensor.clone()
        if value.name.startswith(("gains.", "logit.")) or value.name in learned & buffers:
            persistent[name] = tensor
        elif value.name in learned:
            (parameters if tensor.is_floating_point() else persistent)[name] = tensor
        else:
            others[name] = tensor
    return GraphNetwork(program_of(values, [logits], names=names), parameters, persistent, others)


def _names(constants: Sequence[Constant]) -> dict[Constant, str]:
    """What each constant is called: what it is made of, and more where others are made of that in other ways."""
    names: dict[Constant, str] = {}
    taken: set[str] = set()
    for constant in constants:
        name = constant.name
        while name in taken:
            name += "_again"
        taken.add(name)
        names[constant] = name
    return names


def device_and_dtype(constants: Mapping[str, Tensor]) -> tuple[torch.device, torch.dtype]:
    """Those of the weights."""
    for value in constants.values():
        if value.is_floating_point():
            return value.device, value.dtype
    return torch.device("cpu"), torch.get_default_dtype()
