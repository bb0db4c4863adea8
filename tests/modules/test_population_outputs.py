"""A population's outputs are those of its modules, extracted and run one by one."""

import copy
import functools

import hypothesis.strategies as st
import naive
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from models.cnn import CNN, Architecture, Conv

from models.registry import architecture_of
from modules.population_outputs import population_outputs

NUM_CLASSES = 4
# Pools at the start and at the end, a chain of additions, an addition of the last layer, two hidden layers.
CHAIN = Architecture(
    (Conv(5, pool=True), Conv(6), Conv(6, add=1), Conv(6, pool=True), Conv(7), Conv(6, add=3)), hidden=(9, 5)
)
NO_HIDDEN = Architecture((Conv(6), Conv(4, pool=True)))


@functools.cache
def strong_model(name: str) -> CNN:
    architectures = {"chain": CHAIN, "no_hidden": NO_HIDDEN}
    architecture = architectures.get(name) or architecture_of(name).scaled(1 / 16)
    torch.manual_seed(0)
    model = CNN(architecture, NUM_CLASSES).eval()
    with torch.no_grad():
        for layer in [*model.convs, *model.fcs]:
            layer.bias.normal_()
    return model


def images(count: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    drawn = torch.randn(count, 3, 32, 32, generator=generator)
    return drawn.to(dtype).contiguous(memory_format=torch.channels_last)


def one_by_one(model: CNN, masks: np.ndarray, target_classes: list[int], batch: torch.Tensor) -> np.ndarray:
    """(modules, n): each module cut out and run alone, in float64."""
    exact = copy.deepcopy(model).double()
    modules = zip(masks, target_classes, strict=True)
    return np.stack([naive.module_outputs(exact, mask, c, [batch.double()]) for mask, c in modules])


@st.composite
def populations(draw: st.DrawFn, architecture: Architecture) -> np.ndarray:
    """Masks with common prefixes, duplicates, layers of one kernel, whole layers; tied layers alike."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    masks: list[np.ndarray] = []
    for _ in range(draw(st.integers(1, 6))):
        like = draw(st.integers(0, len(architecture.convs))) if masks else 0  # so many layers as an earlier one
        earlier = masks[random.integers(len(masks))] if masks else None
        kept: dict[int, np.ndarray] = {}
        for layer in architecture.free_layers:
            width = architecture.num_kernels[layer]
            if earlier is not None and layer < like:
                kept[layer] = earlier[architecture.layer_slices[layer]]
                continue
            count = draw(st.sampled_from([1, width, max(1, width // 2)]))
            kept[layer] = np.isin(np.arange(width), random.choice(width, count, replace=False))
        masks.append(np.concatenate([kept[first] for first in architecture.tied_to]))
    return np.stack(masks)


@pytest.mark.slow
@settings(max_examples=60)
@given(
    data=st.data(),
    name=st.sampled_from(["simcnn", "rescnn", "chain", "no_hidden"]),
    num_images=st.integers(1, 5),
    batch_size=st.sampled_from([None, 1, 2, 5, 100]),
)
def test_outputs_are_those_of_the_modules(
    data: st.DataObject, name: str, num_images: int, batch_size: int | None
) -> None:
    model = strong_model(name)
    masks = data.draw(populations(model.architecture))
    classes = st.lists(st.integers(0, NUM_CLASSES - 1), min_size=len(masks), max_size=len(masks))
    target_classes = data.draw(classes)
    batch = images(num_images)
    expected = one_by_one(model, masks, target_classes, batch)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = population_outputs(model, masks, target_classes, batch, batch_size)
    assert found.shape == (len(masks), num_images)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    # Bit for bit the same, whichever others are evaluated with it and in whatever order.
    order = data.draw(st.permutations(range(len(masks))))
    shuffled = population_outputs(model, masks[order], [target_classes[row] for row in order], batch, batch_size)
    assert np.array_equal(shuffled, found[order])
    row = data.draw(st.integers(0, len(masks) - 1))
    alone = population_outputs(model, masks[[row]], [target_classes[row]], batch, batch_size)
    assert np.array_equal(alone[0], found[row])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(batch, images(num_images))


@pytest.mark.parametrize("name", ["simcnn", "rescnn"])
def test_one_mask_for_all_classes_gives_all_logits(name: str) -> None:
    model, batch = strong_model(name), images(6)
    everything = np.ones((NUM_CLASSES, sum(model.architecture.num_kernels)), bool)
    found = population_outputs(model, everything, range(NUM_CLASSES), batch)
    with torch.no_grad():
        expected = model(batch).numpy().T
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["simcnn", "rescnn"])
def test_bfloat16_is_near(name: str) -> None:
    """Eight bits of precision, a dozen layers: within a few percent of the spread of the outputs."""
    model = strong_model(name)
    random = np.random.default_rng(0)
    kept = [random.random(width) < 0.7 for width in model.architecture.num_kernels]
    masks = np.concatenate([kept[first] for first in model.architecture.tied_to])[None].repeat(2, 0)
    found = population_outputs(model, masks, [0, 3], images(20, torch.bfloat16))
    expected = one_by_one(model, masks, [0, 3], images(20))
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 0.1 * np.abs(expected).max()
    assert not np.allclose(found, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["simcnn_x0_25", "rescnn_x0_25"])
def test_at_the_width_of_the_demo(name: str) -> None:
    """Real widths take other paths through the convolutions than tiny ones: 1e-4 in float32, and bit for bit."""
    torch.manual_seed(0)
    model = CNN(architecture_of(name), 10).eval().to(memory_format=torch.channels_last)
    random = np.random.default_rng(0)
    slices, tied_to = model.architecture.layer_slices, model.architecture.tied_to
    masks = random.random((5, sum(model.architecture.num_kernels))) < 0.6
    masks[1, : slices[6].stop] = masks[0, : slices[6].stop]
    masks[2] = masks[0]
    for layer, first in enumerate(tied_to):
        masks[:, slices[layer]] = masks[:, slices[first]]
    batch = images(9)
    target_classes = [0, 3, 0, 9, 5]
    found = population_outputs(model, masks, target_classes, batch)
    for row in range(5):
        expected = naive.module_outputs(model, masks[row], target_classes[row], [batch])
        np.testing.assert_allclose(found[row], expected, atol=1e-4, rtol=1e-4)
        alone = population_outputs(model, masks[[row]], [target_classes[row]], batch)
        assert np.array_equal(alone[0], found[row])
