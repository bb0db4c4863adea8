"""A 3x3 convolution with padding 1 by fixed weights, in the way that is fastest for the size of its maps.

On maps of a few pixels a convolution leaves the processor's vectors half empty. There, one row of the output is made of
the three rows of the map around it by one matrix, which is banded, and the same for every row.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

# Up to which side, in pixels, the matrix product is faster on the CPU, though it counts up to 1.4 times the operations:
# `experiments/benchmark/convolution.py` measures both.
BANDED_UP_TO = {torch.float32: 2, torch.bfloat16: 4}


def convolution(weight: Tensor, bias: Tensor, side: int) -> Callable[[Tensor], Tensor]:
    """What convolves maps (n, channels, side, side), channels-last, as F.conv2d does with padding 1.

    Args:
        weight: (kernels, channels, 3, 3), channels-last.
        bias: (kernels,).
        side: of the maps, in pixels.

    The function that is returned returns (n, kernels, side, side), channels-last.
    """
    if _is_banded(weight, side):
        return partial(convolve_by_rows, matrix=banded_matrix(weight, side), bias=bias.repeat(side))
    return partial(F.conv2d, weight=weight, bias=bias, padding=1)


def num_weights(kernels: int, channels: int, side: int, like: Tensor) -> int:
    """How many values `convolution` holds for a layer, without its bias, of the dtype and on the device of `like`."""
    return kernels * channels * (3 * side**2 if _is_banded(like, side) else 9)


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


def _is_banded(weight: Tensor, side: int) -> bool:
    return weight.device.type == "cpu" and side <= BANDED_UP_TO.get(weight.dtype, 0)
