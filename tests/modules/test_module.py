"""An extracted module computes what the strong model computes with the dropped kernels' feature maps at zero."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from models.cnn import CNN, Architecture, Conv
from random_modules import kernel_masks, random_model

from models.rescnn import ARCHITECTURE as RESCNN
from models.simcnn import ARCHITECTURE as SIMCNN
from modules.module import extract_module, kept_kernels, module_of_weights


def masked_logits(model: CNN, kernel_mask: np.ndarray, images: np.ndarray) -> np.ndarray:
    """The slow way, in NumPy and float64: every kernel is computed, and the dropped ones' feature maps are zeroed."""
    weights = {name: value.double().numpy() for name, value in model.state_dict().items()}
    x, maps, start = images.astype(np.float64), [], 0
    for layer, conv in enumerate(model.architecture.convs):
        weight, bias = weights[f"convs.{layer}.weight"], weights[f"convs.{layer}.bias"]
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
        x = np.einsum("nchwij,kcij->nkhw", windows, weight, optimize=True) + bias[:, None, None]
        x = np.maximum(x, 0)
        if conv.pool:
            n, kernels, height, width = x.shape
            x = x.reshape(n, kernels, height // 2, 2, width // 2, 2).max(axis=(3, 5))
        x[:, ~kernel_mask[start : start + conv.kernels]] = 0
        start += conv.kernels
        if conv.add is not None:
            x = x + maps[conv.add]
        maps.append(x)
    x = x.reshape(len(x), -1)
    for fc in range(len(model.fcs)):
        x = x @ weights[f"fcs.{fc}.weight"].T + weights[f"fcs.{fc}.bias"]
        if fc < len(model.fcs) - 1:
            x = np.maximum(x, 0)
    return x


@st.composite
def architectures(draw: st.DrawFn) -> Architecture:
    """Small networks of any form: chains of additions, additions after pools, none or several hidden layers."""
    convs: list[Conv] = []
    sides: list[int] = []
    for layer in range(draw(st.integers(1, 6))):
        side = sides[-1] if sides else 32
        pool = side > 4 and draw(st.booleans())
        side = side // 2 if pool else side
        partners = [earlier for earlier in range(layer) if sides[earlier] == side]
        add = draw(st.sampled_from(partners)) if partners and draw(st.booleans()) else None
        kernels = draw(st.integers(1, 5)) if add is None else convs[add].kernels
        convs.append(Conv(kernels, pool, add))
        sides.append(side)
    return Architecture(tuple(convs), tuple(draw(st.lists(st.integers(1, 6), max_size=2))), 0.5)


def check_module(architecture: Architecture, num_classes: int, kernel_mask: np.ndarray, seed: int) -> None:
    model = random_model(architecture, num_classes, seed)
    images = np.random.default_rng(seed).normal(size=(2, 3, 32, 32))
    expected = masked_logits(model, kernel_mask, images)
    scale = np.abs(expected).max()
    batch = torch.tensor(images)
    whole = extract_module(model, kernel_mask)
    assert sum(len(conv.bias) for conv in whole.convs) == kernel_mask.sum()
    with torch.no_grad():
        np.testing.assert_allclose(whole(batch).numpy(), expected, rtol=1e-9, atol=1e-10 * scale)
        for target_class in range(num_classes):
            module = extract_module(model, kernel_mask, target_class)
            assert not module.training
            one_logit = module(batch).numpy()
            np.testing.assert_allclose(
                one_logit, expected[:, target_class : target_class + 1], rtol=1e-9, atol=1e-10 * scale
            )


@settings(max_examples=40)
@given(data=st.data(), base=st.sampled_from([SIMCNN, RESCNN]), width=st.sampled_from([1 / 64, 1 / 32, 3 / 64, 1 / 16]))
def test_module_of_a_published_network(data: st.DataObject, base: Architecture, width: float) -> None:
    architecture = base.scaled(width)
    check_module(architecture, 3, data.draw(kernel_masks(architecture)), data.draw(st.integers(0, 1000)))


@settings(max_examples=60)
@given(data=st.data(), architecture=architectures())
def test_module_of_any_network(data: st.DataObject, architecture: Architecture) -> None:
    check_module(architecture, 2, data.draw(kernel_masks(architecture)), data.draw(st.integers(0, 1000)))


@pytest.mark.parametrize("architecture", [SIMCNN.scaled(0.25), RESCNN.scaled(0.25)], ids=["simcnn", "rescnn"])
def test_module_in_float32_at_the_width_of_the_demo(architecture: Architecture) -> None:
    random = np.random.default_rng(0)
    kept = {layer: random.random(architecture.num_kernels[layer]) < 0.5 for layer in architecture.free_layers}
    kernel_mask = np.concatenate([kept[first] for first in architecture.tied_to])
    model = random_model(architecture, 10, 0).float()
    images = random.normal(size=(3, 3, 32, 32)).astype(np.float32)
    expected = masked_logits(model, kernel_mask, images)
    with torch.no_grad():
        found = extract_module(model, kernel_mask)(torch.tensor(images)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_keeping_everything_changes_nothing_and_shares_nothing() -> None:
    model = random_model(RESCNN.scaled(1 / 16), 4, 0)
    module = extract_module(model, np.ones(sum(model.architecture.num_kernels), bool))
    for name, value in model.state_dict().items():
        assert torch.equal(module.state_dict()[name], value)
    with torch.no_grad():
        module.convs[0].weight.zero_()
    assert model.convs[0].weight.abs().max() > 0


def test_a_module_comes_back_from_its_weights() -> None:
    architecture = SIMCNN.scaled(1 / 16)
    model = random_model(architecture, 4, 0)
    kernel_mask = np.arange(sum(architecture.num_kernels)) % 2 == 0
    module = extract_module(model, kernel_mask, 2)
    again = module_of_weights(architecture, module.state_dict())
    images = torch.randn(2, 3, 32, 32, dtype=torch.double)
    assert torch.equal(module(images), again(images))


def test_masks_that_make_no_module_are_refused() -> None:
    architecture = RESCNN.scaled(1 / 32)
    every = np.ones(sum(architecture.num_kernels), bool)
    with pytest.raises(ValueError, match=r"expected a mask over \d+ kernels, given one over 3"):
        kept_kernels(architecture, np.ones(3, bool))
    with pytest.raises(ValueError, match=r"not enough values|too many values"):
        kept_kernels(architecture, every[None])
    empty_layer = every.copy()
    empty_layer[architecture.layer_slices[4]] = False
    with pytest.raises(ValueError, match="conv 4: expected at least one kept kernel"):
        kept_kernels(architecture, empty_layer)
    untied = every.copy()
    untied[architecture.layer_slices[3].start] = False
    with pytest.raises(ValueError, match="conv 3 is tied to conv 1: expected the same kept kernels"):
        kept_kernels(architecture, untied)


def test_weights_of_another_network_are_refused() -> None:
    weights = random_model(SIMCNN.scaled(1 / 32), 4, 0).state_dict()
    with pytest.raises(RuntimeError, match=r"Unexpected key\(s\).*convs\.12"):
        module_of_weights(RESCNN.scaled(1 / 32), weights)
    with pytest.raises(RuntimeError, match=r"convs\.3\.bias"):
        module_of_weights(SIMCNN.scaled(1 / 32), {n: v for n, v in weights.items() if n != "convs.3.bias"})
