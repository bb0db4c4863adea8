"""Conv layers on the CPU in float32 by a compiled library: `layers.cpp`, which says how, from Python.

Beside F.conv2d, ReLU and max-pooling, 3x3 kernels take a quarter of the multiplications, and the processor's vectors
are filled with images, not with channels, of which modules have few.
"""

import ctypes
import functools
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.fast.compiled import compiled
from modules.fast.lowering import Layer

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


class CompiledConvolutions:
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
        self.lanes: int = library.lanes()

    def batch_size(self, values: int) -> int:
        """Few, for the cache; but enough for the FC layers, whose weights are read anew for every batch."""
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
        return values.unflatten(1, (-1, self.lanes)).movedim(2, 1).flatten(0, 1)[: len(images)]

    def layer(self, layer: Layer) -> Callable[..., Tensor] | None:
        """A function of its maps and, if it has one, of the map that is added; None of a grouped convolution."""
        weight = layer.weight.compute()
        kernels, rows, columns = len(weight), layer.values[0].shape[2], layer.values[0].shape[3]
        channels = layer.maps.shape[1]
        if layer.groups > 1 and (weight.shape[1] > 1 or layer.groups != channels):
            return None
        bias = weight.new_zeros(kernels) if layer.bias is None else layer.bias.compute().contiguous()
        if is_filtered(layer):
            points = self._points(weight, rows)
            return partial(self._filter, points=points, bias=bias, layer=_Ending(layer), expected=layer.maps.shape[1:])
        of_window = (kernels, *weight.shape[2:], *layer.stride, *layer.padding, *layer.dilation)
        window = (*layer.maps.shape[2:], channels, rows, columns, *of_window)
        is_depthwise = layer.groups > 1
        taps = weight.contiguous() if is_depthwise else self._taps(weight)
        return partial(
            self._convolve,
            taps=taps,
            bias=bias,
            layer=_Ending(layer),
            expected=layer.maps.shape[1:],
            window=window,
            is_depthwise=is_depthwise,
        )

    def num_weights(self, layer: Layer) -> int:
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

    def _filter(
        self,
        maps: Tensor,
        added: Tensor | None = None,
        *,
        points: Tensor,
        bias: Tensor,
        layer: "_Ending",
        expected: tuple[int, ...],
    ) -> Tensor:
        maps, side = self._checked(maps, expected), expected[-1]
        to_side = side // 2 if layer.pool else side
        outputs = maps.new_empty(len(maps), to_side, to_side, len(bias) * self.lanes)
        added = None if added is None else self._checked(added, (len(bias), side, side))
        ending = layer.relu, layer.relu_of_sum, layer.pool
        addresses = (None if values is None else values.data_ptr() for values in (maps, points, bias, added, outputs))
        if not self._library.minimal_filtering(len(maps), side, expected[0], len(bias), *ending, *addresses):
            raise MemoryError(f"a conv layer of {expected[0]} channels and {len(bias)} kernels")
        return outputs.permute(0, 3, 1, 2)

    def _convolve(
        self,
        maps: Tensor,
        added: Tensor | None = None,
        *,
        taps: Tensor,
        bias: Tensor,
        layer: "_Ending",
        expected: tuple[int, ...],
        window: tuple[int, ...],
        is_depthwise: bool,
    ) -> Tensor:
        maps = self._checked(maps, expected)
        of_outputs = Window(len(maps), *window)
        sides = of_outputs.to_rows, of_outputs.to_columns
        outputs = maps.new_empty(len(maps), *sides, len(bias) * self.lanes)
        added = None if added is None else self._checked(added, (len(bias), *sides))
        addresses = (None if values is None else values.data_ptr() for values in (maps, taps, bias, added, outputs))
        self._library.direct(of_outputs, layer.relu, layer.relu_of_sum, is_depthwise, *addresses)
        outputs = outputs.permute(0, 3, 1, 2)
        return F.max_pool2d(outputs, 2) if layer.pool else outputs

    def _checked(self, maps: Tensor, expected: tuple[int, ...]) -> Tensor:
        """Maps (blocks, height, width, channels * lanes) in order in memory, of these (channels, height, width)."""
        found = (maps.shape[1] // self.lanes, *maps.shape[2:])
        if found != tuple(expected):
            raise ValueError(f"expected maps of (channels, height, width) {tuple(expected)}, given {found}")
        return maps.permute(0, 2, 3, 1).contiguous()


class _Ending:
    """What a layer does behind its convolution, without the values that it is made of."""

    def __init__(self, layer: Layer) -> None:
        self.relu, self.relu_of_sum, self.pool = layer.relu, layer.relu_of_sum, layer.pool


def is_filtered(layer: Layer) -> bool:
    """Whether minimal filtering takes fewer products than going tap by tap: on one pixel only one tap is there."""
    return layer.is_three_by_three and layer.maps.shape[2] > 1


@functools.cache
def _of_tiles(is_four: bool) -> Tensor:
    """From the 9 taps of a kernel to the points of a tile, (points, 9) float64."""
    of_rows = torch.tensor(OF_FOUR if is_four else OF_TWO, dtype=torch.float64)
    return torch.kron(of_rows, of_rows)
