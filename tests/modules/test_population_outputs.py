"""A population's outputs are those of its modules, cut out and run one by one."""

import functools

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from awkward_networks import (
    CalledTwice,
    Coordinates,
    Maxout,
    PaddedShortcuts,
    PartialConvolutions,
    SelfAttention,
    Shuffled,
    UpAndDown,
)
from conftest import assert_near
from hypothesis import given, settings
from torch import nn

from models.graph import Graph, trace
from models.graph.cutting import Cut
from models.graph.values import Code, needed
from models.names import network_of
from modules import population_outputs as module
from modules.fast.compiled import compiler
from modules.population_outputs import outputs_with_known, population_outputs, say_what_torch_runs
from utils.seeds import randomise

NUM_CLASSES = 4


class Chain(nn.Module):
    """Pools at the start and at the end, a chain of additions, an addition of the last layer, two hidden layers."""

    def __init__(self) -> None:
        super().__init__()
        widths = [(3, 5), (5, 6), (6, 6), (6, 6), (6, 7), (7, 6)]
        self.convs = nn.ModuleList(nn.Conv2d(channels, kernels, 3, padding=1) for channels, kernels in widths)
        self.fcs = nn.Sequential(nn.Linear(6 * 16, 9), nn.ReLU(), nn.Linear(9, 5), nn.ReLU(), nn.Linear(5, NUM_CLASSES))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second, third, fourth, fifth, last = self.convs
        x = F.max_pool2d(F.relu(first(x)), 2)
        x = F.relu(second(x))
        x = F.relu(third(x)) + x
        x = earlier = F.max_pool2d(F.relu(fourth(x)), 2)
        x = F.relu(last(F.relu(fifth(x)))) + earlier
        return self.fcs(x.flatten(1))


# Batch norm, strides and padded channels; grouped and depthwise; concatenating; gates; what has no compiled form; and
# constants for each image.
OTHERS = [
    Chain,
    PaddedShortcuts,
    Shuffled,
    UpAndDown,
    Maxout,
    PartialConvolutions,
    CalledTwice,
    SelfAttention,
    Coordinates,
]
NETWORKS = {network.__name__: network for network in OTHERS}
BUILT_IN = ["simcnn", "rescnn"]
CPU = torch.device("cpu")


@functools.cache
def strong_model(name: str) -> Graph:
    """A graph with random weights in float32."""
    torch.manual_seed(0)
    if name in NETWORKS:
        network = NETWORKS[name]()
        randomise(network, 16)
        return trace(network, 16)
    network = network_of(f"{name}_x0_06", NUM_CLASSES).eval()
    for layer in [*network.convs, *network.fcs]:
        nn.init.normal_(layer.bias)
    return trace(network, 32)


def images(graph: Graph, count: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    drawn = torch.randn(count, *graph.image_shape, generator=torch.Generator().manual_seed(1))
    return drawn.to(dtype).contiguous(memory_format=torch.channels_last)


def one_by_one(graph: Graph, masks: np.ndarray, target_classes: list[int], batch: torch.Tensor) -> np.ndarray:
    """(modules, n): each module cut out and run alone, in float64."""
    exact = graph.to(dtype=torch.float64)
    with torch.no_grad():
        modules = [exact.cut(mask, c)(batch.double()) for mask, c in zip(masks, target_classes, strict=True)]
    return torch.cat(modules, 1).t().numpy()


@st.composite
def populations(draw: st.DrawFn, graph: Graph) -> np.ndarray:
    """Unit masks with common beginnings, duplicates, groups of one unit, whole groups."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    groups = [group.units for group in graph.units.groups]
    masks: list[np.ndarray] = []
    for _ in range(draw(st.integers(1, 6))):
        like = draw(st.integers(0, len(groups))) if masks else 0  # so many groups as an earlier one
        mask = masks[random.integers(len(masks))].copy() if masks else np.zeros(graph.num_units, bool)
        for units in groups[like:]:
            count = draw(st.sampled_from([1, len(units), max(1, len(units) // 2)]))
            mask[units] = np.isin(units, random.choice(units, count, replace=False))
        masks.append(mask)
    return graph.units.repair(np.stack(masks))


@pytest.mark.slow
@settings(max_examples=40)
@given(
    data=st.data(),
    name=st.sampled_from([*BUILT_IN, *NETWORKS]),
    num_images=st.integers(1, 5),
    batch_size=st.sampled_from([None, 1, 2, 5, 100]),
)
def test_outputs_are_those_of_the_modules(data, name, num_images, batch_size):
    graph = strong_model(name)
    masks = data.draw(populations(graph))
    classes = st.lists(st.integers(0, NUM_CLASSES - 1), min_size=len(masks), max_size=len(masks))
    target_classes = data.draw(classes)
    batch = images(graph, num_images)
    expected = one_by_one(graph, masks, target_classes, batch)
    before = {name: value.clone() for name, value in graph.constants.items()}
    found = population_outputs(graph, masks, target_classes, batch, batch_size)
    assert found.shape == (len(masks), num_images)
    assert found.dtype == np.float32
    assert_near(found, expected)
    # Bit for bit the same, whichever others are evaluated with it and in whatever order.
    order = data.draw(st.permutations(range(len(masks))))
    shuffled = population_outputs(graph, masks[order], [target_classes[row] for row in order], batch, batch_size)
    assert np.array_equal(shuffled, found[order])
    row = data.draw(st.integers(0, len(masks) - 1))
    alone = population_outputs(graph, masks[[row]], [target_classes[row]], batch, batch_size)
    assert np.array_equal(alone[0], found[row])
    assert all(torch.equal(value, before[name]) for name, value in graph.constants.items())
    assert torch.equal(batch, images(graph, num_images))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*BUILT_IN, *NETWORKS])
@pytest.mark.parametrize("has_compiler", [False, True])
def test_one_mask_for_all_classes_gives_all_logits(has_compiler, name, monkeypatch):
    if not has_compiler:
        monkeypatch.setenv("CXX", "")
    graph = strong_model(name)
    batch = images(graph, 6)
    everything = np.ones((graph.num_classes, graph.num_units), bool)
    found = population_outputs(graph, everything, range(graph.num_classes), batch)
    expected = one_by_one(graph, everything, list(range(graph.num_classes)), batch)
    assert_near(found, expected)


@pytest.mark.parametrize("name", ["simcnn", "rescnn", "PaddedShortcuts", "SelfAttention"])
def test_bfloat16_is_near(name):
    """Eight bits of precision, a dozen layers: within a few percent of the spread of the outputs."""
    graph = strong_model(name)
    mask = graph.units.repair(np.random.default_rng(0).random(graph.num_units) < 0.7)
    masks = np.stack([mask, mask])
    found = population_outputs(graph, masks, [0, 3], images(graph, 20, torch.bfloat16))
    expected = one_by_one(graph, masks, [0, 3], images(graph, 20))
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 0.1 * np.abs(expected).max()
    assert not np.allclose(found, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["simcnn_x0_25", "rescnn_x0_25"])
def test_at_the_width_of_the_demo(name):
    """Real widths take other paths through the convolutions than tiny ones: 1e-4 in float32, and bit for bit."""
    torch.manual_seed(0)
    graph = trace(network_of(name, 10).eval(), 32)
    masks = np.random.default_rng(0).random((5, graph.num_units)) < 0.6
    masks[1, : graph.num_units // 3] = masks[0, : graph.num_units // 3]
    masks[2] = masks[0]
    batch, target_classes = images(graph, 9), [0, 3, 0, 9, 5]
    found = population_outputs(graph, masks, target_classes, batch)
    expected = one_by_one(graph, masks, target_classes, batch)
    assert_near(found, expected)
    for row in range(5):
        alone = population_outputs(graph, masks[[row]], [target_classes[row]], batch)
        assert np.array_equal(alone[0], found[row])


def num_operators(graph: Graph, masks: np.ndarray, target_classes: list[int]) -> int:
    """How many operators compute the modules' logits together."""
    plan, code = graph.plan, Code()
    logits = [Cut(plan, code, mask, c).run() for mask, c in zip(masks, target_classes, strict=True)]
    return sum(value.target is not None for value in needed(logits))


def test_values_are_computed_once():
    """SimCNN, operator by operator: 13 convolutions and 5 pools, each conv with ReLU, 3 FC layers, flatten."""
    graph = strong_model("simcnn")
    masks = np.ones((3, graph.num_units), bool)
    alone = num_operators(graph, masks[:1], [0])
    assert alone == 13 + 13 + 5 + 1 + 3 + 2
    assert num_operators(graph, masks, [0, 0, 0]) == alone
    assert num_operators(graph, masks, [0, 1, 1]) == alone + 1  # another row of the last layer
    last = graph.units.groups[-1].units
    masks[1, last[0]] = False  # another last conv layer, its ReLU and pool, all that follows
    assert num_operators(graph, masks, [0, 0, 0]) == alone + 1 + 1 + 1 + 1 + 3 + 2
    masks[1] = True
    masks[1, 0] = False  # all but the images
    assert num_operators(graph, masks, [0, 0, 0]) == 2 * alone


@pytest.mark.parametrize("weight_bytes", [1, 200_000])
def test_parts_of_a_population(weight_bytes, monkeypatch):
    graph = strong_model("rescnn")
    masks = graph.units.repair(np.random.default_rng(0).random((6, graph.num_units)) < 0.5)
    batch, target_classes = images(graph, 3), [0, 1, 2, 3, 0, 1]
    whole = population_outputs(graph, masks, target_classes, batch)
    monkeypatch.setattr(module, "WEIGHT_BYTES", weight_bytes)
    way = module.convolutions_for(batch)
    parts = list(module._parts(graph, masks, target_classes, way, 4))
    assert sorted(row for part in parts for row in part.rows) == list(range(6))
    assert len(parts) == 6 if weight_bytes == 1 else 1 < len(parts) < 6
    assert np.array_equal(population_outputs(graph, masks, target_classes, batch), whole)


def test_what_is_known_does_not_run():
    graph = strong_model("Chain")
    masks = graph.units.repair(np.random.default_rng(0).random((4, graph.num_units)) < 0.5)
    masks[3] = masks[2]
    batch = images(graph, 3)
    expected = population_outputs(graph, masks, [1] * 4, batch)
    found, num_run = outputs_with_known(graph, masks, 1, batch, None)
    assert num_run == 3
    assert np.array_equal(found, expected)
    known = masks[:1], np.full((1, 3), 7, np.float32)
    found, num_run = outputs_with_known(graph, masks, 1, batch, known)
    assert num_run == 2
    assert np.array_equal(found, np.concatenate([known[1], expected[1:]]))


def test_what_does_not_fit_is_refused():
    graph = strong_model("Chain")
    batch, masks = images(graph, 1), np.ones((1, graph.num_units), bool)
    with pytest.raises(ValueError, match="expected a class from 0 to 3, given 4"):
        population_outputs(graph, masks, [4], batch)
    with pytest.raises(ValueError, match=f"expected a mask over {graph.num_units} units"):
        population_outputs(graph, masks[:, 1:], [0], batch)
    with pytest.raises(ValueError, match="at least one kept channel"):
        population_outputs(graph, ~masks, [0], batch)


@pytest.mark.slow
@pytest.mark.skipif(compiler() is None, reason="needs a C++ compiler")
def test_what_torch_runs_is_said_once(no_progress_lines, capsys):
    module._say_once.cache_clear()
    say_what_torch_runs(strong_model("simcnn"), torch.float32, CPU)
    say_what_torch_runs(strong_model("PaddedShortcuts"), torch.float32, CPU)
    say_what_torch_runs(strong_model("SelfAttention"), torch.bfloat16, CPU)
    assert capsys.readouterr().out == ""
    for _ in range(2):
        say_what_torch_runs(strong_model("UpAndDown"), torch.float32, CPU)
    assert capsys.readouterr().out == "no compiled form, so that modules take longer: conv_transpose2d\n"
