"""The modules of a strong model before they are cut out: its feature maps times masks, and the masks' gradient.

The strong model's weights are frozen. Each module is a run of its own, so that modules run in threads of one core
each, and what comes before the first mask is computed once for all. A dropped kernel's map is zero for the layer behind
it, and no gradient comes back through it. So a layer's maps stand in order, kept ones first, and a convolution reads
no others, on the way there and on the way back; but all maps are made, and all masks get their gradient.
"""

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from models.cnn import CNN, Architecture
from torch import Tensor

# A convolution reads a multiple of so many maps: what fills a processor's vectors, and few enough widths for the
# convolution library to keep the code that it makes for each.
MAPS_AT_ONCE = 8


@dataclass(frozen=True)
class FrozenConv:
    """A conv layer's weights (outputs, 3, 3, inputs), of which outputs and inputs are quick to choose."""

    weight: Tensor  # (kernels, 3, 3, channels)
    turned: Tensor  # (channels, 3, 3, kernels): makes the gradient of the channels' maps of that of the kernels' maps
    bias: Tensor  # (kernels,)


@dataclass(frozen=True)
class FrozenModel:
    """A strong model's weights in the precision of the search, without gradients."""

    architecture: Architecture
    convs: tuple[FrozenConv, ...]
    fcs: tuple[tuple[Tensor, Tensor], ...]  # weight and bias of every FC layer

    @torch.no_grad()
    def first_maps(self, images: Tensor) -> Tensor:
        """The first layer's maps after ReLU, before its mask; images (batch, 3, 32, 32) in the weights' precision."""
        weight, bias = self.convs[0].weight.permute(0, 3, 1, 2), self.convs[0].bias
        maps = F.conv2d(images, weight, bias, padding=1)
        return F.max_pool2d(maps, 2).relu() if self.architecture.convs[0].pool else maps.relu()

    def classify(self, features: Tensor, target_class: int) -> Tensor:
        """One class's logit (batch,) of the last maps (batch, kernels, side, side)."""
        x = features.flatten(1)
        for weight, bias in self.fcs[:-1]:
            x = F.linear(x, weight, bias).relu()
        weight, bias = self.fcs[-1]
        return F.linear(x, weight[target_class, None], bias[target_class, None])[:, 0]


def freeze(model: CNN, dtype: torch.dtype) -> FrozenModel:
    """The weights of `model` as the modules' search uses them."""

    def frozen_conv(conv: torch.nn.Conv2d) -> FrozenConv:
        weight = conv.weight.detach().to(dtype)
        turned = weight.flip(2, 3).transpose(0, 1)
        weight, turned = (values.permute(0, 2, 3, 1).contiguous() for values in (weight, turned))
        return FrozenConv(weight, turned, conv.bias.detach().to(dtype))

    fcs = [(fc.weight.detach().to(dtype), fc.bias.detach().to(dtype)) for fc in model.fcs]
    return FrozenModel(model.architecture, tuple(map(frozen_conv, model.convs)), tuple(fcs))


@dataclass(frozen=True)
class Order:
    """The order in which a layer's maps stand."""

    kernels: Tensor  # (kernels,) int64: whose map stands where, kept ones first
    num_read: int  # how many of the maps the next layer reads

    @property
    def read(self) -> Tensor:
        """The kernels whose maps the next layer reads."""
        return self.kernels[: self.num_read]


@dataclass(frozen=True)
class ModuleRun:
    """What one module made of one batch, as far as the way back needs it."""

    orders: list[Order]  # of each layer
    factors: list[Tensor]  # of each layer (kernels, 1, 1): its mask, in order
    maps: list[Tensor]  # of each layer: all maps after ReLU and pooling, before the mask, in order
    pooled: list[tuple[Tensor, Tensor] | None]  # of each layer with a pool: its maps before it, where the largest stand
    features: Tensor  # the last maps, after the mask
    logit: Tensor  # (batch,) of the target class, in the mask's precision; differentiable in the features


@torch.no_grad()
def run_module(model: FrozenModel, first_maps: Tensor, mask: Tensor, target_class: int) -> ModuleRun:
    """Run the module with this mask (K,) float, 0 = dropped, on a batch's `first_maps`."""
    architecture = model.architecture
    orders = _orders(architecture, mask != 0)
    factors = [
        mask[of_layer][order.kernels, None, None].to(first_maps.dtype)
        for of_layer, order in zip(architecture.layer_slices, orders, strict=True)
    ]
    maps, pooled = [first_maps], [None]
    outputs: list[Tensor] = []  # of each layer the maps that are read, after mask and addition
    for layer, conv in enumerate(architecture.convs):
        order, num_read = orders[layer], orders[layer].num_read
        if layer > 0:
            frozen = model.convs[layer]
            x = _convolve(outputs[-1], frozen.weight, order.kernels, orders[layer - 1].read, frozen.bias)
            # Maximum, ReLU and mask may change places, since no mask is negative.
            before, (x, where) = x, F.max_pool2d_with_indices(x, 2) if conv.pool else (x, None)
            maps.append(x.relu())
            pooled.append((before, where) if conv.pool else None)
        output = maps[layer][:, :num_read] * factors[layer][:num_read]
        outputs.append(output if conv.add is None else output + outputs[conv.add])
    features = outputs[-1].requires_grad_()
    with torch.enable_grad():
        logit = model.classify(features, target_class).to(mask.dtype)
    return ModuleRun(orders, factors, maps, pooled, features, logit)


def gradient_of_run(model: FrozenModel, run: ModuleRun, of_logit: Tensor) -> Tensor:
    """The gradient (K,) with respect to a run's mask, dropped kernels' too, from that of its logit (batch,)."""
    architecture = model.architecture
    gradient = torch.empty(architecture.total_kernels, dtype=of_logit.dtype, device=of_logit.device)
    (of_output,) = torch.autograd.grad(run.logit, run.features, of_logit)
    of_added: dict[int, Tensor] = {}  # what comes back to earlier layers through additions
    for layer in reversed(range(len(architecture.convs))):
        conv, order = architecture.convs[layer], run.orders[layer]
        if layer in of_added:
            of_output = of_output + of_added.pop(layer)
        if conv.add is not None:
            of_added[conv.add] = of_added.get(conv.add, 0) + of_output
        of_mask = (of_output * run.maps[layer]).sum((0, 2, 3), dtype=gradient.dtype)
        gradient[architecture.layer_slices[layer]] = torch.empty_like(of_mask).index_copy_(0, order.kernels, of_mask)
        if layer > 0:
            some = slice(order.num_read)
            of_maps = of_output[:, some] * run.factors[layer][some]
            of_maps = torch.ops.aten.threshold_backward(of_maps, run.maps[layer][:, some], 0)
            if conv.pool:
                before, where = run.pooled[layer]
                of_maps = torch.ops.aten.max_pool2d_with_indices_backward(
                    of_maps, before[:, some], [2, 2], [2, 2], [0, 0], [1, 1], False, where[:, some]
                )
            of_output = _convolve(of_maps, model.convs[layer].turned, run.orders[layer - 1].kernels, order.read)
    return gradient


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
    classes = range(len(masks))
    first_maps = model.first_maps(images)
    runs = list(workers.map(lambda c: run_module(model, first_maps, masks[c], c), classes))
    composed = torch.stack([run.logit.detach() for run in runs], 1).requires_grad_()
    value = loss(composed)
    value.backward()
    gradients = workers.map(lambda c: gradient_of_run(model, runs[c], composed.grad[:, c]), classes)
    return value.detach(), torch.stack(list(gradients))


def _orders(architecture: Architecture, is_kept: Tensor) -> list[Order]:
    """Of each layer the kept kernels, then dropped ones. Tied layers, whose maps are added, have one order.

    The first layer's maps are made for all modules, and the last one's are read by the FC layers: both stay as they
    are, and all of them are read.
    """
    tied_to, slices = architecture.tied_to, architecture.layer_slices
    as_they_are = (tied_to[0], tied_to[-1])
    order_of: dict[int, Order] = {}
    for first in architecture.free_layers:
        is_read = torch.stack([is_kept[slices[layer]] for layer, f in enumerate(tied_to) if f == first]).any(0)
        num_kernels = len(is_read)
        if first in as_they_are:
            order_of[first] = Order(torch.arange(num_kernels, device=is_read.device), num_kernels)
        else:
            kept_first = is_read.float().argsort(descending=True, stable=True)
            num_read = -(-int(is_read.sum()) // MAPS_AT_ONCE) * MAPS_AT_ONCE
            order_of[first] = Order(kept_first, min(max(num_read, MAPS_AT_ONCE), num_kernels))
    return [order_of[first] for first in tied_to]


def _convolve(maps: Tensor, weight: Tensor, outputs: Tensor, inputs: Tensor, bias: Tensor | None = None) -> Tensor:
    """A convolution from maps of the `inputs` to maps of the `outputs`, by their part of weights (all, 3, 3, all)."""
    rows = weight.index_select(0, outputs)
    part = rows.flatten(0, 2).index_select(1, inputs).view(*rows.shape[:3], len(inputs))
    return F.conv2d(maps, part.permute(0, 3, 1, 2), None if bias is None else bias[outputs], padding=1)
