"""The project's own networks: the graph finds the same kernels, modules and importance as the code made for them."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from models.cnn import CNN, Architecture
from models.graph import Graph, trace, unit_norms
from models.rescnn import ARCHITECTURE as RESCNN
from models.simcnn import ARCHITECTURE as SIMCNN
from modules import kernel_importance
from modules.module import extract_module

SMALL = {"simcnn": SIMCNN.scaled(1 / 8), "rescnn": RESCNN.scaled(1 / 8)}
NETWORKS: dict[str, tuple[CNN, Graph]] = {}


def traced(name: str) -> tuple[CNN, Graph]:
    """The network with random weights and biases, and its graph."""
    if name not in NETWORKS:
        torch.manual_seed(0)
        model = CNN(SMALL[name], 5).eval()
        for layer in [*model.convs, *model.fcs]:
            torch.nn.init.normal_(layer.bias, std=0.1)
        NETWORKS[name] = model, trace(model, 32)
    return NETWORKS[name]


both = pytest.mark.parametrize("name", SMALL)


@both
def test_units_are_the_kernels_with_genes(name: str) -> None:
    model, graph = traced(name)
    architecture: Architecture = model.architecture
    first_unit: dict[int, int] = {}
    for layer in architecture.free_layers:
        first_unit[layer] = sum(architecture.num_kernels[other] for other in first_unit)
    widths = zip(architecture.num_kernels, architecture.tied_to, strict=True)
    of_layers = [first_unit[first] + np.arange(width) for width, first in widths]
    assert np.array_equal(graph.units.unit_of_kernel, np.concatenate(of_layers))
    assert [layer.kernels for layer in graph.units.layers] == list(architecture.layer_slices)
    assert [layer.name for layer in graph.units.layers] == [f"convs.{i}" for i in range(len(architecture.convs))]
    assert [group.layers[0] for group in graph.units.groups] == list(architecture.free_layers)
    for group in graph.units.groups:
        assert all(architecture.tied_to[layer] == group.layers[0] for layer in group.layers)


@settings(max_examples=15)
@given(name=st.sampled_from(list(SMALL)), seed=st.integers(0, 2**32 - 1), target_class=st.sampled_from([None, 0, 4]))
def test_modules_are_equal(name: str, seed: int, target_class: int | None) -> None:
    model, graph = traced(name)
    random = np.random.default_rng(seed)
    unit_mask = graph.units.repair(random.random(graph.num_units) < random.random())
    expected = extract_module(model, graph.units.spread(unit_mask), target_class)
    found = graph.cut(unit_mask, target_class)
    assert list(found.state_dict()) == list(expected.state_dict())
    for weight_name, weight in expected.state_dict().items():
        assert torch.equal(found.state_dict()[weight_name], weight)
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(found(images), expected(images))
        images = images.contiguous(memory_format=torch.channels_last)
        for module in (found, expected):
            module.to(memory_format=torch.channels_last)
        assert torch.equal(found(images), expected(images))


@both
def test_logits_are_equal(name: str) -> None:
    model, graph = traced(name)
    images = torch.randn(3, 3, 32, 32)
    assert torch.equal(graph.forward(images), model(images))


@both
def test_importance_is_equal(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, graph = traced(name)
    images = torch.randn(4, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    norms, observe = kernel_importance._norm_collector(len(images), model.architecture, images.device)
    with torch.inference_mode():
        logits = model.classify(model.convolve(images, observe))
        found_logits, of_unit = unit_norms(graph, images)
    assert torch.equal(found_logits, logits)
    assert of_unit.dtype == torch.float32
    assert torch.equal(graph.units.spread(of_unit), norms)


def test_narrow_networks() -> None:
    torch.manual_seed(0)
    model = CNN(SIMCNN.scaled(1 / 64), 3).eval()
    graph = trace(model, 32)
    assert graph.num_units == sum(model.architecture.num_kernels)
    images = torch.randn(2, 3, 32, 32)
    mask = graph.units.repair(np.zeros(graph.num_units, bool))
    with torch.no_grad():
        assert torch.equal(graph.cut(mask, 1)(images), extract_module(model, graph.units.spread(mask), 1)(images))
