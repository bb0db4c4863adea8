"""Logits that are selected among outputs, or made of several: a class's module has the rows of its outputs alone."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from exactness import TOLERANCE, check_exact, random_images, random_mask, random_network
from torch import Tensor, nn

from models.graph import trace

SIDE = 12
OUTPUTS = 9
Groups = list[list[int]]


class Selecting(nn.Module):
    """A network whose last layer makes more outputs than the logits that it gives."""

    def __init__(self, end: Callable[[Tensor], Tensor], has_conv_head: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.conv = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 3)
        self.head = nn.Conv2d(12, OUTPUTS, 1) if has_conv_head else nn.Linear(12, OUTPUTS)
        self.end, self.has_conv_head = end, has_conv_head
        self.register_buffer("learned", torch.tensor([2, 0]))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.stem(x).relu()).relu()
        return self.end(self.head(x).mean((2, 3)) if self.has_conv_head else self.head(x.mean((2, 3))))


def grouped(groups: Groups) -> Callable[[Tensor], Tensor]:
    """The log-sum-exp of each group of outputs."""
    order, sizes = [output for group in groups for output in group], [len(group) for group in groups]
    return lambda x: torch.cat([part.logsumexp(1, keepdim=True) for part in x[:, order].split(sizes, 1)], 1)


ENDS: dict[str, tuple[Callable[[Tensor], Tensor], Groups]] = {
    "list": (lambda x: x[:, [4, 1, 7]], [[4], [1], [7]]),
    "slice": (lambda x: x[:, 2:6], [[2], [3], [4], [5]]),
    "index_select": (lambda x: x.index_select(1, torch.tensor([8, 0])), [[8], [0]]),
    "one and the rest": (
        lambda x: torch.cat([x[:, :1], x[:, 1:].logsumexp(1, keepdim=True)], 1),
        [[0], list(range(1, OUTPUTS))],
    ),
    "groups": (grouped([[3, 1], [0], [8, 7, 6, 2]]), [[3, 1], [0], [8, 7, 6, 2]]),
    "columns": (lambda x: torch.cat([x[:, 5:6], x[:, 2:3]], 1), [[5], [2]]),
}


@torch.no_grad()
@pytest.mark.parametrize("has_conv_head", [False, True], ids=["linear head", "convolution as head"])
@pytest.mark.parametrize("end", ENDS)
def test_a_module_has_the_rows_of_its_outputs_alone(end: str, has_conv_head: bool) -> None:
    function, groups = ENDS[end]
    network = Selecting(function, has_conv_head)
    graph = check_exact(network, SIDE)
    assert graph.num_classes == len(groups)
    assert graph.num_units == 8 + 12  # outputs that are not taken are no kernels to search for
    images, mask = random_images(SIDE), random_mask(graph, 0)
    expected = graph.forward(images, torch.as_tensor(mask, dtype=torch.double))
    for target_class, group in enumerate(groups):
        module = graph.cut(mask, target_class)
        weight = module.state_dict()["head.weight"]
        kept = network.head.weight[sorted(group)][:, mask[8:]].reshape(weight.shape)
        assert torch.equal(weight, kept)
        assert (module(images) - expected[:, [target_class]]).abs().max() <= TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize(
    "end",
    [
        lambda x: x[:, [4, 4, 1]],
        lambda x: torch.stack([x[:, 0], x[:, 1:].logsumexp(1)], 1),
        lambda x: x[:, :3] * x[:, 3:6],
    ],
    ids=["an output twice", "stacked", "multiplied"],
)
def test_other_ends_stay_whole_or_exact(end: Callable[[Tensor], Tensor]) -> None:
    check_exact(Selecting(end), SIDE)


@torch.no_grad()
def test_an_index_that_a_checkpoint_may_change_is_not_followed() -> None:
    network = random_network(Selecting(lambda x: x), SIDE)
    network.end = lambda x: x.index_select(1, network.learned)
    graph = trace(network, SIDE)
    module = graph.cut(np.ones(graph.num_units, bool), 1)
    assert module.state_dict()["head.weight"].shape == (OUTPUTS, 12)
    images = random_images(SIDE)
    assert (module(images) - network(images)[:, 1:]).abs().max() <= TOLERANCE


class Permuted(nn.Module):
    """Maps whose channels an index rearranges, some of which go nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.fc = nn.Conv2d(3, 8, 3), nn.Conv2d(6, 8, 3), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x).relu()[:, [5, 2, 7, 0, 1, 6]]
        return self.fc(self.conv2(x).relu().mean((2, 3)))


def test_maps_are_followed_through_an_index() -> None:
    graph = check_exact(Permuted(), SIDE, shares=(0.3, 0.6))
    assert graph.num_units == 6 + 8  # nothing reads the other two
    assert graph.cut(np.ones(graph.num_units, bool), 0).state_dict()["conv1.weight"].shape[0] == 6
