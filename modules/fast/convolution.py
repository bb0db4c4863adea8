"""Conv layers of fixed weights, in the way that is fastest on the device and for the dtype.

A way says how maps stand in memory and makes layers for such maps: 3x3 convolution with padding 1, ReLU, pooling.
"""

from collections.abc import Callable
from functools import partial
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.fast.compiled import compiler
from modules.fast.winograd import MinimalFiltering

# Up to which side, in pixels, the banded matrix is faster on the CPU, though it counts up to 1.4 times the operations;
# measured by `benchmarks/convolution.py`.
BANDED_UP_TO = {torch.float32: 2, torch.bfloat16: 4}
# Small enough that feature maps stay in the cache and that their memory is used again instead of asked for anew, which
# costs more than the convolutions; large enough for the small maps of the deep layers.
FEATURE_MAP_VALUES = 4 * 2**20  # of one batch's largest feature map: 16 MiB in float32


class Convolutions(Protocol):
    """A way to convolve."""

    def batch_size(self, values: int) -> int:
        """How many images at a time, whose largest feature maps have so many values each."""

    def place(self, images: Tensor) -> Tensor:
        """Images (n, channels, side, side) as maps."""

    def layer(self, weight: Tensor, bias: Tensor, side: int, *, pool: bool) -> Callable[[Tensor], Tensor]:
        """What convolves maps of `side` pixels, a new tensor each time.

        Args:
            weight: (kernels, channels, 3, 3).
            bias: (kernels,).
            side: in pixels; even with `pool`.
            pool: take the maximum of 2x2 pixels behind the ReLU.
        """

    def features(self, maps: Tensor, num_images: int) -> Tensor:
        """Maps as (num_images, channels * side * side), in this order."""

    def num_weights(self, kernels: int, channels: int, side: int) -> int:
        """How many values a layer holds, without its bias."""


def convolutions_for(like: Tensor) -> Convolutions:
    """The way for maps of the dtype and on the device of `like`. Raises UserError for a compiler that does not work."""
    if can_be_compiled(like.dtype, like.device) and (found := compiler()):
        return MinimalFiltering(found)
    return TorchConvolutions(like.dtype, like.device)


def can_be_compiled(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether there is a compiled way, given a compiler: minimal filtering would use up the precision of bfloat16."""
    return dtype == torch.float32 and device.type == "cpu"


def say_if_without_compiler(dtype: torch.dtype, device: torch.device) -> None:
    """Print that modules take longer, where only a compiler is missing. Raises UserError where CXX names none."""
    if can_be_compiled(dtype, device) and not compiler():
        print("no C++ compiler (see Speed in the README): modules take twice as long", flush=True)


class TorchConvolutions:
    """Maps (n, channels, side, side), channels-last for the best, and torch's own convolution.

    But on maps of a few pixels, which leave a processor's vectors half empty, one row of the output is made of the
    three rows of the map around it by one matrix, which is banded, and the same for every row.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._banded_up_to = BANDED_UP_TO.get(dtype, 0) if device.type == "cpu" else 0

    def batch_size(self, values: int) -> int:
        """As many as keep the largest feature map within FEATURE_MAP_VALUES."""
        return max(1, FEATURE_MAP_VALUES // values)

    def place(self, images: Tensor) -> Tensor:
        """The images themselves."""
        return images

    def layer(self, weight: Tensor, bias: Tensor, side: int, *, pool: bool) -> Callable[[Tensor], Tensor]:
        """See `Convolutions`."""
        if side <= self._banded_up_to:
            convolve = partial(convolve_by_rows, matrix=banded_matrix(weight, side), bias=bias.repeat(side))
        else:
            weight = weight.contiguous(memory_format=torch.channels_last)
            convolve = partial(F.conv2d, weight=weight, bias=bias, padding=1)
        return lambda maps: relu(convolve(maps), pool=pool)

    def features(self, maps: Tensor, num_images: int) -> Tensor:
        """See `Convolutions`."""
        return maps.flatten(1)

    def num_weights(self, kernels: int, channels: int, side: int) -> int:
        """See `Convolutions`."""
        return kernels * channels * (3 * side**2 if side <= self._banded_up_to else 9)


def banded_matrix(weight: Tensor, side: int) -> Tensor:
    """(side * kernels, 3 * side * channels): from three rows of a map, channels last, to one row of its convolution."""
    kernels, channels = weight.shape[:2]
    matrix = weight.new_zeros(side, kernels, 3, side, channels)
    for output in range(side):
        for column in range(max(0, output - 1), min(side, output + 2)):
            matrix[output, :, :, column] = weight[:, :, :, column - output + 1].transpose(1, 2)
    return matrix.view(side * kernels, 3 * side * channels)


def convolve_by_rows(maps: Tensor, matrix: Tensor, bias: Tensor) -> Tensor:
    """Convolve maps (n, channels, side, side) by the matrix of `banded_matrix`, and add bias (side * kernels,)."""
    images, channels, side, _ = maps.shape
    width = side * channels  # of a row
    rows = maps.permute(0, 2, 3, 1).reshape(images, side * width)
    convolved = []
    for row in range(side):
        above, below = max(0, row - 1), min(side, row + 2)  # the rows of the map that are there
        part = matrix[:, (above - row + 1) * width : (below - row + 1) * width]
        convolved.append(F.linear(rows[:, above * width : below * width], part, bias))
    return torch.cat(convolved, 1).view(images, side, side, -1).permute(0, 3, 1, 2)


def relu(maps: Tensor, *, pool: bool) -> Tensor:
    """ReLU of maps that nobody else needs, and with `pool` F.max_pool2d(_, 2) of it; their sides are even.

    The maximum of ReLUs is the ReLU of the maximum, on a quarter of the values; by slices it is on the CPU five times
    as fast as max_pool2d in float32. In bfloat16 the bits are compared as integers, two to six times as fast:
    where they are not negative their order is the same, and negative ones are negative as integers too.
    """
    bits = maps.view(torch.int16) if maps.dtype == torch.bfloat16 else maps
    if pool:
        rows = torch.maximum(bits[:, :, ::2], bits[:, :, 1::2])
        bits = torch.maximum(rows[..., ::2], rows[..., 1::2])
    return bits.relu_().view(maps.dtype)
