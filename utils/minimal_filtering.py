"""A 3x3 convolution with padding 1 by minimal filtering: few multiplications, in matrix products.

After Winograd (Arithmetic Complexity of Computations, 1980) as Lavin and Gray apply it to convolutional networks
(Fast Algorithms for Convolutional Neural Networks, CVPR 2016): along one side of a tile, the convolution is
`to_outputs` times the elementwise product of `to_points` times the map and `of_weights` times the kernel. Along both
sides of the tile, and summed over channels, the elementwise product becomes one matrix product for every pair of
points: 2.25 multiplications per value of a tile of 4x4 in place of 9.

Maps stand in the order (side, side, images, channels) here: then points are made of pixels, and pixels of points, by a
small matrix times a wide one.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Filtering:
    """Minimal filtering along one side of a tile, with three weights.

    Attributes:
        to_points: (points, outputs + 2); the inputs reach one pixel beyond the tile at both ends.
        of_weights: (points, 3).
        to_outputs: (outputs, points); its column `unit` is 1 everywhere, so a bias enters there.
    """

    to_points: tuple[tuple[float, ...], ...]
    of_weights: tuple[tuple[float, ...], ...]
    to_outputs: tuple[tuple[float, ...], ...]
    unit: int

    @property
    def points(self) -> int:
        return len(self.to_points)

    @property
    def outputs(self) -> int:
        return len(self.to_outputs)


# A map of two pixels x, y: by (x + y) b, y (c - b) and x (a - b) it becomes xb + yc, xa + yb.
TWO = Filtering(
    to_points=((0, 1, 1, 0), (0, 0, 1, 0), (0, 1, 0, 0)),
    of_weights=((0, 1, 0), (0, -1, 1), (1, -1, 0)),
    to_outputs=((1, 1, 0), (1, 0, 1)),
    unit=0,
)
# F(4, 3) of Lavin and Gray, section 4.3: a tile of four pixels, at the points 0, 1, -1, 2, -2 and infinity.
FOUR = Filtering(
    to_points=(
        (4, 0, -5, 0, 1, 0),
        (0, -4, -4, 1, 1, 0),
        (0, 4, -4, -1, 1, 0),
        (0, -2, -1, 2, 1, 0),
        (0, 2, -1, -2, 1, 0),
        (0, 4, 0, -5, 0, 1),
    ),
    of_weights=(
        (1 / 4, 0, 0),
        (-1 / 6, -1 / 6, -1 / 6),
        (-1 / 6, 1 / 6, -1 / 6),
        (1 / 24, 1 / 12, 1 / 6),
        (1 / 24, -1 / 12, 1 / 6),
        (0, 0, 1),
    ),
    to_outputs=((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1)),
    unit=1,
)


def filtering_of(side: int) -> Filtering | None:
    """How maps of this side are tiled: of two pixels, or by tiles of four; None where those do not fill them."""
    if side == 2:
        return TWO
    return FOUR if side % 4 == 0 else None


class MinimalConvolution:
    """A layer of fixed weights, whose points are made once.

    Args:
        weight: (kernels, channels, 3, 3), of a floating dtype of 32 bits or more: points are differences of pixels.
        bias: (kernels,).
        side: of the maps, in pixels, for which there is a `filtering_of`.
    """

    def __init__(self, weight: Tensor, bias: Tensor, side: int) -> None:
        filtering = filtering_of(side)
        of_weights, to_outputs, to_points = (
            weight.new_tensor(matrix) for matrix in (filtering.of_weights, filtering.to_outputs, filtering.to_points)
        )
        kernels, channels = weight.shape[:2]
        taps = weight.permute(2, 3, 1, 0).reshape(9, channels * kernels)
        self.weights = torch.mm(torch.kron(of_weights, of_weights), taps).view(-1, channels, kernels)
        self.bias = bias
        self.unit = filtering.unit * (filtering.points + 1)  # the same point along both sides
        self.to_outputs = torch.kron(to_outputs, to_outputs)
        spans = [_Span(start, side, to_points) for start in range(0, side, filtering.outputs)]
        self.side, self.tile = side, filtering.outputs
        self.tiles = [_Tile(rows, columns) for rows in spans for columns in spans]

    def __call__(self, maps: Tensor) -> Tensor:
        """Convolve maps (n, channels, side, side) into (n, kernels, side, side), in memory (side, side, n, kernels)."""
        pixels = maps.permute(2, 3, 0, 1)
        if len(self.tiles) == 1:
            return self._convolve(pixels, self.tiles[0]).permute(2, 3, 0, 1)
        convolved = maps.new_empty(self.side, self.side, len(maps), len(self.bias))
        for tile in self.tiles:
            convolved[tile.outputs] = self._convolve(pixels, tile)
        return convolved.permute(2, 3, 0, 1)

    def _convolve(self, pixels: Tensor, tile: "_Tile") -> Tensor:
        num_points, channels, kernels = self.weights.shape
        images = pixels.shape[2]
        inputs = pixels[tile.inputs].reshape(-1, images * channels)
        points = torch.mm(tile.to_points, inputs).view(num_points, images, channels)
        products = torch.bmm(points, self.weights)
        products[self.unit] += self.bias
        outputs = torch.mm(self.to_outputs, products.view(num_points, images * kernels))
        return outputs.view(self.tile, self.tile, images, kernels)


class _Span:
    """Which pixels a tile reads and writes along one side; padding is not read."""

    def __init__(self, start: int, side: int, to_points: Tensor) -> None:
        reach = to_points.shape[1]
        first, last = max(0, start - 1), min(side, start - 1 + reach)
        self.inputs, self.outputs = slice(first, last), slice(start, start - 2 + reach)
        self.to_points = to_points[:, first - start + 1 : last - start + 1]


class _Tile:
    def __init__(self, rows: _Span, columns: _Span) -> None:
        self.inputs = rows.inputs, columns.inputs
        self.outputs = rows.outputs, columns.outputs
        self.to_points = torch.kron(rows.to_points, columns.to_points)
