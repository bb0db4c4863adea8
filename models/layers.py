"""What our own networks share: 3x3 convolutions, the layers behind the last map, the first weights."""

import itertools
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


def conv_layers(channels: int, kernels: Sequence[int]) -> nn.ModuleList:
    """3x3 convolutions (stride 1, padding 1, bias) one behind the other."""
    return nn.ModuleList(
        nn.Conv2d(before, width, kernel_size=3, padding=1)
        for before, width in zip([channels, *kernels], kernels, strict=False)
    )


def fc_layers(widths: Sequence[int]) -> nn.ModuleList:
    """Linear layers from each width to the next."""
    return nn.ModuleList(nn.Linear(before, after) for before, after in itertools.pairwise(widths))


def classify(features: Tensor, fcs: nn.ModuleList, dropout: nn.Dropout) -> Tensor:
    """Logits (n, classes) of features (n, values).

    Dropout follows every hidden layer; without hidden layers it stands before the only one.
    """
    *hidden, last = fcs
    if not hidden:
        features = dropout(features)
    for fc in hidden:
        features = dropout(F.relu(fc(features)))
    return last(features)


def widened(kernels: int, width: float) -> int:
    """So many times as many kernels, at least one."""
    return max(1, round(kernels * width))


def side_behind_pools(image_side: int, pools: int) -> int:
    """The side in pixels of a map behind so many 2x2 max-pools. Raises ValueError where nothing is left."""
    if not image_side >> pools:
        raise ValueError(f"{pools} pools leave nothing of {image_side} pixels: expected at least {2**pools}")
    return image_side >> pools


def he_initialise(network: nn.Module) -> None:
    """The first weights: without batch norm a deep ReLU network does not start to learn from torch's default.

    Source: He et al., "Delving Deep into Rectifiers", ICCV 2015, eq. 10.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
