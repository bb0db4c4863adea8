"""The compiled way around masked convolutions does what torch's does: bit for bit, where nothing is summed."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from modules.fast.compiled_masking import CompiledMasking, masking_for
from modules.fast.masking import Ending, Masking
from torch import Tensor

from modules.fast.compiled import compiler

pytestmark = pytest.mark.skipif(compiler() is None, reason="needs a C++ compiler")
HALVING = ([2, 2], [2, 2], [0, 0], [1, 1], False)
POOLS = (None, HALVING, ([2, 2], [], [0, 0], [1, 1], True), ([3, 3], [2, 2], [1, 1], [1, 1], False))
BY_TORCH = Masking()
dtypes = st.sampled_from([torch.float32, torch.bfloat16])
channels = st.integers(1, 40)
sides = st.integers(1, 9)
seeds = st.integers(0, 1000)


def made_maps(seed: int, *shape: int, dtype: torch.dtype) -> Tensor:
    """Of few values, so that many are 0 and many are alike."""
    random = torch.Generator().manual_seed(seed)
    maps = torch.randint(-3, 4, shape, generator=random).to(dtype) / 4
    return maps.contiguous(memory_format=torch.channels_last)


def some_of(channels: int, seed: int) -> Tensor:
    order = torch.randperm(channels, generator=torch.Generator().manual_seed(seed))
    return order[: 1 + seed % channels]


@given(dtypes, channels, sides, seeds)
def test_channels_are_taken(dtype, channels, side, seed):
    maps, chosen = made_maps(seed, 3, channels, side, side, dtype=dtype), some_of(channels, seed)
    found = masking_for(dtype, maps.device).take(maps, chosen)
    assert torch.equal(found, maps[:, chosen]) and found.is_contiguous(memory_format=torch.channels_last)


@given(dtypes, channels, st.integers(3, 9), seeds, st.sampled_from(POOLS), st.booleans(), st.booleans())
def test_there_and_back(dtype, channels, side, seed, pool, is_rectified, takes_all):
    compiled, ending = masking_for(dtype, torch.device("cpu")), Ending(is_rectified, pool)
    maps = made_maps(seed, 2, channels, side, side, dtype=dtype)
    chosen = None if takes_all else some_of(channels, seed)
    found, expected = compiled.end(maps.clone(), ending), BY_TORCH.end(maps.clone(), ending)
    assert torch.equal(found[0], expected[0])
    grad = made_maps(seed + 1, *found[0].shape, dtype=dtype)
    backs = [
        way.before_end(grad, *ended, chosen, ending, (side, side))
        for way, ended in ((compiled, found), (BY_TORCH, expected))
    ]
    assert torch.equal(*backs)


@given(dtypes, channels, st.integers(1, 20), seeds)
def test_the_gradient_of_factors(dtype, channels, side, seed):
    maps, factors = made_maps(seed, 2, channels, side, side, dtype=dtype), torch.rand(channels)
    of_maps = made_maps(seed + 1, *maps.shape, dtype=dtype)
    ways = (masking_for(dtype, maps.device), of_maps.clone()), (BY_TORCH, of_maps.clone())
    found, expected = (way.of_factors(copy, maps, factors) for way, copy in ways)
    terms = of_maps.double() * maps.double()
    exact, rounding = terms.sum((0, 2, 3)), len(terms[:, 0].flatten()) * torch.finfo(torch.float32).eps
    assert ((found - exact).abs() <= rounding * terms.abs().sum((0, 2, 3))).all()
    assert found.dtype == expected.dtype and torch.equal(ways[0][1], ways[1][1])


def test_what_is_not_a_number_stays_so():
    for dtype in (torch.float32, torch.bfloat16):
        maps = torch.zeros(1, 9, 2, 2, dtype=dtype)
        maps[0, :, 0, 1] = torch.nan
        maps[0, :, 1, 1] = torch.inf
        compiled = masking_for(dtype, maps.device)
        for is_rectified in (False, True):
            (made, _), (expected, _) = (
                way.end(maps.clone(), Ending(is_rectified, HALVING)) for way in (compiled, BY_TORCH)
            )
            assert torch.equal(made.isnan(), expected.isnan()) and made.isnan().all()
        of_maps = maps.contiguous(memory_format=torch.channels_last)
        assert compiled.of_factors(of_maps, of_maps.clone(), torch.ones(9)).isnan().all() and of_maps.isnan().any()


def test_who_goes_the_compiled_way(monkeypatch):
    assert isinstance(masking_for(torch.bfloat16, torch.device("cpu")), CompiledMasking)
    assert type(masking_for(torch.float64, torch.device("cpu"))) is Masking
    assert type(masking_for(torch.float32, torch.device("meta"))) is Masking
    monkeypatch.setenv("CXX", "")
    assert type(masking_for(torch.float32, torch.device("cpu"))) is Masking
