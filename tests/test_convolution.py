"""A convolution by its banded matrix, and by minimal filtering, is the convolution."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.convolution import banded_matrix, convolution, convolve_by_rows, num_weights
from utils.minimal_filtering import MinimalConvolution, filtering_of


def drawn(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    values = torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)
    return values.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else values


@given(side=st.integers(1, 6), images=st.integers(1, 3), channels=st.integers(1, 5), kernels=st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_rows_of_any_maps(side: int, images: int, channels: int, kernels: int):
    maps, weight, bias = drawn(images, channels, side, side), drawn(kernels, channels, 3, 3), drawn(kernels)
    convolved = convolve_by_rows(maps, banded_matrix(weight, side), bias.repeat(side))
    torch.testing.assert_close(convolved, F.conv2d(maps, weight, bias, padding=1))
    assert convolved.is_contiguous(memory_format=torch.channels_last)


@given(
    side=st.sampled_from([2, 4, 8, 12]),
    images=st.integers(1, 3),
    channels=st.integers(1, 5),
    kernels=st.integers(1, 5),
    order=st.permutations(range(4)),
)
@settings(max_examples=60, deadline=None)
def test_minimal_filtering_of_maps_in_any_order(side: int, images: int, channels: int, kernels: int, order: list[int]):
    maps, weight, bias = drawn(images, channels, side, side), drawn(kernels, channels, 3, 3), drawn(kernels)
    back = sorted(range(4), key=order.__getitem__)
    in_order = maps.permute(order).contiguous().permute(back)
    convolved = MinimalConvolution(weight, bias, side)(in_order)
    torch.testing.assert_close(convolved, F.conv2d(maps, weight, bias, padding=1))
    assert convolved.permute(2, 3, 0, 1).is_contiguous()


@pytest.mark.parametrize("side", [1, 3, 6, 10])
def test_sides_that_tiles_do_not_fill(side: int):
    assert filtering_of(side) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("side", [2, 4, 8, 10])
@pytest.mark.parametrize("channels", [5, 60])
def test_the_way_that_is_taken(channels: int, side: int, dtype: torch.dtype):
    kernels = channels - 1
    maps, weight = drawn(3, channels, side, side, dtype=dtype), drawn(kernels, channels, 3, 3, dtype=dtype)
    bias = drawn(kernels, dtype=dtype)
    taken = convolution(weight, bias, side)
    expected = F.conv2d(maps.double(), weight.double(), bias.double(), padding=1)
    precision = {torch.float32: 1e-5, torch.bfloat16: 1e-2}[dtype]
    assert (taken(maps).double() - expected).abs().max() <= precision * expected.abs().max()
    held = num_weights(kernels, channels, side, weight)
    values = taken.weights if isinstance(taken, MinimalConvolution) else taken.keywords.get("matrix", weight)
    assert values.numel() == held
    filtered = dtype == torch.float32 and channels == 60 and side != 10
    banded = not filtered and side <= {torch.float32: 2, torch.bfloat16: 4}[dtype]
    per_pair = {2: 9, 4: 36, 8: 36}[side] if filtered else 3 * side**2 if banded else 9
    assert held == per_pair * kernels * channels
