"""An extracted module computes what the strong model computes with the dropped kernels' feature maps at zero."""

from functools import cache

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from conftest import assert_near
from hypothesis import given, settings
from random_modules import extract_module, kernel_masks, network_layers, random_network, with_random_biases

from models.graph import Graph, trace
from models.rescnn import ResCNN
from models.simcnn import SimCNN
from modules.module import Tuning, extract_modules, module_of_weights

NETWORKS = {"simcnn": SimCNN, "rescnn": ResCNN}


def published(name: str, width: float, num_classes: int, seed: int = 0) -> SimCNN | ResCNN:
    """A narrow one of the published networks, in float64, with biases."""
    torch.manual_seed(seed)
    return with_random_biases(NETWORKS[name](num_classes, width), seed)


def pools_and_additions(network: SimCNN | ResCNN) -> list[tuple[bool, int | None]]:
    """Of each conv layer whether a pool follows, and which layer's output is added then."""
    if isinstance(network, ResCNN):
        return [(layer.pool, layer.add) for layer in network.layers]
    return [(last, None) for size in network.block_sizes for last in [False] * (size - 1) + [True]]


def masked_logits(network: SimCNN | ResCNN, kernel_mask: np.ndarray, images: np.ndarray) -> np.ndarray:
    """The slow way, in NumPy and float64: every kernel is computed, and the dropped ones' feature maps are zeroed."""
    weights = {name: value.double().numpy() for name, value in network.state_dict().items()}
    x, maps, start = images.astype(np.float64), [], 0
    for layer, (pool, add) in enumerate(pools_and_additions(network)):
        weight, bias = weights[f"convs.{layer}.weight"], weights[f"convs.{layer}.bias"]
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
        x = np.einsum("nchwij,kcij->nkhw", windows, weight, optimize=True) + bias[:, None, None]
        x = np.maximum(x, 0)
        if pool:
            n, kernels, height, width = x.shape
            x = x.reshape(n, kernels, height // 2, 2, width // 2, 2).max(axis=(3, 5))
        x[:, ~kernel_mask[start : start + len(bias)]] = 0
        start += len(bias)
        if add is not None:
            x = x + maps[add]
        maps.append(x)
    x = x.reshape(len(x), -1)
    for fc in range(len(network.fcs)):
        x = x @ weights[f"fcs.{fc}.weight"].T + weights[f"fcs.{fc}.bias"]
        if fc < len(network.fcs) - 1:
            x = np.maximum(x, 0)
    return x


def check_module(network: SimCNN | ResCNN, graph: Graph, kernel_mask: np.ndarray, seed: int) -> None:
    images = np.random.default_rng(seed).normal(size=(2, 3, 32, 32))
    expected = masked_logits(network, kernel_mask, images)
    close = {"rtol": 1e-9, "atol": 1e-10 * np.abs(expected).max()}
    batch = torch.tensor(images)
    whole = extract_module(graph, kernel_mask)
    kept = sum(len(value) for name, value in whole.state_dict().items() if name.startswith("convs.") and "bias" in name)
    assert kept == kernel_mask.sum()
    with torch.no_grad():
        np.testing.assert_allclose(whole(batch).numpy(), expected, **close)
        for target_class in range(graph.num_classes):
            module = extract_module(graph, kernel_mask, target_class)
            assert not module.training
            np.testing.assert_allclose(module(batch).numpy(), expected[:, target_class : target_class + 1], **close)


@cache
def traced(name: str, width: float) -> tuple[SimCNN | ResCNN, Graph]:
    """One of the published networks with three classes, and its graph."""
    network = published(name, width, 3)
    return network, trace(network, 32)


@pytest.mark.long
@settings(max_examples=40)
@given(
    data=st.data(),
    name=st.sampled_from(list(NETWORKS)),
    width=st.sampled_from([1 / 64, 1 / 32, 3 / 64, 1 / 16]),
    seed=st.integers(0, 1000),
)
def test_module_of_a_published_network(data: st.DataObject, name: str, width: float, seed: int) -> None:
    network, graph = traced(name, width)
    check_module(network, graph, data.draw(kernel_masks(graph.units)), seed)


@pytest.mark.long
@settings(max_examples=40)
@given(
    data=st.data(),
    layers=network_layers(),
    hidden=st.lists(st.integers(1, 6), max_size=2),
    seed=st.integers(0, 1000),
)
def test_module_of_any_network(data: st.DataObject, layers: tuple, hidden: list[int], seed: int) -> None:
    network = random_network(layers, 2, seed, hidden)
    graph = trace(network, 32)
    check_module(network, graph, data.draw(kernel_masks(graph.units)), seed)


@pytest.mark.parametrize("name", NETWORKS)
def test_module_in_float32_at_the_width_of_the_demo(name: str) -> None:
    network = published(name, 0.25, 10).float()
    graph = trace(network, 32)
    random = np.random.default_rng(0)
    kernel_mask = graph.units.spread(random.random(graph.num_units) < 0.5)
    images = random.normal(size=(3, 3, 32, 32)).astype(np.float32)
    expected = masked_logits(network, kernel_mask, images)
    with torch.no_grad():
        found = extract_module(graph, kernel_mask)(torch.tensor(images)).numpy()
    assert_near(found, expected)


def test_keeping_everything_changes_nothing_and_shares_nothing() -> None:
    network = published("rescnn", 1 / 16, 4)
    module = extract_module(graph := trace(network, 32), np.ones(graph.units.num_kernels, bool))
    for name, value in network.state_dict().items():
        assert torch.equal(module.state_dict()[name], value)
    with torch.no_grad():
        module.get_parameter("convs.0.weight").zero_()
    assert network.convs[0].weight.abs().max() > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@settings(max_examples=4)
@given(seed=st.integers(0, 2**32 - 1))
def test_modules_stand_in_class_order_with_their_gains_and_maps(name: str, seed: int) -> None:
    """A tuned module is a plain one of other weights, and answers what the masked strong model does."""
    graph, random = traced(name, 1 / 16)[1], np.random.default_rng(seed)
    unit_masks = graph.units.repair(random.random((3, graph.num_units)) < 0.6)
    gains = random.uniform(0.3, 3, unit_masks.shape).astype(np.float32)
    masks = graph.units.spread(unit_masks)
    logit_maps = np.array([[1, 0], [-2, 0.5], [0.25, 3]], np.float32)
    images = torch.tensor(random.normal(size=(2, 3, 32, 32)))
    with torch.no_grad():
        plain = extract_modules(graph, masks)
        tuned = extract_modules(graph, masks, Tuning(graph.units.spread(gains), logit_maps))
        for c, (scale, bias) in enumerate(logit_maps.tolist()):
            assert torch.equal(plain[c](images), extract_module(graph, masks[c], c)(images))
            factors = torch.as_tensor(unit_masks[c] * gains[c].astype(float))
            expected = scale * graph.forward(images, factors)[:, c, None] + bias
            assert (tuned[c](images) - expected).abs().max() <= 1e-10 * max(1, expected.abs().max())
            assert list(tuned[c].state_dict()) == list(plain[c].state_dict())
            again = module_of_weights(graph, masks[c], c, tuned[c].state_dict())
            assert torch.equal(again(images), tuned[c](images))


def test_a_module_comes_back_from_its_weights() -> None:
    graph = trace(published("simcnn", 1 / 16, 4), 32)
    kernel_mask = np.arange(graph.units.num_kernels) % 2 == 0
    module = extract_module(graph, kernel_mask, 2)
    other = trace(published("simcnn", 1 / 16, 4, seed=1), 32)
    again = module_of_weights(other, kernel_mask, 2, module.state_dict())
    images = torch.randn(2, 3, 32, 32, dtype=torch.double)
    assert torch.equal(module(images), again(images))


def test_masks_that_make_no_module_are_refused() -> None:
    graph = trace(published("rescnn", 1 / 32, 4), 32)
    every, layers = np.ones(graph.units.num_kernels, bool), graph.units.layers
    with pytest.raises(ValueError, match=r"expected a mask over \d+ kernels, given one of shape \(3,\)"):
        extract_module(graph, np.ones(3, bool))
    with pytest.raises(ValueError, match=r"expected a mask over \d+ kernels, given one of shape \(1, "):
        extract_module(graph, every[None])
    empty_layer = every.copy()
    empty_layer[layers[4].kernels] = False
    with pytest.raises(ValueError, match=r"convs\.4: expected at least one kept kernel"):
        extract_module(graph, empty_layer)
    untied = every.copy()
    untied[layers[3].kernels.start] = False
    with pytest.raises(ValueError, match=r"convs\.3 is tied to convs\.1: expected the same for kernel 0"):
        extract_module(graph, untied)


def test_weights_of_another_network_are_refused() -> None:
    graphs = {name: trace(published(name, 1 / 32, 4), 32) for name in NETWORKS}
    every = {name: np.ones(graph.units.num_kernels, bool) for name, graph in graphs.items()}
    weights = extract_module(graphs["simcnn"], every["simcnn"], 1).state_dict()
    with pytest.raises(RuntimeError, match=r"Unexpected key\(s\).*convs\.12"):
        module_of_weights(graphs["rescnn"], every["rescnn"], 1, weights)
    del weights["convs.3.bias"]
    with pytest.raises(RuntimeError, match=r"convs\.3\.bias"):
        module_of_weights(graphs["simcnn"], every["simcnn"], 1, weights)
