"""torch's ways to convolve are the convolution, its ReLU and its pooling; and which way is taken."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from modules.fast import convolution
from modules.fast.compiled import compiler
from modules.fast.convolution import (
    TorchConvolutions,
    convolutions_for,
    population_dtype,
    relu,
)
from modules.fast.layers import CompiledConvolutions
from tests.modules.fast.made_layers import expected, made_layer

CPU = torch.device("cpu")


def drawn(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    values = torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)
    return values.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else values


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("side", [1, 2, 4, 8, 10])
@pytest.mark.parametrize("endings", list(itertools.product([False, True], repeat=4)))
def test_layers_of_torch(endings: tuple[bool, ...], side: int, dtype: torch.dtype):
    relu_before, adds, relu_of_sum, pool = endings
    maps, weight = drawn(3, 5, side, side, dtype=dtype), drawn(4, 5, 3, 3, dtype=dtype)
    layer = made_layer(
        maps.shape,
        weight,
        drawn(4, dtype=dtype),
        relu=relu_before,
        adds=adds,
        relu_of_sum=adds and relu_of_sum,
        pool=pool and side > 1,
    )
    added = drawn(3, 4, side, side, dtype=dtype) if adds else None
    convolutions = TorchConvolutions(dtype, CPU)
    found = convolutions.layer(layer)(maps, *([added] if adds else []))
    precision = {torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    exact = expected(layer, maps, added)
    assert (found.double() - exact).abs().max() <= precision * exact.abs().max()
    banded = side <= {torch.float32: 2, torch.bfloat16: 4}[dtype]
    assert convolutions.num_weights(layer) == (3 * side**2 if banded else 9) * 4 * 5


def test_other_kernels_of_torch():
    maps, weight = drawn(3, 4, 6, 5), drawn(6, 2, 3, 1)
    layer = made_layer(maps.shape, weight, None, stride=(2, 1), padding=(0, 2), dilation=(1, 2), groups=2)
    torch.testing.assert_close(TorchConvolutions(torch.float64, CPU).layer(layer)(maps), expected(layer, maps))


def test_the_way_that_is_taken(monkeypatch: pytest.MonkeyPatch):
    assert isinstance(convolutions_for(torch.empty(1)), CompiledConvolutions if compiler() else TorchConvolutions)
    assert isinstance(convolutions_for(torch.empty(1, dtype=torch.bfloat16)), TorchConvolutions)
    assert isinstance(convolutions_for(torch.empty(1, device="meta")), TorchConvolutions)
    monkeypatch.setenv("CXX", "")
    assert isinstance(convolutions_for(torch.empty(1)), TorchConvolutions)


def test_populations_are_evaluated_in_what_is_fastest(monkeypatch: pytest.MonkeyPatch):
    for dtype, device in ((torch.float32, CPU), (torch.float64, CPU), (torch.bfloat16, torch.device("meta"))):
        assert population_dtype(dtype, device) is dtype
    for is_there in (False, True):
        monkeypatch.setattr(convolution, "has_tiles", lambda is_there=is_there: is_there)
        is_slower = compiler() is not None and not is_there
        assert population_dtype(torch.bfloat16, CPU) is (torch.float32 if is_slower else torch.bfloat16)
        assert population_dtype(torch.float32, CPU) is torch.float32
    monkeypatch.setattr(convolution, "has_tiles", lambda: False)
    monkeypatch.setenv("CXX", "")
    assert population_dtype(torch.bfloat16, CPU) is torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("pool", [False, True])
def test_relu_of_every_kind_of_number(dtype: torch.dtype, pool: bool) -> None:
    """All 2^16 bit patterns of bfloat16 but NaN: both zeros, subnormals, infinities, beside each other at random."""
    patterns = torch.arange(2**16).to(torch.uint16).view(torch.bfloat16)
    numbers = patterns[~patterns.isnan()].repeat(2)
    order = torch.randperm(len(numbers), generator=torch.Generator().manual_seed(0))
    maps = numbers[order][: len(numbers) // 320 * 320].view(-1, 5, 8, 8).to(dtype)
    maps = maps.contiguous(memory_format=torch.channels_last)
    expected = torch.relu(maps.float())
    if pool:
        expected = F.max_pool2d(expected, 2)
    found = relu(maps.clone(memory_format=torch.preserve_format), pool=pool)
    assert found.dtype == dtype
    assert torch.equal(found.float(), expected)
