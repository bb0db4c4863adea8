"""Batch norms folded into the layers in front of them: the same logits, units and modules."""

import numpy as np
import pytest
import torch
from awkward_networks import CalledTwice, PaddedShortcuts, PreActivation, SelectedKernels
from exactness import random_images, random_mask, traced
from torch import nn

from models.graph import Graph, fold_batch_norm

SIDE = 16


def batch_norms(graph: Graph) -> int:
    """How many are left."""
    return sum(value.kind == "batch_norm" for value in graph.values)


@pytest.mark.parametrize(
    ("network", "left"),
    [
        (PaddedShortcuts, 0),
        (PreActivation, 2),  # one stands behind an addition, one behind a layer that is read twice
        (CalledTwice, 2),  # both, behind one layer that is called twice
        (SelectedKernels, 0),
    ],
)
@torch.no_grad()
def test_folding_is_exact(network: type[nn.Module], left: int) -> None:
    _, graph = traced(network)
    images = random_images(SIDE)
    before = graph.forward(images)
    folded = fold_batch_norm(graph)
    assert batch_norms(folded) == left
    torch.testing.assert_close(folded.forward(images), before, rtol=1e-10, atol=1e-10)
    assert torch.equal(graph.forward(images), before)
    assert np.array_equal(folded.units.unit_of_kernel, graph.units.unit_of_kernel)
    mask = random_mask(graph, 0)
    assert np.array_equal(folded.units.repair(mask), mask)
    torch.testing.assert_close(folded.cut(mask, 1)(images), graph.cut(mask, 1)(images), rtol=1e-9, atol=1e-10)


def test_names_of_folded_weights() -> None:
    _, graph = traced(PaddedShortcuts)
    cut = fold_batch_norm(graph).cut(np.ones(graph.num_units, bool))
    names = {"weight", "bias"}
    assert {name.rpartition(".")[2] for name in cut.state_dict()} == names
    assert "blocks.0.conv1.bias" in dict(cut.named_parameters())
    assert not any("bn" in name for name in cut.state_dict())
