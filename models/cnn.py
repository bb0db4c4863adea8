"""A convolutional network described as data: its conv layers in order, which of them are added, its FC layers.

Everything that cuts, masks or evaluates networks reads this description, so a new network is one new file with an
`ARCHITECTURE` in it.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IMAGE_SIDE = 32  # pixels; every image is resized to this
IMAGE_CHANNELS = 3


@dataclass(frozen=True)
class Conv:
    """One 3x3 conv layer (stride 1, padding 1, bias) with ReLU, then a 2x2 max-pool, then a residual addition."""

    kernels: int
    pool: bool = False
    add: int | None = None  # the earlier layer whose output is added to this one's


@dataclass(frozen=True)
class Architecture:
    """The conv layers, the widths of the hidden FC layers, and the dropout before the last FC layers.

    Dropout follows every hidden FC layer; without hidden layers it stands before the only FC layer.
    """

    convs: tuple[Conv, ...]
    hidden: tuple[int, ...] = ()
    dropout: float = 0.0

    def __post_init__(self) -> None:
        sides = self.sides[1:]
        if sides[-1] == 0:
            raise ValueError(f"{sum(conv.pool for conv in self.convs)} pools leave nothing of {IMAGE_SIDE} pixels")
        for layer, conv in enumerate(self.convs):
            if conv.add is None:
                continue
            if not 0 <= conv.add < layer:
                raise ValueError(f"conv {layer}: add expects an earlier layer, given {conv.add}")
            if conv.kernels != self.convs[conv.add].kernels:
                raise ValueError(
                    f"conv {layer} has {conv.kernels} kernels, conv {conv.add}, which it adds, another number"
                )
            if sides[layer] != sides[conv.add]:
                raise ValueError(
                    f"conv {layer}: its feature map is {sides[layer]} pixels wide, that of conv {conv.add} "
                    f"{sides[conv.add]}, so they cannot be added"
                )

    def scaled(self, width: float) -> "Architecture":
        """The same network with every conv layer `width` times as wide (at least one kernel); FC layers stay."""
        convs = tuple(replace(conv, kernels=max(1, round(conv.kernels * width))) for conv in self.convs)
        return replace(self, convs=convs)

    @property
    def num_kernels(self) -> tuple[int, ...]:
        """Kernels per conv layer; their sum is K."""
        return tuple(conv.kernels for conv in self.convs)

    @property
    def total_kernels(self) -> int:
        """K: the kernels of all conv layers."""
        return sum(self.num_kernels)

    @property
    def layer_slices(self) -> tuple[slice, ...]:
        """Where each conv layer's kernels stand in an array over all K kernels."""
        ends = tuple(itertools.accumulate(self.num_kernels))
        return tuple(slice(end - width, end) for end, width in zip(ends, self.num_kernels, strict=True))

    @property
    def tied_to(self) -> tuple[int, ...]:
        """Per conv layer, the first layer whose kernels it must share: itself, where no addition ties it."""
        first = list(range(len(self.convs)))
        for layer, conv in enumerate(self.convs):
            if conv.add is not None:
                old, new = first[layer], first[conv.add]
                first = [new if f == old else f for f in first]
        return tuple(first)

    @property
    def free_layers(self) -> tuple[int, ...]:
        """The conv layers that are not tied to an earlier one: those that have genes."""
        return tuple(layer for layer, first in enumerate(self.tied_to) if layer == first)

    @property
    def sides(self) -> tuple[int, ...]:
        """In pixels, the side of what each conv layer is given, and behind them that of the last feature map."""
        return tuple(IMAGE_SIDE >> pools for pools in itertools.accumulate((c.pool for c in self.convs), initial=0))

    @property
    def final_side(self) -> int:
        """The side in pixels of the last feature map."""
        return self.sides[-1]


class CNN(nn.Module):
    """The network of an `Architecture`, with any number of kernels per layer.

    Args:
        architecture: the layers.
        num_outputs: rows of the last FC layer: one logit each.
        num_kernels: kernels per conv layer, if not the architecture's own (a module has fewer).
        dropout: in place of the architecture's own.
    """

    def __init__(
        self,
        architecture: Architecture,
        num_outputs: int,
        num_kernels: Sequence[int] | None = None,
        dropout: float | None = None,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        widths = list(num_kernels or architecture.num_kernels)
        self.convs = nn.ModuleList(
            nn.Conv2d(before, width, kernel_size=3, padding=1)
            for before, width in zip([IMAGE_CHANNELS, *widths], widths, strict=False)
        )
        features = widths[-1] * architecture.final_side**2
        fc_widths = [features, *architecture.hidden, num_outputs]
        self.fcs = nn.ModuleList(nn.Linear(before, after) for before, after in itertools.pairwise(fc_widths))
        self.dropout = nn.Dropout(architecture.dropout if dropout is None else dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """He initialisation: without batch norm a deep ReLU network does not start to learn from torch's default.

        Source: He et al., "Delving Deep into Rectifiers", ICCV 2015, eq. 10.
        """
        for layer in [*self.convs, *self.fcs]:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, num_outputs) of normalised images (batch, 3, 32, 32)."""
        return self.classify(self.convolve(images))

    def convolve(self, images: Tensor, observe: Callable[[int, Tensor], None] | None = None) -> Tensor:
        """The last feature map (batch, kernels, side, side).

        `observe(layer, feature_map)` is called once per free layer with its feature map after ReLU, before pooling;
        for layers tied by an addition with the sum after it, under the first of them.
        """
        tied_to = self.architecture.tied_to
        added = {conv.add for conv in self.architecture.convs if conv.add is not None}
        kept: dict[int, Tensor] = {}
        x = images
        for layer, (conv, convolution) in enumerate(zip(self.architecture.convs, self.convs, strict=True)):
            x = F.relu(convolution(x))
            if observe and tied_to.count(tied_to[layer]) == 1:
                observe(layer, x)
            if conv.pool:
                x = F.max_pool2d(x, 2)
            if conv.add is not None:
                x = x + kept[conv.add]
                if observe:
                    observe(tied_to[layer], x)
            if layer in added:
                kept[layer] = x
        return x

    def classify(self, features: Tensor) -> Tensor:
        """Logits (batch, num_outputs) of the last feature map."""
        x = features.flatten(1)
        *hidden, last = self.fcs
        if not hidden:
            x = self.dropout(x)
        for fc in hidden:
            x = self.dropout(F.relu(fc(x)))
        return last(x)


def count_parameters(model: nn.Module) -> int:
    """The number of trainable values."""
    return sum(parameter.numel() for parameter in model.parameters())


def cpu_state(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the weights on the CPU in float32, as checkpoints hold them."""
    return {name: value.detach().to("cpu", torch.float32, copy=True) for name, value in model.state_dict().items()}
