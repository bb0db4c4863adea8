"""An independent judge: Torch-Pruning, which follows dependences in another way, cuts the same network out."""

import copy

import numpy as np
import pytest
import torch
import torch_pruning as tp
from exactness import random_images
from torch import nn

from models.graph import Graph, trace
from models.names import network_of
from utils.seeds import randomise

SIDE = 64


def cut_by_torch_pruning(network: nn.Module, graph: Graph, unit_mask: np.ndarray) -> nn.Module:
    """The network without the dropped units' kernels, and whatever Torch-Pruning takes away with them."""
    cut = copy.deepcopy(network)
    dependency_graph = tp.DependencyGraph().build_dependency(cut, random_images(SIDE, 1))
    layers = dict(cut.named_modules())
    units = graph.units
    for group in units.groups:
        first = units.layers[group.layers[0]]
        unit_of_kernel = units.unit_of_kernel[first.kernels]
        dropped = np.flatnonzero(np.isin(unit_of_kernel, group.units[~unit_mask[group.units]]))
        if len(dropped):
            layer = layers[first.name]
            dependency_graph.get_pruning_group(layer, tp.prune_conv_out_channels, dropped.tolist()).prune()
    return cut


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::Warning")  # Torch-Pruning's own
@pytest.mark.parametrize(
    "name", ["resnet18", *(pytest.param(name, marks=pytest.mark.long) for name in ("vgg11_bn", "mobilenet_v2"))]
)
def test_the_same_network_is_cut_out(name: str) -> None:
    network = network_of(f"torchvision:{name}", 10)
    randomise(network, SIDE)
    network = network.double().eval()
    graph = trace(network, SIDE)
    unit_mask = graph.units.repair(np.random.default_rng(0).random(graph.num_units) < 0.6)
    images = random_images(SIDE, 3)
    judge = cut_by_torch_pruning(network, graph, unit_mask)
    with torch.no_grad():
        expected = judge(images)
        found = graph.cut(unit_mask)(images)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10 * float(expected.abs().max()))
    assert expected.std() > 1e-3 * expected.abs().max()
