"""A compiled layer is the convolution and what follows it, for every size of the processor's vectors."""

import functools
import inspect

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from torch import Tensor

from modules.fast.compiled import compiler
from modules.fast.layers import CompiledConvolutions
from tests.modules.fast.made_layers import expected, made_layer, tolerance

pytestmark = [
    pytest.mark.skipif(compiler() is None, reason="needs a C++ compiler"),
    pytest.mark.xdist_group("compiled layers"),  # one worker compiles for every size of vectors
]
LANES = {None: None, 16: 8, 32: 16, 64: 32}  # images of a block, by the bytes of a vector


@functools.cache
def convolutions(vector_bytes: int | None = None) -> CompiledConvolutions:
    """With the processor's own vectors, or with such of another one's, which the compiler makes of what there is."""
    flags = () if vector_bytes is None else ("-w", f"-DVECTOR_BYTES={vector_bytes}")
    return CompiledConvolutions((*compiler(), *flags))


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def run(way: CompiledConvolutions, layer: object, maps: Tensor, added: Tensor | None = None) -> Tensor:
    """A compiled layer on maps as torch has them."""
    placed = [way.place(values) for values in (maps, added) if values is not None]
    before = [values.clone() for values in placed]
    found = way.unplace(layer(*placed), maps)
    torch.testing.assert_close(placed, before, rtol=0, atol=0, equal_nan=True)
    return found


@pytest.mark.slow
@settings(max_examples=100)
@given(
    vector_bytes=st.sampled_from(list(LANES)),
    side=st.sampled_from([1, 2, 3, 4, 5, 6, 8, 11, 16]),
    num_images=st.integers(1, 40),
    channels=st.integers(1, 9),
    kernels=st.integers(1, 14),
    endings=st.tuples(*[st.booleans()] * 4),
    has_bias=st.booleans(),
)
def test_three_by_three_of_any_size(vector_bytes, side, num_images, channels, kernels, endings, has_bias):
    relu, adds, relu_of_sum, pool = endings
    maps, weight = random(num_images, channels, side, side), random(kernels, channels, 3, 3)
    bias, added = random(kernels) if has_bias else None, random(num_images, kernels, side, side) if adds else None
    layer = made_layer(
        maps.shape, weight, bias, relu=relu, adds=adds, relu_of_sum=adds and relu_of_sum, pool=pool and side % 2 == 0
    )
    way = convolutions(vector_bytes)
    assert LANES[vector_bytes] in (None, way.lanes)
    found = run(way, way.layer(layer), maps, added)
    assert (found - expected(layer, maps, added)).abs().max() <= tolerance(layer, maps, added)
    # Bit for bit the same, whichever images are beside it.
    image = slice(num_images // 2, num_images // 2 + 1)
    alone = run(way, way.layer(layer), maps[image], None if added is None else added[image])
    assert torch.equal(alone, found[image])


@pytest.mark.slow
@settings(max_examples=100)
@given(data=st.data(), vector_bytes=st.sampled_from(list(LANES)), is_depthwise=st.booleans())
def test_kernels_of_any_geometry(data, vector_bytes, is_depthwise):
    """Oblong maps and kernels, strides, padding beyond the map, dilation; two kernels per channel; pooling behind."""

    def pair(least: int, most: int) -> tuple[int, int]:
        return data.draw(st.tuples(*[st.integers(least, most)] * 2))

    sizes, stride, padding, dilation = pair(1, 4), pair(1, 3), pair(0, 4), pair(1, 3)
    least = [max(1, d * (s - 1) + 1 - 2 * p) for d, s, p in zip(dilation, sizes, padding, strict=True)]
    rows, columns = (data.draw(st.integers(smallest, smallest + 6)) for smallest in least)
    channels = data.draw(st.integers(1, 7))
    kernels = channels * data.draw(st.integers(1, 2)) if is_depthwise else data.draw(st.integers(1, 14))
    maps, weight = random(3, channels, rows, columns), random(kernels, 1 if is_depthwise else channels, *sizes)
    adds = data.draw(st.booleans())
    bias = random(kernels) if data.draw(st.booleans()) else None
    geometry = {"stride": stride, "padding": padding, "dilation": dilation, "groups": channels if is_depthwise else 1}
    relu, adds, relu_of_sum, pool = (data.draw(st.booleans()) for _ in range(4))
    layer = made_layer(maps.shape, weight, bias, **geometry, relu=relu, adds=adds, relu_of_sum=adds and relu_of_sum)
    layer.pool = pool and not any(side % 2 for side in layer.values[0].shape[2:])
    added = random(*layer.values[0].shape) if adds else None
    way = convolutions(vector_bytes)
    found = run(way, way.layer(layer), maps, added)
    assert (found - expected(layer, maps, added)).abs().max() <= tolerance(layer, maps, added)


def test_grouped_convolutions_are_left_to_torch():
    assert convolutions().layer(made_layer((2, 6, 4, 4), random(6, 3, 3, 3), None, groups=2)) is None


@pytest.mark.parametrize("shape", [(1, 3, 5, 4), (40, 2, 3, 3), (33, 7), (5, 2, 6)])
def test_values_are_placed_and_come_back(shape):
    values, way = random(*shape), convolutions()
    placed = way.place(values)
    assert placed.shape == (-(-shape[0] // way.lanes), shape[1] * way.lanes, *shape[2:])
    assert torch.equal(way.unplace(placed, values), values)
    if len(shape) == 4:
        assert placed.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(way.place(values.contiguous(memory_format=torch.channels_last)), placed)


@pytest.mark.parametrize(("side", "channels", "kernels"), [(32, 3, 64), (16, 100, 70), (4, 300, 330), (2, 512, 512)])
def test_layers_of_the_published_width(side, channels, kernels):
    maps, bias = F.relu(random(17, channels, side, side)), random(kernels)
    weight = random(kernels, channels, 3, 3) * (2 / (9 * channels)) ** 0.5
    layer, way = made_layer(maps.shape, weight, bias), convolutions()
    right = expected(layer, maps)
    difference = run(way, way.layer(layer), maps) - right
    assert difference.abs().max() <= tolerance(layer, maps)
    assert difference.norm() < 32 * torch.finfo(torch.float32).eps * right.norm()  # 9 are usual


@pytest.mark.parametrize(
    "vector_bytes", [None, *(pytest.param(size, marks=pytest.mark.slow) for size in LANES if size)]
)
@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("side", [2, 4])
def test_what_is_not_a_number_stays_so(side, pool, vector_bytes):
    """One image per pixel that is NaN; the kernel reads that pixel alone, but its tile is not a number as a whole."""
    way = convolutions(vector_bytes)
    images = torch.ones(side**2, 1, side, side)
    images.view(side**2, -1).fill_diagonal_(torch.nan)
    weight = torch.zeros(1, 1, 3, 3)
    weight[..., 1, 1] = 1
    found = run(way, way.layer(made_layer(images.shape, weight, torch.zeros(1), pool=pool)), images)
    not_numbers = (F.max_pool2d(images, 2) if pool else images).isnan()
    assert not_numbers.any()
    assert found.isnan()[not_numbers].all()


@pytest.mark.parametrize("padding", [(1, 1), (2, 2)])
def test_what_would_be_read_out_of_bounds_is_refused(padding):
    way = convolutions()
    layer = way.layer(made_layer((2, 5, 4, 4), random(2, 5, 3, 3), random(2), padding=padding, adds=True))
    side = 2 + 2 * padding[0]
    right = way.place(random(1, 5, 4, 4)), way.place(random(1, 2, side, side))
    assert layer(*right).shape == right[1].shape
    for channels, wrong_side in ((5, 2), (4, 4)):
        with pytest.raises(ValueError, match=r"\(5, 4, 4\), given"):
            layer(way.place(random(1, channels, wrong_side, wrong_side)), right[1])
    with pytest.raises(ValueError, match=r"given \(3, "):
        layer(right[0], way.place(random(1, 3, side, side)))


@pytest.mark.parametrize(("values", "images"), [(16 * 32**2, 128), (128 * 32**2, 64), (2**30, 1)])
def test_batches_are_bounded(values, images):
    assert convolutions().batch_size(values) == images


@pytest.mark.parametrize(("side", "points"), [(1, 9), (2, 9), (4, 36), (32, 36)])
def test_how_many_weights_are_held(side, points):
    made = made_layer((2, 5, side, side), random(7, 5, 3, 3), random(7))
    held = inspect.getclosurevars(convolutions().layer(made)).nonlocals["laid_out"]
    assert convolutions().num_weights(made) == points * 7 * 5
    assert held.numel() == points * 7 * 5
