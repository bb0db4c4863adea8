"""Which units a module drops next: the mathematics, without a network.

A unit's saliency is the mean squared gradient of the module's logit with respect to a gate in front of what reads the
unit's maps: how much the logit changes where the unit is dropped, to first order. It differs from its source (Molchanov
et al., "Importance Estimation for Neural Network Pruning", CVPR 2019, equation 8) in that it is of the logit, not of
the loss: a round begins near the loss's minimum, where its gradients are noise. Saliency is compared per kernel or per
floating-point operation that the unit costs.
"""

import torch
from torch import Tensor

from models.graph import Size, Units
from utils.errors import UserError

DESCENT = 0.25  # the share of a round in which units are dropped; in the rest the weights adapt
DROPS = 16  # how many times a round drops units
MEMORY = 0.9  # the weight of the steps before in the running mean of the squared gradients


def drops_after(step: int, steps: int) -> bool:
    """Whether units are dropped after a step (0 to steps - 1) of a round."""
    return drops_done(step + 1, steps) > drops_done(step, steps)


def drops_done(steps_done: int, steps: int) -> int:
    """How many of its drops a round has done; a short round has as many as it has steps in the descent."""
    descent = max(1, int(steps * DESCENT))
    drops = min(DROPS, descent)
    return min(drops, steps_done * drops // descent)


def keep_target(before: float, keep: float, steps_done: int, steps: int) -> float:
    """The share to keep after some steps of a round from `before` to `keep`: quickly at first (a cubic).

    As in Zhu and Gupta, "To prune, or not to prune", arXiv 1710.01878, equation 1.
    """
    drops = min(DROPS, max(1, int(steps * DESCENT)))
    left = 1 - drops_done(steps_done, steps) / drops
    return keep + (before - keep) * left**3


def mask_within(mask: Tensor, saliency: Tensor, units: Units, size: Size, keep: float) -> Tensor:
    """The mask without the least salient units, so that at most `keep` is kept, and not less than needed for that.

    The most salient unit of what must not become empty stays, whatever `keep` says: a module is never cut through.

    Args:
        mask: (units,) bool, True = kept.
        saliency: (units,) float, not negative.
        units: of the strong model.
        size: of a mask, to which `keep` refers.
        keep: the largest share.

    Raises UserError for a share that what is always kept exceeds.
    """

    def is_enough(smaller: Tensor) -> bool:
        return float(size(smaller.float())) <= keep + 1e-6  # float's rounding is no kernel's size

    if is_enough(mask):
        return mask
    if (least := float(size(torch.zeros(len(mask))))) > keep + 1e-6:
        raise UserError(f"to keep {keep:.1%}: expected at least {least:.1%}, what always stays costs that")
    cost = torch.func.grad(size)(mask.float())
    rank = (saliency / cost.clamp(min=1e-12)).where(mask, torch.tensor(-1.0))
    may_go = mask.clone()
    for of_set in map(torch.as_tensor, units.never_empty):
        may_go[of_set[rank[of_set].argmax()]] = False
    lowest_first = rank.where(may_go, torch.tensor(torch.inf)).argsort(stable=True)[: int(may_go.sum())]

    def without(count: int) -> Tensor:
        return mask.index_fill(0, lowest_first[:count], False)

    least, most = 0, len(lowest_first)  # bisection: without `most` the size is small enough, or as small as it gets
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (least, middle) if is_enough(without(middle)) else (middle, most)
    return without(most)
