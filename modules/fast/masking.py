"""What stands around a convolution whose kernels are masked, there and back: choosing channels, ReLU, max-pooling, and
the gradient of the factors that its maps are multiplied by.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Ending:
    """What directly follows a convolution. ReLU and the maximum may change places."""

    is_rectified: bool
    pool: tuple[Any, ...] | None  # kernel size, stride, padding, dilation, ceil_mode, as torch's max_pool2d has them


class Masking:
    """By torch, on any device and of any dtype. Maps are (n, channels, height, width), quickest channels-last."""

    # A convolution reads a multiple of so many maps: what fills a processor's vectors, and few enough widths for the
    # convolution library to keep the code that it makes for each.
    maps_at_once = 8

    def take(self, values: Tensor, chosen: Tensor) -> Tensor:
        """The `chosen` channels (int64) of values, channels-last."""
        n, channels, height, width = values.shape
        rows = values.permute(0, 2, 3, 1).reshape(-1, channels)  # torch is quick along the last of two dimensions
        return rows.index_select(1, chosen).view(n, height, width, len(chosen)).permute(0, 3, 1, 2)

    def end(self, made: Tensor, ending: Ending) -> tuple[Tensor, Tensor | None]:
        """A convolution's maps behind its ending, and of a pool where its values come from; may change the maps."""
        where = None
        if ending.pool is not None:
            made, where = torch.ops.aten.max_pool2d_with_indices(made, *ending.pool)
        return made.relu_() if ending.is_rectified else made, where

    def before_end(
        self,
        grad: Tensor,
        made: Tensor,
        where: Tensor | None,
        chosen: Tensor | None,
        ending: Ending,
        size: tuple[int, int],
    ) -> Tensor:
        """Back from the gradient behind an ending to that in front of it: (n, chosen, height, width).

        Args:
            grad: of what `end` gave, made and where.
            chosen: the channels (int64) that are asked for; None: all.
            size: height and width in front of it.
        """
        is_read = made if ending.is_rectified else None
        if chosen is not None:
            grad = self.take(grad, chosen)
            is_read, where = (None if values is None else self.take(values, chosen) for values in (is_read, where))
        if is_read is not None:
            grad = torch.ops.aten.threshold_backward(grad, is_read, 0)
        if where is not None:
            # Only its shape and the order of its memory count.
            unpooled = grad.new_empty(len(grad), *size, grad.shape[1]).permute(0, 3, 1, 2)
            grad = torch.ops.aten.max_pool2d_with_indices_backward(grad, unpooled, *ending.pool, where)
        return grad

    def of_factors(self, of_maps: Tensor, maps: Tensor, factors: Tensor) -> Tensor:
        """The gradient (channels,) of factors (channels,), in their dtype, by that of maps times factors.

        That of the maps themselves is in `of_maps` afterwards.
        """
        of_factors = (of_maps * maps).sum((0, 2, 3), dtype=factors.dtype)
        of_maps.mul_(factors.to(of_maps.dtype)[:, None, None])
        return of_factors
