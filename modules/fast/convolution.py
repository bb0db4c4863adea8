"""Conv layers of fixed weights, in the way that is fastest on the device and for the dtype."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from dataset.images import PreparedImages
from modules.fast.compiled import compiler
from modules.fast.layers import CompiledConvolutions
from modules.fast.lowering import Convolutions, FusedLayer
from utils.device import has_tiles

# Up to which side, in pixels, the banded matrix is faster on the CPU, though it counts up to 1.4 times the operations;
# measured layer by layer, see experiments/results/BENCHMARKS.md.
BANDED_UP_TO = {torch.float32: 2, torch.bfloat16: 4}
# Of one batch's largest feature map. On the CPU small enough that maps stay in the cache and that their memory is used
# again instead of requested each time, which costs more than the convolutions; large enough for the small maps of the
# deep layers: 16 MiB in float32. Elsewhere enough that convolutions take longer than starting them: 128 MiB.
FEATURE_MAP_VALUES = 4 * 2**20
FEATURE_MAP_VALUES_ON_DEVICE = 32 * 2**20


def convolutions_for(like: Tensor | PreparedImages) -> Convolutions:
    """The way for maps of the dtype and on the device of `like`; without a compiler that works, torch's."""
    if can_be_compiled(like.dtype, like.device) and (found := compiler()):
        return CompiledConvolutions(found)
    return TorchConvolutions(like.dtype, like.device)


def can_be_compiled(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether there is a compiled way, given a compiler: minimal filtering would use up the precision of bfloat16."""
    return dtype == torch.float32 and device.type == "cpu"


def population_dtype(asked: torch.dtype, device: torch.device) -> torch.dtype:
    """The precision in which populations are evaluated: float32, not bfloat16, if the compiled kernels are available.

    That is faster than torch in bfloat16, also on processors that multiply vectors of it, and more precise. Only those
    that multiply tiles of it are faster still, 1.3 times (`benchmarks/compare.py evaluation`).
    """
    is_compiled = can_be_compiled(torch.float32, device) and compiler() is not None
    return torch.float32 if asked == torch.bfloat16 and is_compiled and not has_tiles() else asked


def say_if_without_compiler(dtype: torch.dtype, device: torch.device) -> None:
    """Print that modules take longer, if only a compiler that works is missing."""
    if can_be_compiled(dtype, device) and not compiler():
        print("no C++ compiler (see docs/speed.md): modules take twice as long", flush=True)


class TorchConvolutions(Convolutions):
    """Maps (n, channels, side, side), channels-last for the best, and torch's own convolution.

    But on maps of a few pixels, which leave a processor's vectors half empty, one row of the output is made of the
    three rows of the map around it by one matrix, which is banded, and the same for every row.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        on_cpu = device.type == "cpu"
        self._banded_up_to = BANDED_UP_TO.get(dtype, 0) if on_cpu else 0
        self._map_values = FEATURE_MAP_VALUES if on_cpu else FEATURE_MAP_VALUES_ON_DEVICE

    def batch_size(self, values: int) -> int:
        """As many as keep the largest feature map within FEATURE_MAP_VALUES, or FEATURE_MAP_VALUES_ON_DEVICE."""
        return max(1, self._map_values // values)

    def layer(self, layer: FusedLayer) -> Callable[..., Tensor]:
        """See `Convolutions`."""
        weight = layer.weight.compute()
        bias = None if layer.bias is None else layer.bias.compute()
        if self._is_banded(layer):
            side = layer.maps.shape[2]
            row_bias = None if bias is None else bias.repeat(side)
            convolve = partial(convolve_by_rows, matrix=banded_matrix(weight, side), bias=row_bias)
        else:
            convolve = partial(
                F.conv2d,
                weight=weight.contiguous(memory_format=torch.channels_last),
                bias=bias,
                stride=layer.stride,
                padding=layer.padding,
                dilation=layer.dilation,
                groups=layer.groups,
            )
        ending = layer.relu, layer.relu_of_sum, layer.pool
        return lambda maps, added=None: end(convolve(maps), added, *ending)

    def num_weights(self, layer: FusedLayer) -> int:
        """See `Convolutions`."""
        kernels, channels, *sizes = layer.weight.shape
        per_channel = 3 * layer.maps.shape[2] ** 2 if self._is_banded(layer) else sizes[0] * sizes[1]
        return kernels * channels * per_channel

    def _is_banded(self, layer: FusedLayer) -> bool:
        return layer.is_three_by_three and layer.maps.shape[2] <= self._banded_up_to


def banded_matrix(weight: Tensor, side: int) -> Tensor:
    """(side * kernels, 3 * side * channels): from three rows of a map, channels last, to one row of its convolution."""
    kernels, channels = weight.shape[:2]
    matrix = weight.new_zeros(side, kernels, 3, side, channels)
    for output in range(side):
        for column in range(max(0, output - 1), min(side, output + 2)):
            matrix[output, :, :, column] = weight[:, :, :, column - output + 1].transpose(1, 2)
    return matrix.view(side * kernels, 3 * side * channels)


def convolve_by_rows(maps: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve maps (n, channels, side, side) by a matrix of `banded_matrix`, and add the bias (side * kernels,)."""
    images, channels, side, _ = maps.shape
    width = side * channels  # of a row
    rows = maps.permute(0, 2, 3, 1).reshape(images, side * width)
    convolved = []
    for row in range(side):
        above, below = max(0, row - 1), min(side, row + 2)  # the rows of the map that are there
        part = matrix[:, (above - row + 1) * width : (below - row + 1) * width]
        convolved.append(F.linear(rows[:, above * width : below * width], part, bias))
    return torch.cat(convolved, 1).view(images, side, side, -1).permute(0, 3, 1, 2)


def end(maps: Tensor, added: Tensor | None, is_rectified: bool, is_sum_rectified: bool, is_pooled: bool) -> Tensor:
    """What a layer does behind its convolution, on maps that no other operator reads; see `FusedLayer`."""
    if added is not None:
        maps = relu(maps, pool=False) if is_rectified else maps
        maps += added
        is_rectified = is_sum_rectified
    if is_rectified:
        return relu(maps, pool=is_pooled)
    return F.max_pool2d(maps, 2) if is_pooled else maps


def relu(maps: Tensor, *, pool: bool) -> Tensor:
    """ReLU of maps that nobody else needs, and with `pool` F.max_pool2d(_, 2) of it; their sides are even.

    The maximum of ReLUs is the ReLU of the maximum, on a quarter of the values; by slices it is on the CPU five times
    as fast as max_pool2d in float32. In bfloat16 the bits are compared as integers, two to six times as fast:
    numbers that are not negative have the same order as integers, and negative ones are negative as integers too.
    """
    bits = maps.view(torch.int16) if maps.dtype == torch.bfloat16 else maps
    if pool:
        rows = torch.maximum(bits[:, :, ::2], bits[:, :, 1::2])
        bits = torch.maximum(rows[..., ::2], rows[..., 1::2])
    return bits.relu_().view(maps.dtype)
