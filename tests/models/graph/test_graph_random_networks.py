"""Whatever the layers and their order, what is cut computes what is masked."""

import hypothesis.strategies as st
import pytest
from exactness import check_exact
from hypothesis import given, settings
from random_networks import RandomNetwork


@pytest.mark.slow
@settings(max_examples=12)
@given(st.integers(0, 2**32 - 1))
def test_cut_is_exact(seed: int) -> None:
    check_exact(RandomNetwork(seed), 8, shares=(0.6, 0.1), is_lively=False)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3))
def test_long_networks(seed: int) -> None:
    check_exact(RandomNetwork(seed, num_layers=30), 8, shares=(0.7, 0.2), is_lively=False)
