"""A module computes what the strong model computes with the dropped kernels' feature maps at zero."""

from functools import cache

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from random_modules import with_random_biases

from models.graph import Graph, trace
from models.rescnn import ResCNN
from models.simcnn import SimCNN
from modules.module import extract_modules, log_odds, module_of_weights

NETWORKS = {"simcnn": SimCNN, "rescnn": ResCNN}


@cache
def random_graph(name: str, seed: int) -> Graph:
    """The graph of a narrow network with three classes, in float64, with biases."""
    torch.manual_seed(seed)
    return trace(with_random_biases(NETWORKS[name](3, 1 / 16), seed), 32)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@settings(max_examples=4)
@given(seed=st.integers(0, 2**32 - 1))
def test_modules_stand_in_class_order_with_weights_of_their_own(name: str, seed: int) -> None:
    """Of the strong model's weights they answer what it does with masks; of others as the network that has these."""
    graph, other, random = random_graph(name, 0), random_graph(name, 1), np.random.default_rng(seed)
    unit_masks = graph.units.repair(random.random((2, graph.num_units)) < 0.6)
    masks, classes = graph.units.spread(unit_masks), (0, 2)
    images = torch.tensor(random.normal(size=(2, 3, 32, 32)))
    with torch.no_grad():
        own = extract_modules(graph, masks, classes)
        weights = [module.state_dict() for module in extract_modules(other, masks, classes)]
        others = extract_modules(graph, masks, classes, weights)
        for modules, strong in ((own, graph), (others, other)):
            for module, mask, target_class in zip(modules, unit_masks, classes, strict=True):
                expected = strong.forward(images, torch.as_tensor(mask).double())[:, target_class, None]
                assert (module(images) - expected).abs().max() <= 1e-10 * max(1, expected.abs().max())
        again = module_of_weights(other, masks[1], 2, own[1].state_dict())
        assert torch.equal(again(images), own[1](images))
        with pytest.raises(RuntimeError):
            extract_modules(graph, np.ones_like(masks), classes, [module.state_dict() for module in own])


@given(
    rows=st.lists(st.lists(st.floats(-1e4, 1e4), min_size=3, max_size=3), min_size=1, max_size=4),
    shift=st.floats(-1e3, 1e3),
)
def test_log_odds_are_those_of_the_softmax(rows: list[list[float]], shift: float) -> None:
    logits = torch.tensor(rows, dtype=torch.float64)
    found = log_odds(logits)
    others = torch.stack([logits[:, [1, 2]], logits[:, [0, 2]], logits[:, [0, 1]]], 1).logsumexp(2)
    torch.testing.assert_close(found, logits - others)
    torch.testing.assert_close(log_odds(logits + shift), found, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.sigmoid(), logits.softmax(1))
    assert found.isfinite().all()
