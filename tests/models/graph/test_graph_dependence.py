"""Modules that agree on the masks on which a value depends have the same value."""

import numpy as np
import pytest
import torch
from awkward_networks import ChannelsLast, PaddedShortcuts, PartialConvolutions, Shuffled, UpAndDown
from exactness import random_images, random_mask, traced
from torch import Tensor, nn

from models.graph import dependences

SIDE = 16


@pytest.mark.parametrize("network", [PaddedShortcuts, ChannelsLast, Shuffled, UpAndDown, PartialConvolutions])
@torch.no_grad()
def test_other_masks_do_not_matter(network: type[nn.Module]) -> None:
    _, graph = traced(network)
    images, dependence = random_images(SIDE), dependences(graph)
    numbers = [
        node.name for node in graph.nodes.nodes if node.name in dependence and isinstance(node.meta["shape"], tuple)
    ]

    def values(mask: np.ndarray) -> dict[str, Tensor]:
        seen: dict[str, Tensor] = {}
        observe = {name: lambda value, name=name: seen.update({name: value}) for name in numbers[1:]}
        graph.forward(images, torch.as_tensor(mask).double(), observe=observe)
        return seen

    mask = random_mask(graph, 0)
    before = values(mask)
    is_above = [False] * len(graph.units.groups)
    for number, group in enumerate(graph.units.groups):
        other = mask.copy()
        other[group.units] = graph.units.repair(~mask)[group.units]
        for name, value in values(other).items():
            if number not in dependence[name].above:
                assert torch.equal(value, before[name]), (name, number)
            elif not torch.equal(value, before[name]):
                is_above[number] = True
    assert all(is_above)


def test_the_first_layer_depends_on_its_own_mask_alone() -> None:
    _, graph = traced(PaddedShortcuts)
    dependence = dependences(graph)
    assert dependence["conv2d"].above == frozenset()
    assert dependence["conv2d"].own == dependence["conv2d"].groups == {0}
    assert dependence["conv2d_1"].above == {0}
    last = dependence[graph.program.steps[-1].name]
    assert last.above == set(range(len(graph.units.groups)))
    assert last.own == frozenset()
