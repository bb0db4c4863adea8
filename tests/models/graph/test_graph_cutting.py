"""A cut network as a module of torch: its weights' names, copies, precisions, export, and what is refused."""

import copy

import numpy as np
import pytest
import torch
from awkward_networks import NamedAsAttributes, PaddedShortcuts, Parametrised, Shuffled, Standardised
from exactness import random_images, random_mask, traced
from torch import Tensor, nn

from models.graph import Graph, GraphNetwork, trace

SIDE = 16


def cut_network(network: type[nn.Module]) -> tuple[nn.Module, Graph, GraphNetwork]:
    """A network in float64, its graph, and a smaller network with one logit."""
    whole, graph = traced(network)
    return whole, graph, graph.cut(random_mask(graph, 0), 2)


@pytest.mark.parametrize("network", [PaddedShortcuts, Shuffled, NamedAsAttributes])
def test_weights_have_the_networks_names_in_its_order(network: type[nn.Module]) -> None:
    whole, _, cut = cut_network(network)
    names = [name for name in whole.state_dict() if not name.endswith("num_batches_tracked")]
    assert list(cut.state_dict()) == names
    assert [name for name, _ in cut.named_parameters()] == [name for name, _ in whole.named_parameters()]


def test_computed_weights_have_their_layers_names() -> None:
    _, _, cut = cut_network(Parametrised)
    assert {"conv1.weight", "conv2.weight"} <= set(cut.state_dict())
    assert not any("parametrizations" in name for name in cut.state_dict())


def test_constants_of_the_code_are_not_in_the_state() -> None:
    whole, _, cut = cut_network(Standardised)
    assert "blur" not in cut.state_dict()
    assert {"mean", "conv2.weight", "fc.bias"} <= set(cut.state_dict())
    assert not whole.conv2.weight.equal(cut.state_dict()["conv2.weight"])


def test_a_cut_network_shares_nothing() -> None:
    whole, graph, _ = cut_network(PaddedShortcuts)
    cut = graph.cut(np.ones(graph.num_units, bool))
    with torch.no_grad():
        for value in cut.state_dict().values():
            value.zero_()
    assert whole.fc.weight.abs().max() > 0


@pytest.mark.parametrize("network", [PaddedShortcuts, Shuffled, Standardised])
def test_copies_precisions_and_orders_of_memory(network: type[nn.Module]) -> None:
    _, _, cut = cut_network(network)
    images = random_images(SIDE)
    with torch.no_grad():
        expected = cut(images)
        twin = copy.deepcopy(cut)
        assert list(twin.state_dict()) == list(cut.state_dict())
        assert torch.equal(twin(images), expected)
        single = twin.float()(images.float())
        assert single.dtype == torch.float32
        torch.testing.assert_close(single, expected.float(), rtol=1e-3, atol=1e-4)
        assert torch.equal(cut(images), expected)
        channels_last = cut.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(channels_last(images), expected, rtol=1e-9, atol=1e-9)
        assert channels_last(images[:1]).shape == (1, 1)


def test_a_cut_network_can_be_exported_and_trained() -> None:
    _, _, cut = cut_network(Shuffled)
    images = random_images(SIDE, 3)
    program = torch.export.export(cut, (images,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), strict=False)
    assert torch.allclose(program.module()(images[:2]), cut(images[:2]))
    cut(images).sum().backward()
    assert all(parameter.grad is not None for parameter in cut.parameters())


def test_a_graph_in_another_precision() -> None:
    _, graph, cut = cut_network(Shuffled)
    single = graph.to(dtype=torch.float32)
    assert single.digest == graph.digest
    found = single.cut(random_mask(graph, 0), 2)
    assert all(value.dtype == torch.float32 for value in found.state_dict().values())
    images = random_images(SIDE)
    torch.testing.assert_close(found(images.float()), cut(images).float(), rtol=1e-3, atol=1e-4)
    assert graph.device_and_dtype == (torch.device("cpu"), torch.float64)


def test_the_digest_tells_structures_apart() -> None:
    digests = {traced(network)[1].digest for network in (PaddedShortcuts, Shuffled, Standardised)}
    assert len(digests) == 3
    assert trace(PaddedShortcuts(), SIDE).digest in digests
    assert trace(PaddedShortcuts(), 2 * SIDE).digest not in digests
    wider = Shuffled()
    wider.fc = nn.Linear(48, 11)
    assert trace(wider, SIDE).digest not in digests


class Centred(nn.Module):
    """Buffers that the code reshapes before it uses them."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.1, 0.2, 0.3]))
        self.conv, self.gain = nn.Conv2d(3, 8, 3), nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        x = x - self.mean.view(1, -1, 1, 1)
        return (self.conv(x) * self.gain.view(1, -1, 1, 1)).mean((2, 3))


def test_what_is_made_of_buffers_alone_is_no_parameter() -> None:
    network = trace(Centred(), 8).network
    assert [value.numel() for value in network.buffers()] == [3]
    assert sorted(value.numel() for value in network.parameters()) == [8, 8, 8 * 27]
    assert len(network.state_dict()) == 4
