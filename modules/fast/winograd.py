"""Conv layers on the CPU in float32 by minimal filtering: `minimal_filtering.cpp`, which says how, from Python.

Beside F.conv2d, ReLU and max-pooling it takes a quarter of the multiplications, and fills the processor's vectors with
images, not with channels, of which modules have few.
"""

import ctypes
import itertools
from collections.abc import Callable
from functools import partial
from math import sqrt
from pathlib import Path

import torch
from torch import Tensor

from modules.fast.compiled import compiled

SOURCE = Path(__file__).with_suffix(".cpp")

# Images at a time, at a quarter and at the whole of the published width: half or twice as many cost at most 15 % more.
BATCH = 128
FEATURE_MAP_VALUES = 8 * 2**20  # of one batch's largest feature map at the most: 32 MiB

# From a row of a kernel to its points, for tiles of two and of four pixels; see the source for the way back.
OF_TWO = ((0, 1, 0), (0, -1, 1), (1, -1, 0))
OF_FOUR = (
    (1, 0, 0),
    (-2 / 3, -sqrt(2) / 3, -1 / 3),
    (-2 / 3, sqrt(2) / 3, -1 / 3),
    (1 / 6, sqrt(2) / 6, 1 / 3),
    (1 / 6, -sqrt(2) / 6, 1 / 3),
    (0, 0, 1),
)


class MinimalFiltering:
    """Maps in the order of the compiled library, and layers that convolve them.

    A block is as many images as fill the library's vectors; the last one is filled up with zeros.
    """

    def __init__(self, compiler: tuple[str, ...]) -> None:
        library = compiled(SOURCE, compiler)
        library.convolve.argtypes = [*[ctypes.c_int64] * 4, ctypes.c_bool, *[ctypes.c_void_p] * 4]
        library.place.argtypes = [*[ctypes.c_int64] * 2, *[ctypes.c_void_p] * 2]
        library.place.restype = None
        library.convolve.restype = ctypes.c_bool
        self._convolve, self._place = library.convolve, library.place
        self._lanes: int = library.lanes()
        self._panel: int = library.panel()

    def batch_size(self, values: int) -> int:
        """Few, for the cache; but enough for the FC layers, whose weights are read anew for every batch."""
        return max(1, min(BATCH, FEATURE_MAP_VALUES // values))

    def place(self, images: Tensor) -> Tensor:
        """Images (n, channels, side, side) as maps (blocks, side, side, channels, lanes)."""
        blocks = -(-len(images) // self._lanes)
        values = images.permute(0, 2, 3, 1).contiguous()
        maps = images.new_empty(blocks, *values.shape[1:], self._lanes)
        self._place(len(values), values[0].numel(), values.data_ptr(), maps.data_ptr())
        return maps

    def features(self, maps: Tensor, num_images: int) -> Tensor:
        """Maps as (num_images, channels * side * side)."""
        return maps.permute(0, 4, 3, 1, 2).flatten(0, 1)[:num_images].flatten(1)

    def layer(self, weight: Tensor, bias: Tensor, side: int, *, pool: bool) -> Callable[[Tensor], Tensor]:
        """Convolution with padding 1, ReLU and, with `pool`, 2x2 max-pooling, of maps of this side.

        Args:
            weight: (kernels, channels, 3, 3) float32 on the CPU.
            bias: (kernels,).
            side: in pixels; even with `pool`.
            pool: halve the side.

        Raises ValueError for pooling of an odd side; what is returned, for maps of other sides or channels.
        """
        if pool and side % 2:
            raise ValueError(f"pooling: expected an even side, given {side}")
        points = self._points(weight, side)
        return partial(self._run, points=points, bias=bias.contiguous(), expected=(side, weight.shape[1]), pool=pool)

    def num_weights(self, kernels: int, channels: int, side: int) -> int:
        """How many values a layer holds, without its bias."""
        return kernels * channels * len(_of_weights(side)) ** 2

    def _points(self, weight: Tensor, side: int) -> Tensor:
        """The points of a layer's kernels as the library reads them: panel by panel (points, channels, kernels)."""
        kernels, channels = weight.shape[:2]
        of_weights = torch.tensor(_of_weights(side), dtype=torch.float64)
        taps = weight.double().permute(2, 3, 1, 0).reshape(9, channels * kernels)
        points = torch.mm(torch.kron(of_weights, of_weights), taps).float().unflatten(1, (channels, kernels))
        panels = -(-kernels // self._panel)
        ends = [kernels * panel // panels for panel in range(panels + 1)]
        return torch.cat([points[..., start:end].flatten() for start, end in itertools.pairwise(ends)])

    def _run(self, maps: Tensor, points: Tensor, bias: Tensor, expected: tuple[int, int], *, pool: bool) -> Tensor:
        blocks, side, _, channels, lanes = maps.shape
        if (side, channels) != expected:
            raise ValueError(f"expected maps of (side, channels) {expected}, given {(side, channels)}")
        to_side = side // 2 if pool else side
        outputs = maps.new_empty(blocks, to_side, to_side, len(bias), lanes)
        addresses = (values.data_ptr() for values in (maps, points, bias, outputs))
        if not self._convolve(blocks, side, channels, len(bias), pool, *addresses):
            raise MemoryError(f"a conv layer of {channels} channels and {len(bias)} kernels")
        return outputs


def _of_weights(side: int) -> tuple[tuple[float, ...], ...]:
    return OF_FOUR if side > 2 else OF_TWO
