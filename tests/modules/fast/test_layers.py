"""A compiled layer is the convolution, its ReLU and its pooling, for every size of the processor's vectors."""

import functools

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from modules.fast.winograd import MinimalFiltering

from modules.fast.compiled import compiler

pytestmark = pytest.mark.skipif(compiler() is None, reason="needs a C++ compiler")
LANES = {None: None, 16: 8, 32: 16, 64: 32}  # images of a block, by the bytes of a vector


@functools.cache
def filtering(vector_bytes: int | None) -> MinimalFiltering:
    """With the processor's own vectors, or with such of another one's, which the compiler makes of what there is."""
    flags = () if vector_bytes is None else ("-w", f"-DVECTOR_BYTES={vector_bytes}")
    return MinimalFiltering((*compiler(), *flags))


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.slow
@settings(max_examples=100)
@given(
    vector_bytes=st.sampled_from(list(LANES)),
    side=st.sampled_from([1, 2, 3, 4, 5, 6, 8, 11, 16]),
    num_images=st.integers(1, 40),
    channels=st.integers(1, 9),
    kernels=st.integers(1, 14),
    pool=st.booleans(),
    channels_last=st.booleans(),
)
def test_layers_of_any_size(
    vector_bytes: int | None,
    side: int,
    num_images: int,
    channels: int,
    kernels: int,
    pool: bool,
    channels_last: bool,
) -> None:
    pool = pool and side % 2 == 0
    images, weight, bias = random(num_images, channels, side, side), random(kernels, channels, 3, 3), random(kernels)
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    ways = filtering(vector_bytes)
    maps = ways.place(images)
    assert maps.shape[1:4] == (side, side, channels)
    assert LANES[vector_bytes] in (None, maps.shape[4])
    assert torch.equal(ways.features(maps, num_images), images.flatten(1))
    layer = ways.layer(weight, bias, side, pool=pool)
    before = maps.clone()
    found = layer(maps)
    assert torch.equal(maps, before)
    expected = F.relu(F.conv2d(images.double(), weight.double(), bias.double(), padding=1))
    if pool:
        expected = F.max_pool2d(expected, 2)
    features = ways.features(found, num_images)
    torch.testing.assert_close(features.double(), expected.flatten(1), rtol=1e-5, atol=2e-5)
    # Bit for bit the same, whichever images are beside it.
    image = num_images // 2
    alone = ways.features(layer(ways.place(images[image, None])), 1)
    assert torch.equal(alone[0], features[image])


@pytest.mark.parametrize(("side", "channels", "kernels"), [(32, 3, 64), (16, 100, 70), (4, 300, 330), (2, 512, 512)])
def test_layers_of_the_published_width(side: int, channels: int, kernels: int) -> None:
    images, bias = F.relu(random(17, channels, side, side)), random(kernels)
    weight = random(kernels, channels, 3, 3) * (2 / (9 * channels)) ** 0.5
    ways = filtering(None)
    found = ways.features(ways.layer(weight, bias, side, pool=False)(ways.place(images)), 17)
    expected = F.relu(F.conv2d(images.double(), weight.double(), bias.double(), padding=1)).flatten(1)
    assert (found - expected).abs().max() < 2e-5
    assert (found - expected).square().mean().sqrt() < 1e-6


@pytest.mark.parametrize("vector_bytes", LANES)
@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("side", [2, 4])
def test_what_is_not_a_number_stays_so(side: int, pool: bool, vector_bytes: int | None) -> None:
    """One image per pixel that is NaN; the kernel reads that pixel alone, but its tile is not a number as a whole."""
    ways = filtering(vector_bytes)
    images = torch.ones(side**2, 1, side, side)
    images.view(side**2, -1).fill_diagonal_(torch.nan)
    weight = torch.zeros(1, 1, 3, 3)
    weight[..., 1, 1] = 1
    found = ways.features(ways.layer(weight, torch.zeros(1), side, pool=pool)(ways.place(images)), len(images))
    expected = images if not pool else F.max_pool2d(images, 2)
    assert expected.isnan().any()
    assert found.isnan()[expected.flatten(1).isnan()].all()


def test_what_would_be_read_out_of_bounds_is_refused() -> None:
    ways = filtering(None)
    with pytest.raises(ValueError, match="even side, given 3"):
        ways.layer(random(2, 1, 3, 3), random(2), 3, pool=True)
    layer = ways.layer(random(2, 5, 3, 3), random(2), 4, pool=False)
    for channels, side in ((5, 2), (4, 4)):
        with pytest.raises(ValueError, match=r"\(4, 5\), given"):
            layer(ways.place(random(1, channels, side, side)))


@pytest.mark.parametrize(("values", "images"), [(16 * 32**2, 128), (128 * 32**2, 64), (2**30, 1)])
def test_batches_are_bounded(values: int, images: int) -> None:
    assert filtering(None).batch_size(values) == images


@pytest.mark.parametrize(("side", "points"), [(2, 9), (4, 36), (32, 36)])
def test_how_many_weights_are_held(side: int, points: int) -> None:
    layer = filtering(None).layer(random(7, 5, 3, 3), random(7), side, pool=False)
    assert filtering(None).num_weights(7, 5, side) == points * 7 * 5 == layer.keywords["points"].numel()
