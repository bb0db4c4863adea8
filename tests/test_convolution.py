"""A convolution by its banded matrix is the convolution."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.convolution import BANDED_UP_TO, banded_matrix, convolution, convolve_by_rows, num_weights


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


@pytest.mark.parametrize("dtype", BANDED_UP_TO)
@pytest.mark.parametrize("side", [2, 4, 8])
def test_the_way_that_is_taken(side: int, dtype: torch.dtype):
    maps, weight, bias = drawn(3, 5, side, side, dtype=dtype), drawn(4, 5, 3, 3, dtype=dtype), drawn(4, dtype=dtype)
    taken = convolution(weight, bias, side)
    torch.testing.assert_close(taken(maps), F.conv2d(maps, weight, bias, padding=1))
    held = num_weights(4, 5, side, weight)
    held_by = taken.keywords.get("matrix", weight)
    assert held_by.numel() == held
    assert (held == 9 * 20) == (side > BANDED_UP_TO[dtype])
