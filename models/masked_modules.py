"""The modules of a strong model before they are cut out: its feature maps times masks, differentiable in the masks.

The strong model's weights are frozen. Each module is a graph of its own, so that modules run in threads of one core
each, and what comes before the first mask is computed once for all.
"""

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx

from models.cnn import CNN, Architecture


@dataclass(frozen=True)
class FrozenModel:
    """A strong model's weights in the precision of the search, without gradients."""

    architecture: Architecture
    convs: tuple[tuple[Tensor, Tensor], ...]  # weight, channels-last, and bias of every conv layer
    fcs: tuple[tuple[Tensor, Tensor], ...]  # of every FC layer

    def first_maps(self, images: Tensor) -> Tensor:
        """The first layer's maps after ReLU, before its mask; images (batch, 3, 32, 32) in the weights' precision."""
        maps = F.conv2d(images, *self.convs[0], padding=1)
        return F.max_pool2d(maps, 2).relu() if self.architecture.convs[0].pool else maps.relu()

    def logit(self, first_maps: Tensor, mask: Tensor, target_class: int) -> Tensor:
        """One class's logit (batch,), by the module with this mask (K,) float, 0 = dropped; in the mask's precision."""
        convs, slices = self.architecture.convs, self.architecture.layer_slices
        kept: dict[int, Tensor] = {}
        x = first_maps
        for layer, conv in enumerate(convs):
            if layer > 0:
                x = F.conv2d(x, *self.convs[layer], padding=1)
                if conv.pool:  # maximum, ReLU and mask may change places, since no mask is negative
                    x = F.max_pool2d(x, 2)
            x = _MaskedReLU.apply(x, mask[slices[layer]])
            if conv.add is not None:
                x = x + kept[conv.add]
            if any(later.add == layer for later in convs):
                kept[layer] = x
        features = x.flatten(1)
        for weight, bias in self.fcs[:-1]:
            features = F.linear(features, weight, bias).relu()
        weight, bias = self.fcs[-1]
        return F.linear(features, weight[target_class, None], bias[target_class, None])[:, 0].to(mask.dtype)


def freeze(model: CNN, dtype: torch.dtype) -> FrozenModel:
    """The weights of `model` as the modules' search uses them."""

    def frozen(layer: torch.nn.Conv2d | torch.nn.Linear) -> tuple[Tensor, Tensor]:
        weight, bias = layer.weight.detach().to(dtype), layer.bias.detach().to(dtype)
        return (weight.contiguous(memory_format=torch.channels_last) if weight.ndim == 4 else weight), bias

    return FrozenModel(model.architecture, tuple(map(frozen, model.convs)), tuple(map(frozen, model.fcs)))


def mask_gradient(
    model: FrozenModel, images: Tensor, masks: Tensor, loss: Callable[[Tensor], Tensor], workers: Executor
) -> tuple[Tensor, Tensor]:
    """A loss of the composed model's logits, and its gradient with respect to the masks.

    Args:
        model: the strong model.
        images: (batch, 3, 32, 32) normalised, channels-last, in the model's precision.
        masks: (classes, K) float; module c has row c. Dropped kernels (0) get their gradient too.
        loss: of the logits (batch, classes), a scalar; what else it reads gets its gradient as usual.
        workers: run the modules, one at a time each; the result does not depend on how many they are.

    Returns the loss, detached, and the gradient (classes, K).
    """
    rows = [row.detach().clone().requires_grad_() for row in masks]
    with torch.no_grad():
        first_maps = model.first_maps(images)
    logits = list(workers.map(lambda c: model.logit(first_maps, rows[c], c), range(len(rows))))
    composed = torch.stack([logit.detach() for logit in logits], 1).requires_grad_()
    value = loss(composed)
    value.backward()
    gradients = workers.map(lambda c: torch.autograd.grad(logits[c], rows[c], composed.grad[:, c])[0], range(len(rows)))
    return value.detach(), torch.stack(list(gradients))


class _MaskedReLU(torch.autograd.Function):
    """relu(x) times a mask per kernel; the masks of dropped kernels get a gradient too, in few passes over the maps."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, mask: Tensor) -> Tensor:
        maps, factor = x.relu(), mask.to(x.dtype)[:, None, None]
        ctx.save_for_backward(maps, factor)
        ctx.mask_dtype = mask.dtype
        return maps * factor

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, Tensor]:
        maps, factor = ctx.saved_tensors
        of_mask = (gradient * maps).sum((0, 2, 3), dtype=ctx.mask_dtype)
        if not ctx.needs_input_grad[0]:
            return None, of_mask
        # What autograd calls for a ReLU: ten times as fast as comparing and choosing.
        return torch.ops.aten.threshold_backward(gradient, maps, 0).mul_(factor), of_mask
