"""A network whose kernels are masked by the image: a generator of masks at each conv layer but the first.

After Qi, Sun, Zhang, Zhao and Gao, "Modularizing while Training: A New Paradigm for Modularizing DNN Models" (MwT),
ICSE 2024, arXiv 2306.09376. Trained so that images of a class have the same masks, and other classes other ones, the
network has small modules. `mwt:NAME` names the network NAME with generators.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.graph.errors import refused
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
        masked: the names of these layers in this network.

    Raises UserError for a network with fewer than two conv layers, one that has generators, or one that does not run.
    """

    def __init__(self, network: nn.Module, image_side: int) -> None:
        super().__init__()
        self.network, self.generators = network, nn.ModuleList()
        names = {layer: f"network.{name}" for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d)}
        if len(names) < 2:
            raise UserError(f"mask generators: expected a network with two conv layers or more, given {len(names)}")
        if any(isinstance(part, MaskGenerator) for part in network.modules()):
            raise UserError("mask generators: the network has some: expected mwt: once")
        norms = _norms(network, image_side)
        self.masked = tuple(names.values())[1:]
        for layer in list(names)[1:]:
            generator = MaskGenerator(layer.in_channels, layer.out_channels)
            self.generators.append(generator)
            layer.register_forward_pre_hook(generator.begin)
            norms.get(layer, layer).register_forward_hook(generator.end)

    def forward(self, images: Tensor) -> Tensor:
        """The outputs of the network with masked kernels."""
        return self.network(images)


@contextmanager
def observed_masks(network: nn.Module) -> Iterator[dict[str, Tensor]]:
    """While the block runs a network, its masks (n, kernels) float32, by the names of the masked layers that run in it.

    Of a layer that runs several times the larger ones.
    """
    found: dict[str, Tensor] = {}

    def keep(name: str, _: nn.Module, __: tuple[Tensor, ...], mask: Tensor) -> None:
        found[name] = torch.maximum(found[name], mask.float()) if name in found else mask.float()

    hooks = [
        generator.register_forward_hook(partial(keep, f"{place}.{name}".removeprefix(".")))
        for place, part in network.named_modules()
        if isinstance(part, MaskedNetwork)
        for name, generator in zip(part.masked, part.generators, strict=True)
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _norms(network: nn.Module, image_side: int) -> dict[nn.Module, nn.Module]:
    """Of each conv layer that runs once the batch norm that is given its output alone, where there is one."""
    maps: list[tuple[nn.Module, Tensor]] = []
    pairs: list[tuple[nn.Module, nn.Module]] = []
    runs: Counter[nn.Module] = Counter()

    def look(layer: nn.Module, given: tuple[Tensor, ...], value: Tensor) -> None:
        runs[layer] += 1
        if isinstance(layer, nn.Conv2d):
            maps.append((layer, value))
        else:
            pairs.extend((conv, layer) for conv, of_conv in maps if given[0] is of_conv)

    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.BatchNorm2d)]
    hooks = [layer.register_forward_hook(look) for layer in layers]
    try:
        with evaluating(network), torch.no_grad():
            network(torch.zeros(1, 3, image_side, image_side))
    except Exception as error:
        raise refused(f"mask generators: the network does not run on images of {image_side} pixels", error) from None
    finally:
        for hook in hooks:
            hook.remove()
    return {conv: norm for conv, norm in pairs if runs[conv] == runs[norm] == 1}
