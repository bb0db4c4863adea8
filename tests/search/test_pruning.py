"""Which units a module drops: no more than needed, the least salient ones, and never all of what must not be empty."""

from itertools import pairwise

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from awkward_networks import FixedSizes, PaddedShortcuts, Shuffled, UpAndDown
from exactness import random_mask, traced
from hypothesis import given
from random_modules import units_of_layers

from models.graph import flops_share, kernels_share
from search.gradient.pruning import drops_after, drops_done, keep_target, mask_within
from utils.errors import UserError

NETWORKS = (FixedSizes, PaddedShortcuts, Shuffled, UpAndDown)
ROUNDING = 1e-5  # of a size in float32


@given(
    network=st.sampled_from(NETWORKS),
    budget=st.sampled_from(["kernels", "flops"]),
    seed=st.integers(0, 2**32 - 1),
    share=st.sampled_from([0.3, 0.8, 1.0]),
    keep=st.floats(0.01, 1),
    ties=st.booleans(),
)
def test_the_least_salient_units_go_and_no_more_than_needed(
    network: type, budget: str, seed: int, share: float, keep: float, ties: bool
) -> None:
    _, graph = traced(network)
    units = graph.units
    size = flops_share(graph, 1) if budget == "flops" else kernels_share(units)
    mask = torch.as_tensor(random_mask(graph, seed, share))
    saliency = torch.as_tensor(np.random.default_rng(seed).exponential(size=graph.num_units)).float()
    saliency = saliency.round() if ties else saliency
    if float(size(torch.zeros(graph.num_units))) > keep + 1e-6 and float(size(mask.float())) > keep + 1e-6:
        with pytest.raises(UserError, match="what always stays costs that"):
            mask_within(mask, saliency, units, size, keep)
        return
    found = mask_within(mask, saliency, units, size, keep)

    assert not (found & ~mask).any()
    units.check(found.numpy())
    rank = saliency / torch.func.grad(size)(mask.float()).clamp(min=1e-12)
    needed = {
        max((unit for unit in of_set if mask[unit]), key=lambda unit: (float(rank[unit]), -unit))
        for of_set in map(np.ndarray.tolist, units.never_empty)
    }
    may_go = [unit for unit in torch.nonzero(found)[:, 0].tolist() if unit not in needed]
    dropped = torch.nonzero(mask & ~found)[:, 0].tolist()
    assert needed <= set(torch.nonzero(found)[:, 0].tolist())
    assert float(size(found.float())) <= keep + ROUNDING or not may_go
    if dropped:
        last = max(dropped, key=lambda unit: (float(rank[unit]), unit))
        assert float(size(found.index_fill(0, torch.tensor([last]), True).float())) > keep
        assert all(rank[unit] >= rank[last] for unit in may_go)


def test_a_mask_that_keeps_just_the_share_stays() -> None:
    """Whatever float32 makes of the share."""
    units, every = units_of_layers([list(range(50))]), torch.ones(50, dtype=torch.bool)
    size, saliency = kernels_share(units), torch.arange(50.0)
    for kept in range(1, 50):
        mask = torch.arange(50) < kept
        assert torch.equal(mask_within(mask, saliency, units, size, kept / 50), mask)
        assert int(mask_within(every, saliency, units, size, kept / 50).sum()) == kept


def test_of_equally_salient_units_the_dearer_ones_go_first() -> None:
    units = units_of_layers([[0, 1, 1, 1, 2, 2, 3, 3], [0, 4, 5]])
    mask, saliency = torch.ones(6, dtype=torch.bool), torch.ones(6)
    kept = [
        mask_within(mask, saliency, units, kernels_share(units), count / 11).nonzero()[:, 0].tolist()
        for count in (11, 10, 8, 6, 4, 1)
    ]
    # The second layer needs a unit of its own, and so has one that costs as little as any.
    assert kept[:2] == [[0, 1, 2, 3, 4, 5], [0, 2, 3, 4, 5]]
    assert [len(each) for each in kept] == [6, 5, 5, 4, 3, 2]
    assert kept[2] == kept[1] and 1 not in kept[3] and {4, 5} <= set(kept[4])


@given(steps=st.integers(1, 600), before=st.floats(0.01, 1), part=st.floats(0, 1))
def test_a_rounds_share_falls_to_the_one_asked_for(steps: int, before: float, part: float) -> None:
    keep = max(before * part, 0.001)
    shares = [keep_target(before, keep, done, steps) for done in range(steps + 1)]
    assert shares[0] == pytest.approx(before) and shares[-1] == keep
    assert all(share >= following for share, following in pairwise(shares))
    numbers = [drops_done(done, steps) for done in range(steps + 1)]
    assert [step for step in range(steps) if drops_after(step, steps)] == [
        step for step in range(steps) if numbers[step + 1] > numbers[step]
    ]
    quarter = max(1, steps // 4)
    assert numbers[quarter] == numbers[-1] >= 1  # later the weights adapt
    assert len(set(shares)) <= numbers[-1] + 1
