"""Learned masks: budgets, layers that are never empty, the overlap's gradient, the price's control."""

import itertools

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from random_modules import tied_architecture
from torch import Tensor

from modules.jaccard import mean_pairwise_distance
from search.gradient.scores import (
    FreeKernels,
    Price,
    free_kernels,
    keep_target,
    masks_of,
    masks_within,
    mean_similarity,
    step_size,
)

NUM_KERNELS, TIED_TO = (4, 6, 5, 6, 6), (0, 1, 2, 1, 4)  # layer 3 is tied to layer 1
KERNELS = free_kernels(tied_architecture(NUM_KERNELS, TIED_TO))
K = sum(NUM_KERNELS)

scores = st.integers(0, 2**32 - 1).map(
    lambda seed: torch.tensor(np.random.default_rng(seed).integers(-3, 4, (3, len(KERNELS.size))) / 2).float()
)


def layers_of(masks: Tensor, kernels: FreeKernels) -> list[Tensor]:
    """Per conv layer the masks (modules, kernels)."""
    return list(kernels.spread(masks).split(NUM_KERNELS, 1))


def test_tied_layers_share_their_kernels() -> None:
    assert KERNELS.layers == (slice(0, 4), slice(4, 10), slice(10, 15), slice(15, 21))
    assert KERNELS.size.tolist() == [1] * 4 + [2] * 6 + [1] * 11
    values = torch.arange(21.0)[None]
    spread = KERNELS.spread(values)
    assert torch.equal(spread[:, 4:10], spread[:, 15:21])
    assert torch.equal(KERNELS.gather(spread), values * KERNELS.size)


@given(scores)
def test_what_is_above_zero_is_kept_and_no_layer_is_empty(values: Tensor) -> None:
    masks = masks_of(values, KERNELS)
    for layer in KERNELS.layers:
        positive = values[:, layer] > 0
        some = positive.any(1)
        assert torch.equal(masks[some, layer], positive[some])
        assert (masks[~some, layer].sum(1) == 1).all()
        assert (values[:, layer].max(1).values[~some] == (values[:, layer] * masks[:, layer]).sum(1)[~some]).all()


@given(scores, st.floats(0, 1))
def test_a_budget_drops_the_lowest_scores_and_no_more_than_it_must(values: Tensor, keep: float) -> None:
    before, masks = masks_of(values, KERNELS), masks_within(values, KERNELS, keep)
    dropped = before & ~masks
    assert not (masks & ~before).any()
    assert all(layer.any(1).all() for layer in layers_of(masks, KERNELS))
    if not dropped.any():
        return
    # Back with the one that was dropped last, the budget would be passed.
    highest = values[dropped].max()
    sizes = KERNELS.size.expand_as(values)[dropped & (values == highest)]
    assert KERNELS.kept_share(masks) + float(sizes.max()) / (3 * K) > keep
    protected = torch.zeros_like(masks)
    for layer in KERNELS.layers:
        protected.scatter_(1, layer.start + values[:, layer].argmax(1, keepdim=True), True)
    assert (values[masks & ~protected] >= highest).all()
    assert KERNELS.kept_share(masks) <= keep + 1e-6 or not (masks & ~protected).any()


def test_all_kernels_may_stay() -> None:
    values = torch.ones(3, len(KERNELS.size))
    assert masks_within(values, KERNELS, 1.0).all()
    assert KERNELS.kept_share(masks_within(values, KERNELS, 0.5)) == pytest.approx(0.5, abs=2 / (3 * K))
    assert KERNELS.kept_share(masks_within(values, KERNELS, 0.0)) == pytest.approx(5 / K)


@given(scores)
def test_similarity_is_one_less_the_jaccard_distance(values: Tensor) -> None:
    masks = masks_of(values, KERNELS)
    distance = mean_pairwise_distance(KERNELS.spread(masks).numpy())
    assert float(mean_similarity(masks.double(), KERNELS)) == pytest.approx(1 - distance, abs=1e-6)


def test_the_similaritys_gradient_is_its_slope() -> None:
    masks = (torch.rand(4, len(KERNELS.size), generator=torch.Generator().manual_seed(1)) + 0.1).double()
    kernels = FreeKernels(KERNELS.of_kernel, KERNELS.size.double(), KERNELS.layers)
    assert torch.autograd.gradcheck(lambda m: mean_similarity(m, kernels), (masks.requires_grad_(),))


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
