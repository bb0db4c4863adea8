"""The project's own networks: the graph finds the published ties, and gives the network's own logits and norms."""

from functools import cache

import naive
import pytest
import torch
from exactness import random_mask
from random_modules import with_random_biases

from models.graph import Graph, trace, unit_norms
from models.rescnn import Conv, ResCNN
from models.simcnn import SimCNN

# The layers that share their units with an earlier one.
TIES = {"simcnn": {}, "rescnn": {3: 1, 7: 5, 11: 9}}


@cache
def traced(name: str) -> tuple[SimCNN | ResCNN, Graph]:
    """A narrow network in float32 with random weights and biases, and its graph."""
    torch.manual_seed(0)
    build = {"simcnn": SimCNN, "rescnn": ResCNN}[name]
    network = with_random_biases(build(5, 1 / 8), 0).float()
    return network, trace(network, 32)


both = pytest.mark.parametrize("name", TIES)


@both
def test_units_are_the_published_ties(name: str) -> None:
    network, graph = traced(name)
    units, expected, start = graph.units, [], 0
    for layer, conv in enumerate(network.convs):
        if layer in TIES[name]:
            expected.append(expected[TIES[name][layer]])
        else:
            expected.append(list(range(start, start + conv.out_channels)))
            start += conv.out_channels
    assert [units.unit_of_kernel[layer.kernels].tolist() for layer in units.layers] == expected
    assert units.num_units == start
    assert [layer.name for layer in units.layers] == [f"convs.{number}" for number in range(len(network.convs))]
    assert [layer.width for layer in units.layers] == [conv.out_channels for conv in network.convs]
    tied = {first: (first,) for first in range(len(network.convs)) if first not in TIES[name]}
    for layer, first in TIES[name].items():
        tied[first] += (layer,)
    assert units.tied_layers == tied
    assert [group.layers for group in units.groups] == list(tied.values())


@pytest.mark.parametrize(
    ("adds", "tied"),
    [
        ((None, None, 0, None, 2, 3), {0: (0, 2, 4), 1: (1,), 3: (3, 5)}),  # chains
        ((None, None, 1, 0, 2), {0: (0, 3), 1: (1, 2, 4)}),
        ((None, 0, 1, None), {0: (0, 1, 2), 3: (3,)}),
    ],
)
def test_chains_of_additions(adds: tuple[int | None, ...], tied: dict[int, tuple[int, ...]]) -> None:
    network = ResCNN(3, layers=[Conv(4, add=add) for add in adds]).eval()
    assert trace(network, 32).units.tied_layers == tied


@both
def test_norms_are_those_of_the_networks_maps(name: str) -> None:
    network, graph = traced(name)
    images = torch.randn(4, 3, 32, 32)
    with torch.inference_mode():
        outputs, logits = naive.run_masked(network, images)
        maps = naive.counted_maps(network, outputs)
        found_logits, of_unit = unit_norms(graph, images)
    assert torch.equal(found_logits, logits)
    assert of_unit.dtype == torch.float32
    expected = torch.cat([feature_map.double().abs().sum((2, 3)) for feature_map in maps], 1)
    of_kernel = torch.as_tensor(graph.units.spread(of_unit.numpy()))
    torch.testing.assert_close(of_kernel.double(), expected, rtol=1e-4, atol=1e-4)


@both
@pytest.mark.parametrize("share", [0.5, 0.0])
def test_narrow_networks_are_cut_exactly(name: str, share: float) -> None:
    """Where a layer has one kernel, or one is left of it."""
    torch.manual_seed(0)
    build = {"simcnn": SimCNN, "rescnn": ResCNN}[name]
    network = with_random_biases(build(3, 1 / 64), 3)
    graph = trace(network, 32)
    images = torch.randn(2, 3, 32, 32).double()
    mask = random_mask(graph, 0, share)
    with torch.no_grad():
        _, expected = naive.run_masked(network, images, torch.tensor(graph.units.spread(mask)).double())
        assert (graph.cut(mask)(images) - expected).abs().max() <= 1e-12
        assert (graph.cut(mask, 1)(images) - expected[:, 1:2]).abs().max() <= 1e-12
    if share == 0:
        assert all(mask[graph.units.of_layer(layer)].sum() == 1 for layer in range(len(network.convs)))
