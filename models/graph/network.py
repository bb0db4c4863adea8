"""A graph as a module of torch: weights by the names that the network has for them, one forward."""

from collections.abc import Mapping

import torch
from torch import Tensor, fx, nn

from models.graph.running import program_of


class GraphNetwork(nn.Module):
    """What a plain graph computes: images (n, channels, side, side) -> logits (n, classes), in evaluation mode.

    Args:
        nodes: the plain graph.
        parameters: by name; dots in a name are submodules.
        buffers: likewise.
        others: tensors that the graph itself decides (orders of channels): they move with the module, but its
            state_dict does not have them.
    """

    def __init__(
        self,
        nodes: fx.Graph,
        parameters: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        others: Mapping[str, Tensor],
    ) -> None:
        super().__init__()
        for name, value in parameters.items():
            owner, leaf = self._owner(name)
            owner.register_parameter(leaf, nn.Parameter(value))
        for name, value in buffers.items():
            owner, leaf = self._owner(name)
            owner.register_buffer(leaf, value)
        for name, value in others.items():
            owner, leaf = self._owner(name)
            owner.register_buffer(leaf, value, persistent=False)
        self.program = program_of(nodes)
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
        return self.program.run(images, [getattr(owner, leaf) for owner, leaf in self._constants])


def device_and_dtype(constants: Mapping[str, Tensor]) -> tuple[torch.device, torch.dtype]:
    """Those of the weights."""
    for value in constants.values():
        if value.is_floating_point():
            return value.device, value.dtype
    return torch.device("cpu"), torch.get_default_dtype()
