"""A network whose kernels are masked by the image: a generator of masks at each conv layer but the first.

After Qi, Sun, Zhang, Zhao and Gao, "Modularizing while Training: A New Paradigm for Modularizing DNN Models" (MwT),
ICSE 2024, arXiv 2306.09376. Trained so that images of a class have the same masks, and other classes other ones, the
network has small modules. `mwt:NAME` names the network NAME with generators.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.graph.evaluating import evaluating
from utils.errors import UserError

WIDE = 128  # kernels, from which on the hidden layer is half as wide


class MaskGenerator(nn.Module):
    """From a conv layer's input to a factor of each of its kernels: mean over pixels, Linear, ReLU, Linear, tanh, ReLU.

    Args:
        channels: of the layer's input.
        kernels: of the layer.
    """

    def __init__(self, channels: int, kernels: int) -> None:
        super().__init__()
        hidden = kernels // 2 if kernels >= WIDE else kernels
        self.hidden, self.out = nn.Linear(channels, hidden, bias=False), nn.Linear(hidden, kernels)
        for layer in (self.hidden, self.out):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.ones_(self.out.bias)
        self._masks: list[Tensor] = []  # of layers that have begun and not ended

    def forward(self, maps: Tensor) -> Tensor:
        """Masks (n, kernels), from 0 to 1, of the layer's input (n, channels, height, width)."""
        return F.relu(torch.tanh(self.out(F.relu(self.hidden(maps.mean((2, 3)))))))

    def begin(self, layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        """A hook before the conv layer."""
        self._masks.append(self(given[0]))

    def end(self, layer: nn.Module, given: tuple[Tensor, ...], maps: Tensor) -> Tensor:
        """A hook behind the conv layer or its batch norm, which multiplies the maps by the mask."""
        return maps * self._masks.pop()[:, :, None, None]


class MaskedNetwork(nn.Module):
    """A network with a mask generator at each conv layer but the first; images (n, 3, side, side) -> its outputs.

    The masks multiply the outputs of the batch norm that a conv layer is followed by, or else its own.

    Args:
        network: images -> logits; it gets the generators' hooks.
        image_side: in pixels.

    Attributes:
        generators: of the masked layers.
        masked: how many kernels these layers have, by their names.

    Raises UserError for a network with fewer than two conv layers.
    """

    def __init__(self, network: nn.Module, image_side: int) -> None:
        super().__init__()
        self.module, self.generators = network, nn.ModuleList()
        names = {layer: f"module.{name}" for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d)}
        if len(names) < 2:
            raise UserError(f"mask generators: expected a network with two conv layers or more, given {len(names)}")
        norms = _norms(network, image_side)
        self.masked = {names[layer]: layer.out_channels for layer in list(names)[1:]}
        for layer in list(names)[1:]:
            generator = MaskGenerator(layer.in_channels, layer.out_channels)
            self.generators.append(generator)
            layer.register_forward_pre_hook(generator.begin)
            norms.get(layer, layer).register_forward_hook(generator.end)

    def forward(self, images: Tensor) -> Tensor:
        """The outputs of the network with masked kernels."""
        return self.module(images)


def _norms(network: nn.Module, image_side: int) -> dict[nn.Module, nn.Module]:
    """Of each conv layer the batch norm that is given its output, where there is one."""
    maps: list[tuple[nn.Module, Tensor]] = []
    norms: dict[nn.Module, nn.Module] = {}

    def look(layer: nn.Module, given: tuple[Tensor, ...], value: Tensor) -> None:
        if isinstance(layer, nn.Conv2d):
            maps.append((layer, value))
        else:
            norms.update((conv, layer) for conv, of_conv in maps if given[0] is of_conv)

    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.BatchNorm2d)]
    hooks = [layer.register_forward_hook(look) for layer in layers]
    try:
        with evaluating(network), torch.no_grad():
            network(torch.zeros(1, 3, image_side, image_side))
    finally:
        for hook in hooks:
            hook.remove()
    return norms
