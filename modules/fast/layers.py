"""Conv layers on the CPU in float32 by a compiled library: `layers.cpp`, which says how, from Python.

Beside F.conv2d, ReLU and max-pooling, 3x3 kernels take a quarter of the multiplications, and the processor's vectors
are filled with images, not with channels, of which modules have few.
"""

import ctypes
import functools
import math
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.fast.compiled import compiled
from modules.fast.lowering import Convolutions, FusedLayer

SOURCE = Path(__file__).with_suffix(".cpp")

# Images at a time, at a quarter and at the whole of the published width: half or twice as many cost at most 15 % more.
BATCH = 128
FEATURE_MAP_VALUES = 8 * 2**20  # of one batch's largest feature map at the most: 32 MiB

# From a row of a kernel to its points, for tiles of two and of four pixels; see the source for the way back.
OF_TWO = ((0, 1, 0), (0, -1, 1), (1, -1, 0))
OF_FOUR = (
    (1, 0, 0),
    (-2 / 3, -math.sqrt(2) / 3, -1 / 3),
    (-2 / 3, math.sqrt(2) / 3, -1 / 3),
    (1 / 6, math.sqrt(2) / 6, 1 / 3),
    (1 / 6, -math.sqrt(2) / 6, 1 / 3),
    (0, 0, 1),
)


class Window(ctypes.Structure):
    """Which pixels a kernel meets, as the library is given it."""

    _fields_ = [
        (name, ctypes.c_int64)
        for name in (
            *("blocks", "rows", "columns", "channels", "to_rows", "to_columns", "kernels"),
            *("kernel_rows", "kernel_columns", "stride_rows", "stride_columns"),
            *("padding_rows", "padding_columns", "dilation_rows", "dilation_columns"),
        )
    ]


class CompiledConvolutions(Convolutions):
    """Maps in the order of the compiled library, and layers that convolve them.

    A block is as many images as fill the library's vectors, its lanes; the last one is filled up with zeros. In memory
    maps are (blocks, height, width, channels, lanes). For torch they are (blocks, channels * lanes, height, width),
    channels-last.
    """

    def __init__(self, compiler: tuple[str, ...]) -> None:
        library = compiled(SOURCE, compiler)
        flag, number, pointer = ctypes.c_bool, ctypes.c_int64, ctypes.c_void_p
        library.place.argtypes = [*[number] * 2, *[pointer] * 2]
        library.place.restype = None
        library.lay_out.argtypes = [*[number] * 3, *[pointer] * 2]
        library.lay_out.restype = None
        library.lay_out_points.argtypes = [*[number] * 3, *[pointer] * 3]
        library.lay_out_points.restype = None
        library.minimal_filtering.argtypes = [*[number] * 4, *[flag] * 3, *[pointer] * 5]
        library.minimal_filtering.restype = flag
        library.direct.argtypes = [ctypes.POINTER(Window), *[flag] * 3, *[pointer] * 5]
        library.direct.restype = None
        self._library = library
        self.lanes = library.lanes()

    def batch_size(self, values: int) -> int:
        """Few, for the cache; but enough for the FC layers, whose weights are read again for every batch."""
        return max(1, min(BATCH, FEATURE_MAP_VALUES // values))

    def place(self, values: Tensor) -> Tensor:
        """Values (n, channels, ...) float32 in the library's order: (blocks, channels * lanes, ...)."""
        blocks = -(-len(values) // self.lanes)
        channels, *sides = values.shape[1:]
        last = values.movedim(1, -1).contiguous()  # for maps that is their memory as it is, if they are channels-last
        placed = values.new_empty(blocks, *sides, channels * self.lanes)
        self._library.place(len(values), last[0].numel(), last.data_ptr(), placed.data_ptr())
        return placed.movedim(-1, 1)

    def unplace(self, values: Tensor, images: Tensor) -> Tensor:
        """Values (blocks, channels * lanes, ...) as (images, channels, ...)."""
        by_lane = values.reshape(len(values), -1, self.lanes, *values.shape[2:])
        return by_lane.movedim(2, 1).flatten(0, 1)[: len(images)]

    def layer(self, layer: FusedLayer) -> Callable[..., Tensor] | None:
        """A function of its maps and, if it has one, of the map that is added; None of a grouped convolution."""
        weight = layer.weight.compute()
        kernels, expected, sides = len(weight), layer.maps.shape[1:], layer.values[0].shape[2:]
        channels, is_depthwise = expected[0], layer.groups > 1
        if is_depthwise and (weight.shape[1] > 1 or layer.groups != channels):
            return None
        bias = weight.new_zeros(kernels) if layer.bias is None else layer.bias.compute().contiguous()
        # What is kept has none of the values that the layer is made of.
        relu, pool, library, window = (layer.relu, layer.relu_of_sum), layer.pool, self._library, None
        if is_filtered(layer):
            laid_out = self._points(weight, sides[0])
        else:
            laid_out = weight.contiguous() if is_depthwise else self._taps(weight)
            of_window = (kernels, *weight.shape[2:], *layer.stride, *layer.padding, *layer.dilation)
            window = (*expected[1:], channels, *sides, *of_window)

        def convolve(maps: Tensor, added: Tensor | None = None) -> Tensor:
            maps, blocks = self._checked(maps, expected), len(maps)
            added = None if added is None else self._checked(added, (kernels, *sides))
            to_sides = (side // 2 for side in sides) if pool and window is None else sides
            outputs = maps.new_empty(blocks, *to_sides, kernels * self.lanes)
            operands = (maps, laid_out, bias, added, outputs)
            addresses = [None if values is None else values.data_ptr() for values in operands]
            if window is not None:
                library.direct(Window(blocks, *window), *relu, is_depthwise, *addresses)
            elif not library.minimal_filtering(blocks, sides[0], channels, kernels, *relu, pool, *addresses):
                raise MemoryError(f"a conv layer of {channels} channels and {kernels} kernels")
            outputs = outputs.permute(0, 3, 1, 2)
            return F.max_pool2d(outputs, 2) if pool and window is not None else outputs

        return convolve

    def num_weights(self, layer: FusedLayer) -> int:
        """How many values a layer holds, without its bias."""
        kernels, channels, *sizes = layer.weight.shape
        per_channel = len(_of_tiles(layer.maps.shape[2] > 2)) if is_filtered(layer) else sizes[0] * sizes[1]
        return kernels * channels * per_channel

    def _taps(self, weight: Tensor) -> Tensor:
        """A layer's kernels as the library reads them tap by tap."""
        kernels, channels, *sizes = weight.shape
        taps, weight = weight.new_empty(weight.numel()), weight.contiguous()
        self._library.lay_out(math.prod(sizes), channels, kernels, weight.data_ptr(), taps.data_ptr())
        return taps

    def _points(self, weight: Tensor, side: int) -> Tensor:
        """The points of a layer's 3x3 kernels as the library reads them."""
        kernels, channels = weight.shape[:2]
        matrix, weight = _of_tiles(side > 2), weight.contiguous()
        points = weight.new_empty(len(matrix) * channels * kernels)
        addresses = (values.data_ptr() for values in (matrix, weight, points))
        self._library.lay_out_points(len(matrix), channels, kernels, *addresses)
        return points

    def _checked(self, maps: Tensor, expected: tuple[int, ...]) -> Tensor:
        """Maps (blocks, height, width, channels * lanes) in order in memory, of these (channels, height, width)."""
        found = (maps.shape[1] // self.lanes, *maps.shape[2:])
        if found != tuple(expected):
            raise ValueError(f"expected maps of (channels, height, width) {tuple(expected)}, given {found}")
        return maps.permute(0, 2, 3, 1).contiguous()


def is_filtered(layer: FusedLayer) -> bool:
    """Whether minimal filtering takes fewer products than going tap by tap: on one pixel only one tap is there."""
    return layer.is_three_by_three and layer.maps.shape[2] > 1


@functools.cache
def _of_tiles(is_four: bool) -> Tensor:
    """From the 9 taps of a kernel to the points of a tile, (points, 9) float64."""
    of_rows = torch.tensor(OF_FOUR if is_four else OF_TWO, dtype=torch.float64)
    return torch.kron(of_rows, of_rows)
