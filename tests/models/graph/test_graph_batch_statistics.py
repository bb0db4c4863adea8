"""Batch norm by the batch's statistics, as torch has it in training mode; statistics estimated anew."""

import copy
from collections.abc import Iterator

import pytest
import torch
from awkward_networks import CalledTwice, FixedSizes, PaddedShortcuts, PreActivation, SelectedKernels, conv
from exactness import logits_of_network, random_mask, traced
from torch import Tensor, nn

from models.graph import Graph, estimate_statistics, has_batch_norm, statistics_batches, trace, with_batch_statistics

SIDE = 16
NORMS = (PaddedShortcuts, PreActivation, CalledTwice, SelectedKernels)


def images(seed: int, count: int = 6) -> Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)).double()


def with_wrong_statistics(network: type[nn.Module]) -> tuple[nn.Module, Graph]:
    """A network whose running statistics are of other maps than its own, and its graph; dropout drops nothing."""
    whole = copy.deepcopy(traced(network)[0])
    for part in whole.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.add_(3)
            part.running_var.mul_(20)
    return whole, trace(whole, SIDE)


def statistics_of(network: nn.Module) -> dict[str, Tensor]:
    """Copies of the running statistics."""
    return {name: value.clone() for name, value in network.state_dict().items() if "running_" in name}


@pytest.mark.parametrize("network", NORMS, ids=lambda network: network.__name__)
@torch.no_grad()
def test_a_batch_is_normalised_as_torch_does_in_training(network: type[nn.Module], monkeypatch) -> None:
    whole, graph = with_wrong_statistics(network)
    given, ours = images(0), copy.deepcopy(graph.network)
    by_running = ours(given)
    by_batch = ours.run_graph(with_batch_statistics(ours.graph_program), given)
    monkeypatch.setattr("torch.nn.functional.dropout", lambda x, **_: x)
    expected = logits_of_network(whole.train()(given))
    if network is PreActivation:  # of log_softmax the graph has the logits
        by_batch = by_batch.log_softmax(1)
    torch.testing.assert_close(by_batch, expected)
    assert (by_batch - by_running).abs().max() > 1e-3
    theirs = statistics_of(whole)
    moved = statistics_of(ours)
    assert moved and all(torch.allclose(value, theirs[name]) for name, value in moved.items())


@torch.no_grad()
def test_estimated_statistics_are_the_mean_over_batches() -> None:
    _, graph = with_wrong_statistics(PaddedShortcuts)
    network, batches = graph.cut(random_mask(graph, 0), 1), [images(seed) for seed in range(4)]
    of_batches = []
    for batch in batches:
        alone = copy.deepcopy(network)
        alone.run_graph(with_batch_statistics(alone.graph_program, 0), batch)
        of_batches.append(statistics_of(alone))
    estimate_statistics(network, iter(batches))
    found = statistics_of(network)
    assert len(found) == 14
    for name, value in found.items():
        torch.testing.assert_close(value, torch.stack([each[name] for each in of_batches]).mean(0))
    first = network.run_graph(network.graph_program, batches[0])
    estimate_statistics(network, batches)
    assert torch.equal(network(batches[0]), first)  # nothing of the statistics before is left


@torch.no_grad()
def test_of_one_batch_the_network_answers_by_its_own_mean_and_variance() -> None:
    """By hand, for a norm right behind the images' convolution."""
    torch.manual_seed(0)
    layers = [conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)]
    network, batch = nn.Sequential(*layers).double().eval(), images(1)
    ours = trace(network, SIDE).cut(torch.ones(8, dtype=torch.bool).numpy())
    estimate_statistics(ours, [batch])
    maps = layers[0](batch)
    torch.testing.assert_close(ours.state_dict()["1.running_mean"], maps.mean((0, 2, 3)))
    torch.testing.assert_close(ours.state_dict()["1.running_var"], maps.transpose(0, 1).flatten(1).var(1))


def test_batches_that_statistics_are_estimated_on_are_of_equal_size() -> None:
    """Each counts alike, and one image alone may have no variance."""
    for images, side, sizes in ((251, 8, [126, 125]), (1000, 64, [250] * 4), (101, 65, [34, 34, 33]), (3, 8, [3])):
        places = torch.arange(images)
        batches = statistics_batches(places, side)
        assert list(map(len, batches)) == sizes and torch.equal(torch.cat(tuple(batches)), places)


@torch.no_grad()
def test_networks_without_batch_norm_see_no_batch() -> None:
    network = copy.deepcopy(traced(FixedSizes)[1].network)
    before = {name: value.clone() for name, value in network.state_dict().items()}

    def never() -> Iterator[Tensor]:
        raise AssertionError("a batch was asked for")
        yield

    assert not has_batch_norm(network.graph_program)
    estimate_statistics(network, never())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert with_batch_statistics(network.graph_program) == network.graph_program
