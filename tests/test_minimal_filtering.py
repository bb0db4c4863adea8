"""A compiled layer is the convolution, its ReLU and its pooling, for every size of the processor's vectors."""

import functools

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings

from utils.compiled import compiler
from utils.minimal_filtering import MinimalFiltering

LANES = {None: None, 16: 8, 32: 16, 64: 32}  # images of a block, by the bytes of a vector


@functools.cache
def filtering(vector_bytes: int | None) -> MinimalFiltering:
    """With the processor's own vectors, or with such of another one's, which the compiler makes of what there is."""
    flags = () if vector_bytes is None else ("-w", f"-DVECTOR_BYTES={vector_bytes}")
    return MinimalFiltering((*compiler(), *flags))


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


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


@pytest.mark.parametrize("side", [2, 4])
def test_what_is_not_a_number_stays_so(side: int) -> None:
    ways = filtering(None)
    images = torch.full((1, 1, side, side), torch.nan)
    layer = ways.layer(torch.ones(1, 1, 3, 3), torch.zeros(1), side, pool=True)
    assert layer(ways.place(images))[..., 0].isnan().all()


@pytest.mark.parametrize(("side", "points"), [(2, 9), (4, 36), (32, 36)])
def test_how_many_weights_are_held(side: int, points: int) -> None:
    layer = filtering(None).layer(random(7, 5, 3, 3), random(7), side, pool=False)
    assert filtering(None).num_weights(7, 5, side) == points * 7 * 5 == layer.keywords["points"].numel()
