"""Learned masks: budgets, sets that are never empty, the price's control."""

import itertools

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from search.gradient.scores import (
    Price,
    gradients_of,
    keep_target,
    kept_kernels,
    kept_share,
    masks_of,
    masks_within,
    sizes_of,
    step_size,
)
from torch import Tensor

from models.graph import Units

# Four conv layers and one that is tied to the second; two kernels of the third are always kept. Beside each layer's
# units stand sets that overlap or nest: those of a concatenation and of its halves.
UNIT_OF_KERNEL = np.array([*range(4), *range(4, 10), *range(10, 13), -1, -1, *range(4, 10), *range(13, 19)])
SETS = [range(4), range(4, 10), range(10, 13), range(13, 19), range(2), range(2, 6), range(1, 3), range(19)]
NEVER_EMPTY = tuple(np.array(units) for units in SETS)
UNITS = Units(UNIT_OF_KERNEL, (), (), NEVER_EMPTY, UNIT_OF_KERNEL, np.full(0, -1), 19)
K, ALWAYS_KEPT = len(UNIT_OF_KERNEL), 2

scores = st.integers(0, 2**32 - 1).map(
    lambda seed: torch.tensor(np.random.default_rng(seed).integers(-3, 4, (3, UNITS.num_units)) / 2).float()
)


def highest_of_sets(values: Tensor) -> Tensor:
    """(modules, units) bool: each set's highest score, the first of equal ones."""
    highest = torch.zeros_like(values, dtype=torch.bool)
    for row, of_module in zip(highest, values.tolist(), strict=True):
        for units in SETS:
            row[max(units, key=of_module.__getitem__)] = True
    return highest


def test_kernels_that_are_tied_or_always_kept_count_in_the_share() -> None:
    assert sizes_of(UNITS).tolist() == [1] * 4 + [2] * 6 + [1] * 9
    masks = torch.zeros(2, UNITS.num_units, dtype=torch.bool)
    assert kept_share(masks, UNITS) == pytest.approx(ALWAYS_KEPT / K)
    masks[0, [0, 4]] = True
    assert kept_kernels(masks, UNITS).tolist() == [3 + ALWAYS_KEPT, ALWAYS_KEPT]
    assert kept_share(masks, UNITS) == pytest.approx(UNITS.spread(masks.numpy()).mean())


@given(scores)
def test_what_is_above_zero_is_kept_and_no_set_is_empty(values: Tensor) -> None:
    masks, highest = masks_of(values, UNITS), highest_of_sets(values)
    assert torch.equal(masks[~highest], values[~highest] > 0)
    assert masks[highest].all()
    assert all(masks[:, units].any(1).all() for units in NEVER_EMPTY)


@given(scores, st.floats(0, 1))
def test_a_budget_drops_the_lowest_scores_and_no_more_than_it_must(values: Tensor, keep: float) -> None:
    before, masks, protected = masks_of(values, UNITS), masks_within(values, UNITS, keep), highest_of_sets(values)
    dropped = before & ~masks
    assert not (masks & ~before).any()
    assert masks[protected].all()
    assert kept_share(masks, UNITS) <= keep + 1e-6 or not (masks & ~protected).any()
    if not dropped.any():
        return
    # Back with the one that was dropped last, the budget would be passed.
    highest = values[dropped].max()
    sizes = sizes_of(UNITS).expand_as(values)[dropped & (values == highest)]
    assert kept_share(masks, UNITS) + float(sizes.max()) / (3 * K) > keep
    assert (values[masks & ~protected] >= highest).all()


def test_all_kernels_may_stay() -> None:
    values = torch.ones(3, UNITS.num_units)
    assert masks_within(values, UNITS, 1.0).all()
    assert kept_share(masks_within(values, UNITS, 0.5), UNITS) == pytest.approx(0.5, abs=2 / (3 * K))
    # The first units of the sets: 0, 4 (of two kernels), 10, 13, 2, 1.
    assert kept_share(masks_within(values, UNITS, 0.0), UNITS) == pytest.approx((7 + ALWAYS_KEPT) / K)


def test_a_round_goes_down_and_comes_to_rest() -> None:
    targets = [keep_target(0.8, 0.6, step / 100) for step in range(101)]
    assert targets[0] == 0.8
    assert all(after <= before for before, after in itertools.pairwise(targets))
    assert targets[50:] == pytest.approx([0.6] * 51)
    assert step_size(0.01, 0.0) == 0.01
    assert step_size(0.01, 1.0) == pytest.approx(0)


def test_the_price_brings_the_kept_share_to_its_target() -> None:
    """Kernels that are worth 0 to 1 each: those that are worth less than the price go, bit by bit."""
    price, kept = Price(), 1.0
    for _ in range(2000):
        kept += 0.1 * ((1 - min(1.0, price.now(kept, 0.4))) - kept)
        price = price.next(kept, 0.4)
    assert kept == pytest.approx(0.4, abs=0.01)
    assert Price(0.1).next(0.2, 0.9).level == pytest.approx(0.065)
    assert Price(0.0).next(0.2, 0.9).level < 0  # a reward


def test_the_gradient_of_gains_and_scores() -> None:
    """Against the slope of a loss of the factors, and that of a kept unit's score is what its whole map is worth."""
    generator = torch.Generator().manual_seed(0)
    log_gains, weights = (torch.randn(3, 19, generator=generator, dtype=torch.double) for _ in range(2))
    masks, folds = (torch.rand(3, 19, generator=generator) < 0.6 for _ in range(2))
    folds = folds[0]

    def loss(masks: Tensor, log_gains: Tensor) -> Tensor:
        return (weights * masks * log_gains.where(folds, 0).exp()).sin().sum()

    log_gains = log_gains.where(folds, 0)  # a gain that has to stay 1 never leaves it
    factors = (masks * log_gains.exp()).requires_grad_()
    (of_factors,) = torch.autograd.grad((weights * factors).sin().sum(), factors)
    of_scores, of_gains = gradients_of(masks, log_gains, of_factors, folds)
    step = 1e-6
    for place in itertools.product(range(3), range(19)):
        moved = torch.zeros_like(log_gains)
        moved[place] = step
        slope = (loss(masks.double(), log_gains + moved) - loss(masks.double(), log_gains - moved)) / (2 * step)
        assert abs(of_gains[place] - slope) < 1e-8
        slope = (loss(masks.double() + moved, log_gains) - loss(masks.double() - moved, log_gains)) / (2 * step)
        assert abs(of_scores[place] - slope) < 1e-8
