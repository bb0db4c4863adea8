"""A 3x3 convolution with padding 1 by fixed weights, in the way that is fastest for the size of its maps.

On maps of a few pixels a convolution leaves the processor's vectors half empty. There, one row of the output is made of
the three rows of the map around it by one matrix, which is banded, and the same for every row. And with many
channels, minimal filtering takes fewer multiplications; not in bfloat16, whose precision its differences would use up.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.minimal_filtering import MinimalConvolution, filtering_of

# What is faster on the CPU is measured by `experiments/benchmark/convolution.py`.
# Up to which side, in pixels, the banded matrix is, though it counts up to 1.4 times the operations.
BANDED_UP_TO = {torch.float32: 2, torch.bfloat16: 4}
# From how many channels, the harmonic mean of those read and written, minimal filtering is: its products are work per
# pair of channels, and have to repay the making of points, which is work per channel.
FILTERED_FROM = {4: 24}  # by side
FILTERED_FROM_ELSE = 48


def convolution(weight: Tensor, bias: Tensor, side: int) -> Callable[[Tensor], Tensor]:
    """What convolves maps (n, channels, side, side) as F.conv2d does with padding 1.

    Args:
        weight: (kernels, channels, 3, 3), channels-last.
        bias: (kernels,).
        side: of the maps, in pixels.

    The function that is returned takes maps in any order in memory, channels-last for the best, and returns
    (n, kernels, side, side) in the order that suits it.
    """
    way = way_of(*weight.shape[:2], side, weight)
    if way == "filtered":
        return MinimalConvolution(weight, bias, side)
    if way == "banded":
        return partial(convolve_by_rows, matrix=banded_matrix(weight, side), bias=bias.repeat(side))
    return partial(F.conv2d, weight=weight, bias=bias, padding=1)


def num_weights(kernels: int, channels: int, side: int, like: Tensor) -> int:
    """How many values `convolution` holds for a layer, without its bias, of the dtype and on the device of `like`."""
    way = way_of(kernels, channels, side, like)
    per_pair = filtering_of(side).points ** 2 if way == "filtered" else 3 * side**2 if way == "banded" else 9
    return kernels * channels * per_pair


def way_of(kernels: int, channels: int, side: int, like: Tensor) -> Literal["filtered", "banded", "conv2d"]:
    """How `convolution` convolves a layer, for maps of the dtype and on the device of `like`."""
    if like.device.type != "cpu":
        return "conv2d"
    from_channels = FILTERED_FROM.get(side, FILTERED_FROM_ELSE)
    many = 2 * kernels * channels >= from_channels * (kernels + channels)
    if many and like.dtype == torch.float32 and filtering_of(side):
        return "filtered"
    return "banded" if side <= BANDED_UP_TO.get(like.dtype, 0) else "conv2d"


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
