"""Kernel masks learned by gradient: the mathematics, without a network.

One real number, a score, per free kernel and module; a kernel is kept while its score is above 0. The loss's gradient
with respect to the mask is taken for that of the score (straight-through: Bengio et al., arXiv 1308.3432, as in
GradSplitter, arXiv 2311.04438), so that dropped kernels hear what they would be good for, and may come back.
"""

import math
from dataclasses import dataclass

import torch
from models.cnn import Architecture
from torch import Tensor

PRICE_STEP = 0.05  # by how much the price of kernels rises per step and share of kernels above the target
PRICE_SLOPE = 5.0  # and by how much it stands higher at once, so that the share does not swing around the target
DESCENT = 0.5  # the share of a round in which the target goes down; in the rest the masks settle


@dataclass(frozen=True)
class FreeKernels:
    """The F kernels that are decided over: those of layers that are not tied to an earlier one."""

    of_kernel: Tensor  # (K,) int64: the free kernel that decides over each kernel
    size: Tensor  # (F,) float32: how many kernels each decides over
    layers: tuple[slice, ...]  # of each free layer

    def spread(self, values: Tensor) -> Tensor:
        """(modules, F) -> (modules, K): what holds for a free kernel holds for those tied to it."""
        return values[:, self.of_kernel]

    def gather(self, gradient: Tensor) -> Tensor:
        """(modules, K) -> (modules, F): the sum over the kernels that each decides over: the gradient of `spread`."""
        zeros = torch.zeros(len(gradient), len(self.size), dtype=gradient.dtype)
        return zeros.index_add(1, self.of_kernel, gradient)

    def kept_share(self, masks: Tensor) -> float:
        """The share of all modules' kernels that masks (modules, F) keep."""
        return float((masks * self.size).sum()) / (len(masks) * len(self.of_kernel))


def free_kernels(architecture: Architecture) -> FreeKernels:
    """The kernels of a network that are decided over."""
    num_kernels, tied_to = architecture.num_kernels, architecture.tied_to
    starts: dict[int, int] = {}
    total = 0
    for layer, (width, first) in enumerate(zip(num_kernels, tied_to, strict=True)):
        if layer == first:
            starts[layer] = total
            total += width
    indices = [starts[first] + torch.arange(width) for width, first in zip(num_kernels, tied_to, strict=True)]
    of_kernel = torch.cat(indices)
    layers = tuple(slice(start, start + num_kernels[layer]) for layer, start in starts.items())
    return FreeKernels(of_kernel, torch.bincount(of_kernel, minlength=total).float(), layers)


def masks_of(scores: Tensor, kernels: FreeKernels) -> Tensor:
    """Masks (modules, F) bool of scores (modules, F): those above 0, and in a layer without any, the highest."""
    return (scores > 0) | _highest_of_layers(scores, kernels)


def masks_within(scores: Tensor, kernels: FreeKernels, keep: float) -> Tensor:
    """The masks of `masks_of`, less the lowest scores of all modules until at most `keep` of the kernels are kept.

    The highest score of a layer stays, whatever `keep` says: a module is never cut through.
    """
    masks = masks_of(scores, kernels)
    surplus = float((masks * kernels.size).sum()) - keep * len(masks) * len(kernels.of_kernel)
    may_go = (masks & ~_highest_of_layers(scores, kernels)).flatten()
    lowest_first = scores.flatten().where(may_go, math.inf).argsort(stable=True)[: int(may_go.sum())]
    size = kernels.size.repeat(len(scores))[lowest_first]
    dropped_before = size.cumsum(0) - size
    masks.view(-1)[lowest_first[dropped_before < surplus - 1e-3]] = False  # a hair's surplus is float's, no kernel's
    return masks


def _highest_of_layers(scores: Tensor, kernels: FreeKernels) -> Tensor:
    """(modules, F) bool: each layer's highest score, the first of equal ones."""
    highest = torch.zeros_like(scores, dtype=torch.bool)
    for layer in kernels.layers:
        highest.scatter_(1, layer.start + scores[:, layer].argmax(1, keepdim=True), True)
    return highest


def mean_similarity(masks: Tensor, kernels: FreeKernels) -> Tensor:
    """The mean Jaccard similarity of all pairs of modules, of masks (modules, F) float; differentiable in them."""
    shared = (masks * kernels.size) @ masks.T
    kept = (masks * kernels.size).sum(1)
    pairs = torch.triu_indices(len(masks), len(masks), 1)
    united = kept[pairs[0]] + kept[pairs[1]] - shared[pairs[0], pairs[1]]
    return (shared[pairs[0], pairs[1]] / united).mean()


def keep_target(before: float, keep: float, progress: float) -> float:
    """The share of kernels to keep after `progress` (0 to 1) of a round that goes from `before` down to `keep`."""
    return before + (keep - before) * min(1.0, progress / DESCENT)


def step_size(largest: float, progress: float) -> float:
    """The step size after `progress` (0 to 1) of a round: a cosine down to 0, so that masks come to rest."""
    return largest * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class Price:
    """What keeping a kernel costs: a proportional-integral controller that holds the kept share at its target.

    Below the target it is a reward. Without one, an over-confident model's loss alone drops kernels: fewer of them
    mean smaller logits, which cost less where it is wrong.
    """

    level: float = 0.0

    def next(self, kept: float, target: float) -> "Price":
        """The level after a step with that kept share."""
        return Price(self.level + PRICE_STEP * (kept - target))

    def now(self, kept: float, target: float) -> float:
        """The loss that a module's whole kernels count for at the moment."""
        return self.level + PRICE_SLOPE * (kept - target)
