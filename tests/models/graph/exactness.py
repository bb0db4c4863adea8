"""What must hold for every network: the cut one computes what the masked one computes, its units' factors included."""

from collections.abc import Iterable
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from models.graph import Graph, trace
from utils.seeds import randomise

TOLERANCE = 1e-10  # in float64


def logits_of_network(outputs: Tensor | dict | tuple | list) -> Tensor:
    """The logits among what a network gives."""
    if isinstance(outputs, Tensor):
        return outputs
    return next(iter(outputs.values() if isinstance(outputs, dict) else outputs))


def random_network(network: nn.Module, side: int) -> nn.Module:
    """The network in float64, with random weights that matter."""
    randomise(network, side)
    return network.double()


@cache
def traced(network: type[nn.Module], side: int = 16) -> tuple[nn.Module, Graph]:
    """A network in float64 with random weights, and its graph; for reading only."""
    torch.manual_seed(0)
    whole = random_network(network(), side)
    return whole, trace(whole, side)


def random_images(side: int, count: int = 2) -> Tensor:
    """(count, 3, side, side) float64."""
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(5)).double()


def random_mask(graph: Graph, seed: int, share: float = 0.6) -> np.ndarray:
    """(units,) bool that leaves nothing without channels."""
    return graph.units.repair(np.random.default_rng(seed).random(graph.num_units) < share)


@torch.no_grad()
def check_exact(
    network: nn.Module, side: int, shares: Iterable[float] = (0.6,), same_logits: bool = True, is_lively: bool = True
) -> Graph:
    """Trace a network with random weights, and compare it masked and cut; returns its graph.

    Args:
        network: gets random weights, in float64.
        side: of its images.
        shares: of the units that masks keep; a random mask for each.
        same_logits: whether the graph has the network's own outputs.
        is_lively: whether images and masks are to make a difference, without which two wrong networks might agree.
    """
    random_network(network, side)
    graph = trace(network, side)
    images = random_images(side)
    whole = graph.forward(images)
    if same_logits:
        assert (whole - logits_of_network(network(images))).abs().max() <= TOLERANCE
    assert not is_lively or (whole - whole.flip(0)).abs().max() > 1e-3
    for seed, share in enumerate(shares):
        mask = random_mask(graph, seed, share)
        factors = torch.as_tensor(mask, dtype=torch.double)
        masked = graph.forward(images, factors)
        assert mask.all() or not is_lively or (masked - whole).abs().max() > 1e-6
        cut = graph.cut(mask)
        assert (cut(images) - masked).abs().max() <= TOLERANCE
        assert (graph.cut(mask, 1)(images) - masked[:, 1:2]).abs().max() <= TOLERANCE
        for target_class, logits in ((None, slice(None)), (1, slice(1, 2))):  # also of factors between 0 and 1
            part = graph.cut(mask, target_class)
            fractions = torch.rand(len(mask), generator=torch.Generator().manual_seed(seed)).double()
            found = part.run_graph(part.graph_program, images, factors=fractions)
            assert (found - graph.forward(images, factors * fractions)[:, logits]).abs().max() <= TOLERANCE
        again = graph.cut(mask)
        again.load_state_dict(cut.state_dict())
        assert torch.equal(again(images), cut(images))
        assert sum(p.numel() for p in cut.parameters()) <= sum(p.numel() for p in network.parameters())
    return graph
