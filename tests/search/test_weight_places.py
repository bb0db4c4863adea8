"""Where weights of modules stand in the strong model: what is moved is what is cut."""

import numpy as np
import pytest
import torch
from awkward_networks import TRACEABLE
from exactness import random_mask, traced
from torch import Tensor, nn

from models.graph import Graph
from search.gradient.weight_places import WeightPlaces

TARGET = 3


def smaller(graph: Graph, mask: np.ndarray, seed: int) -> np.ndarray:
    """A mask of some of a mask's units that leaves nothing without channels."""
    random = np.random.default_rng(seed)
    found = graph.units.repair(mask & (random.random(len(mask)) < 0.7), importance=mask + random.random(len(mask)) / 2)
    assert not (found & ~mask).any()
    return found


def parameters(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in network.named_parameters()}


@pytest.mark.parametrize("network", TRACEABLE, ids=lambda network: network.__name__)
def test_moved_weights_are_those_of_the_smaller_module(network: type[nn.Module]) -> None:
    _, graph = traced(network)
    places = WeightPlaces(graph)
    masks = [np.ones(graph.num_units, bool)]
    for seed in range(2):
        masks.append(smaller(graph, masks[-1], seed))
    cuts = [parameters(graph.cut(mask, TARGET)) for mask in masks]
    of_masks = [places.of(mask, TARGET) for mask in masks]
    for before, now in ((0, 1), (1, 2), (0, 2), (2, 2)):
        moved = places.moved(cuts[before], of_masks[before], of_masks[now])
        assert moved.keys() == cuts[now].keys()
        assert all(torch.equal(value, cuts[now][name]) for name, value in moved.items())
    twice = places.moved(places.moved(cuts[0], of_masks[0], of_masks[1]), of_masks[1], of_masks[2])
    assert all(torch.equal(value, cuts[2][name]) for name, value in twice.items())


@pytest.mark.parametrize("network", TRACEABLE, ids=lambda network: network.__name__)
def test_places_are_those_of_the_strong_models_weights(network: type[nn.Module]) -> None:
    _, graph = traced(network)
    mask = random_mask(graph, 0)
    of_module, cut = WeightPlaces(graph).of(mask, TARGET), parameters(graph.cut(mask, TARGET))
    assert of_module.keys() == cut.keys()
    for name, places in of_module.items():
        original = name
        while original not in graph.constants:
            original = original.removesuffix("_again")
        whole = torch.cat([torch.zeros(1).double(), graph.constants[original].detach().flatten()])
        assert torch.equal(whole[places], cut[name])
