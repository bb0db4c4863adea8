"""What stands behind a mask: any operator, and a convolution that is quick where kernels are dropped.

A dropped channel is zero where the convolution reads it, and no gradient comes back to a dropped kernel. So the
convolution reads kept channels only, and on the way back kept kernels' maps only. All maps are made all the same, and
all factors get their gradient.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from modules.fast.masking import Ending, Masking


@dataclass(frozen=True)
class Convolution:
    """A convolution without groups, and what directly follows it."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    ending: Ending
    masking: Masking

    def __call__(
        self, maps: Tensor, weight: Tensor, bias: Tensor | None, factors: Tensor | None, is_heard: Tensor
    ) -> Tensor:
        """The maps (n, kernels, h, w) behind convolution, ReLU and pool. Differentiable in maps and factors.

        Args:
            maps: (n, channels, height, width).
            weight: (kernels, channels, height, width), of the maps' dtype; quickest channels-last, as the maps are.
            bias: (kernels,).
            factors: (1, channels) floating point, 0 = dropped: what the maps are multiplied by; None: nothing.
            is_heard: (kernels,) bool: False only where the result's gradient is known to be 0.
        """
        return _MaskedConvolution.apply(maps, factors, weight, bias, is_heard, self)


class Scaled(torch.autograd.Function):
    """Values times factors (1 or n, channels) along a dimension; the factors' gradient is summed in their precision."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, factors: Tensor, dim: int) -> Tensor:
        ctx.save_for_backward(values, factors)
        ctx.dim = dim
        return values * _along(factors, values, dim)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        values, factors = ctx.saved_tensors
        first = 0 if len(factors) == 1 else 1  # an image's own factors are not summed over images
        others = [dim for dim in range(first, values.dim()) if dim != ctx.dim]
        of_factors = (grad * values).sum(others, dtype=factors.dtype) if others else (grad * values).to(factors.dtype)
        of_factors = of_factors.view(factors.shape)
        return grad * _along(factors, values, ctx.dim) if ctx.needs_input_grad[0] else None, of_factors, None


def _along(factors: Tensor, values: Tensor, dim: int) -> Tensor:
    shape = [len(factors), *[1] * (values.dim() - 1)]
    shape[dim] = factors.shape[1]
    return factors.to(values.dtype).view(shape)


class _MaskedConvolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        maps: Tensor,
        factors: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        is_heard: Tensor,
        layer: Convolution,
    ) -> Tensor:
        read, some_of_weight, masking = maps, weight, layer.masking
        if factors is not None:
            chosen = _chosen(factors[0] != 0, masking.maps_at_once)
            in_weight = factors[0].to(weight.dtype)  # smaller than the maps
            if chosen is not None:
                read, some_of_weight = masking.take(maps, chosen), masking.take(weight, chosen)
                in_weight = in_weight[chosen]
            some_of_weight = some_of_weight * in_weight[:, None, None]
        convolved = F.conv2d(read, some_of_weight, bias, layer.stride, layer.padding, layer.dilation)
        made, where = masking.end(convolved, layer.ending)
        ctx.save_for_backward(maps, factors, weight, is_heard, made, where)
        ctx.layer, ctx.size = layer, convolved.shape[2:]
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        maps, factors, weight, is_heard, made, where = ctx.saved_tensors
        layer, masking = ctx.layer, ctx.layer.masking
        chosen = _chosen(is_heard, masking.maps_at_once)
        if chosen is not None:
            weight = weight.index_select(0, chosen)
        grad = masking.before_end(grad, made, where, chosen, layer.ending, ctx.size)
        geometry = (layer.stride, layer.padding, layer.dilation, False, [0, 0], 1)
        of_maps, _, _ = torch.ops.aten.convolution_backward(grad, maps, weight, None, *geometry, [True, False, False])
        of_factors = None if factors is None else masking.of_factors(of_maps, maps, factors[0])[None]
        return of_maps if ctx.needs_input_grad[0] else None, of_factors, None, None, None, None


def _chosen(is_kept: Tensor, multiple: int) -> Tensor | None:
    """The kept channels (int64), filled up with dropped ones to a multiple; None if those are all."""
    num_channels = len(is_kept)
    num_kept = int(is_kept.sum())
    num_chosen = max(-(-num_kept // multiple), 1) * multiple
    if num_chosen >= num_channels:
        return None
    return is_kept.to(torch.uint8).argsort(descending=True, stable=True)[:num_chosen]
