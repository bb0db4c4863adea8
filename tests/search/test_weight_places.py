"""Where weights of modules stand in the strong model: what is moved is what is cut, and whose maps weights read."""

import numpy as np
import pytest
import torch
from awkward_networks import TRACEABLE
from exactness import random_images, random_mask, traced
from torch import Tensor, nn

from models.graph import Graph
from search.gradient.weight_places import WeightPlaces

SIDE, TARGET = 16, 3


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


@pytest.mark.parametrize("network", TRACEABLE, ids=lambda network: network.__name__)
def test_weights_times_gradients_are_the_gradient_of_a_units_factor(network: type[nn.Module]) -> None:
    """Of units that are read by weights; no other weight counts for these."""
    _, graph = traced(network)
    images, mask = random_images(SIDE), random_mask(graph, 1)
    factors = torch.as_tensor(mask).double().requires_grad_()
    expected = torch.autograd.grad(graph.forward(images, factors)[:, TARGET].square().sum(), factors)[0]

    module = graph.cut(mask, TARGET)
    module(images).square().sum().backward()
    units_read = WeightPlaces(graph).units_read(mask, TARGET)
    found = torch.zeros(graph.num_units + 1).double()
    for name, weight in module.named_parameters():
        if weight.grad is not None and name in units_read:
            units = units_read[name].flatten() % len(found)
            found.index_add_(0, units, (weight * weight.grad).detach().flatten())
    read = torch.as_tensor(graph.read_by_weights & mask)
    assert read.any() and (expected[read] != 0).any()
    torch.testing.assert_close(found[:-1][read], expected[read], rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


@pytest.mark.parametrize("network", TRACEABLE, ids=lambda network: network.__name__)
def test_every_kept_unit_has_weights(network: type[nn.Module]) -> None:
    """Also one that a norm over channels reads: else it would look as if nothing depended on it."""
    _, graph = traced(network)
    mask = random_mask(graph, 2)
    found = [units.unique() for units in WeightPlaces(graph).units_read(mask, TARGET).values()]
    assert set(torch.cat(found).tolist()) - {-1} == set(np.flatnonzero(mask).tolist())
