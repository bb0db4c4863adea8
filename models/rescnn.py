"""ResCNN: 12 conv layers with three residual additions and one FC layer, without batch norm.

Published in Qi et al., ASE 2022 (arXiv 2209.06116): 431.17 M multiply-accumulates, 4,288 kernels. The overly simple
networks beside it are weak models to patch; their layers are ours.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import classify, conv_layers, fc_layers, he_initialise, side_behind_pools, widened


class Conv(NamedTuple):
    """One conv layer with ReLU, then a 2x2 max-pool, then a residual addition."""

    kernels: int
    pool: bool = False
    add: int | None = None  # the earlier layer whose output is added to this one's


LAYERS = (
    Conv(64),
    Conv(128, pool=True),
    Conv(128),
    Conv(128, add=1),
    Conv(256, pool=True),
    Conv(512, pool=True),
    Conv(512),
    Conv(512, add=5),
    Conv(512, pool=True),
    Conv(512, pool=True),
    Conv(512),
    Conv(512, add=9),
)


class ResCNN(nn.Module):
    """3x3 conv layers, some of which add an earlier one's output, then FC layers.

    Args:
        num_classes: logits.
        width: every conv layer has so many times its kernels.
        image_side: in pixels.
        layers: the conv layers.
        hidden: widths of FC layers before the last one.
        dropout: before the last FC layer; with hidden ones, behind each of these.
    """

    def __init__(
        self,
        num_classes: int,
        width: float = 1.0,
        image_side: int = 32,
        *,
        layers: Sequence[Conv] = LAYERS,
        hidden: Sequence[int] = (),
        dropout: float = 0.4,
    ) -> None:
        super().__init__()
        self.layers = tuple(layers)
        kernels = [widened(layer.kernels, width) for layer in layers]
        self.convs = conv_layers(3, kernels)
        side = side_behind_pools(image_side, sum(layer.pool for layer in layers))
        self.fcs = fc_layers([kernels[-1] * side**2, *hidden, num_classes])
        self.dropout = nn.Dropout(dropout)
        he_initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, classes) of normalised images (n, 3, side, side)."""
        x = images
        outputs: list[Tensor] = []
        for layer, convolution in zip(self.layers, self.convs, strict=True):
            x = F.relu(convolution(x))
            if layer.pool:
                x = F.max_pool2d(x, 2)
            if layer.add is not None:
                x = x + outputs[layer.add]
            outputs.append(x)
        return classify(x.flatten(1), self.fcs, self.dropout)


# Overly simple: for CIFAR, with five conv layers and one residual addition, and for digits, with three and one.
_WEAK = (Conv(16, pool=True), Conv(32, pool=True), Conv(32), Conv(32, add=1), Conv(64, pool=True))
_TINY = (Conv(8, pool=True), Conv(16, pool=True), Conv(16, add=1))
rescnn_weak = partial(ResCNN, layers=_WEAK)
rescnn_tiny = partial(ResCNN, layers=_TINY, dropout=0.0)
