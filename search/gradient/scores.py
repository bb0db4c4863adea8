"""Kernel masks learned by gradient: the mathematics, without a network.

One real number, a score, per unit and module; a unit's kernels are kept while its score is above 0. The loss's gradient
with respect to the mask is taken for that of the score (straight-through: Bengio et al., arXiv 1308.3432, as in
GradSplitter, arXiv 2311.04438), so that dropped units hear what they would be good for, and may come back.

Beside it stands a gain, by which a kept unit's maps are multiplied, so that few of them speak as loudly as all did. It
is learned by its logarithm: it stays positive, and halving is as far as doubling.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from models.graph import Units

PRICE_STEP = 0.05  # by how much the price of kernels rises per step and share of kernels above the target
PRICE_SLOPE = 5.0  # and by how much it stands higher at once, so that the share does not swing around the target
DESCENT = 0.5  # the share of a round in which the target goes down; in the rest the masks settle


def sizes_of(units: Units) -> Tensor:
    """(units,) float32: how many kernels each unit has."""
    return torch.as_tensor(units.sizes).float()


def kept_kernels(masks: Tensor, units: Units) -> Tensor:
    """(modules,): how many of the K kernels masks (modules, units) keep. Those that are always kept count, too."""
    always_kept = units.num_kernels - sizes_of(units).sum()
    return (masks * sizes_of(units)).sum(1) + always_kept


def kept_share(masks: Tensor, units: Units) -> float:
    """The share of all modules' kernels that masks (modules, units) keep."""
    return float(kept_kernels(masks, units).sum()) / (len(masks) * units.num_kernels)


def masks_of(scores: Tensor, units: Units) -> Tensor:
    """Masks (modules, units) bool of scores (modules, units): those above 0, and where none would be left, the highest.

    Some units must never be dropped all at once: those of a conv layer, and whatever else needs a channel.
    """
    return (scores > 0) | _highest_where_needed(scores, units)


def masks_within(scores: Tensor, units: Units, keep: float) -> Tensor:
    """The masks of `masks_of`, less the lowest scores until at most `keep` of these modules' kernels are kept.

    The highest score of a layer stays, whatever `keep` says: a module is never cut through. Kernels that are always
    kept count as kept.
    """
    masks = masks_of(scores, units)
    surplus = float(kept_kernels(masks, units).sum()) - keep * len(masks) * units.num_kernels
    may_go = (masks & ~_highest_where_needed(scores, units)).flatten()
    lowest_first = scores.flatten().where(may_go, math.inf).argsort(stable=True)[: int(may_go.sum())]
    size = sizes_of(units).repeat(len(scores))[lowest_first]
    dropped_before = size.cumsum(0) - size
    masks.view(-1)[lowest_first[dropped_before < surplus - 1e-3]] = False  # a hair's surplus is float's, no kernel's
    return masks


def _highest_where_needed(scores: Tensor, units: Units) -> Tensor:
    """(modules, units) bool: of every set that must not become empty its highest score, the first of equal ones."""
    highest = torch.zeros_like(scores, dtype=torch.bool)
    for of_set in map(torch.as_tensor, units.never_empty):
        highest.scatter_(1, of_set[scores[:, of_set].argmax(1, keepdim=True)], True)
    return highest


def gradients_of(masks: Tensor, log_gains: Tensor, of_factors: Tensor, folds_gains: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of the scores and of the log-gains, by the chain rule through the factors masks * exp(log_gains).

    Args:
        masks: (modules, units) bool, for which the scores' gradient stands (straight-through).
        log_gains: (modules, units) float32.
        of_factors: (modules, units) float32: the gradient of the factors.
        folds_gains: (units,) bool: False where a gain has to stay 1.
    """
    of_masks = of_factors * log_gains.exp()
    return of_masks, of_masks * (masks & folds_gains)


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
