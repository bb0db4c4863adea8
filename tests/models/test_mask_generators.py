"""Mask generators: what they multiply, that networks with them are copied, traced and cut, and who gets none."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import assert_near
from torch import nn

from models.checkpoints import load_foreign_checkpoint
from models.graph import trace
from models.mask_generators import MaskedNetwork, MaskGenerator, observed_masks
from models.names import network_of
from utils.errors import UserError

IMAGES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def masked(name: str) -> MaskedNetwork:
    torch.manual_seed(0)
    network = network_of(f"mwt:{name}", 3).eval()
    assert isinstance(network, MaskedNetwork)
    return network


def test_a_mask_by_hand() -> None:
    generator = MaskGenerator(2, 3)
    with torch.no_grad():
        generator.hidden.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
        generator.out.weight.copy_(torch.diag(torch.tensor([1.0, -1.0, 1.0])))
    maps = torch.tensor([[[[0.0, 2.0]], [[3.0, 3.0]]]])  # means 1 and 3
    assert_near(generator(maps).detach(), torch.tensor([[2.0, -2.0, 1.0]]).tanh().relu())  # the third hidden one is 0
    assert MaskGenerator(8, 128).hidden.out_features == 64


@pytest.mark.parametrize("name", ["simcnn_tiny", "resnet20_x0_25"])
def test_masks_multiply_batch_norms_or_conv_layers(name: str) -> None:
    """With masks of a half everywhere, as the plain network does with half of these layers' weights and biases."""
    network = masked(name)
    plain = copy.deepcopy(network.network)
    for part in plain.modules():
        part._forward_hooks.clear(), part._forward_pre_hooks.clear()
    norms = [layer for layer in plain.modules() if isinstance(layer, nn.BatchNorm2d)]
    convs = [layer for layer in plain.modules() if isinstance(layer, nn.Conv2d)]
    assert len(network.generators) == len(network.masked) == len(convs) - 1
    with torch.no_grad():
        for norm in norms:
            norm.bias.uniform_(-1, 1)
        network.network.load_state_dict(plain.state_dict())
        for layer in (norms or convs)[1:]:
            layer.weight.mul_(0.5), layer.bias.mul_(0.5)
        for generator in network.generators:
            generator.out.weight.zero_(), generator.out.bias.fill_(np.arctanh(0.5))
        assert_near(network(IMAGES), plain(IMAGES))
        assert not any(generator._masks for generator in network.generators)


def test_a_copy_has_generators_of_its_own() -> None:
    network = masked("simcnn_tiny")
    copied = copy.deepcopy(network)
    with torch.no_grad():
        before = network(IMAGES)
        copied.generators[0].out.bias.fill_(-9)
        assert_near(network(IMAGES), before)
        assert (copied(IMAGES) - before).abs().max() > 0


@pytest.mark.parametrize("name", ["simcnn_tiny", "resnet20_x0_25"])
def test_modules_are_cut_with_their_part_of_the_generators(name: str) -> None:
    """As many units as without generators, and a module gives what the network does with the other units' maps at 0."""
    network = masked(name).double()
    graph = trace(network, 32, num_classes=3)
    assert graph.num_units == trace(network_of(name, 3).eval(), 32, num_classes=3).num_units
    random = np.random.default_rng(0)
    mask = graph.units.repair(random.random(graph.num_units) < 0.6)
    module = graph.cut(mask, 1)
    with torch.no_grad():
        expected = graph.forward(IMAGES.double(), torch.as_tensor(mask).double())
        assert_near(module(IMAGES.double())[:, 0], expected[:, 1])
    sizes = [sum(weight.numel() for weight in part.parameters()) for part in (module, network)]
    assert sizes[0] < 0.8 * sizes[1]


class Crossed(nn.Module):
    """Conv layers that run in another order than they are registered in, twice, or in training alone; shared norms."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.unused = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)
        self.late, self.early = nn.Conv2d(6, 5, 3), nn.Conv2d(4, 6, 3)
        self.twice, self.norm, self.head = nn.Conv2d(5, 5, 1), nn.BatchNorm2d(5), nn.Linear(5, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.first(images)
        if self.training:
            maps = maps + self.unused(maps).mean()
        maps = self.norm(self.late(self.early(maps)))
        for _ in range(2):
            maps = self.norm(self.twice(maps))
        return self.head(maps.mean((2, 3)))


def test_masks_are_found_by_their_layers_names() -> None:
    """However the layers are ordered and often they run, with a name in front for each network around it."""
    torch.manual_seed(0)
    masked = MaskedNetwork(Crossed(), 32)
    network = nn.Sequential(nn.Identity(), masked).eval()
    with torch.no_grad():
        for number, generator in enumerate(masked.generators):
            generator.out.weight.zero_(), generator.out.bias.fill_(number / 10)
        with observed_masks(network) as found:
            answer = network(IMAGES)
        assert_near(answer, masked(IMAGES))
    layers = {"late": (1, 5), "early": (2, 6), "twice": (3, 5)}  # `unused` is the first with a mask
    assert {name: (round(float(mask.atanh().mean()) * 10), mask.shape[1]) for name, mask in found.items()} == {
        f"1.network.{name}": expected for name, expected in layers.items()
    }
    assert {name.removeprefix("1.") for name in found} <= {layer.name for layer in trace(masked, 32).units.layers}
    network.train()(IMAGES)
    assert not any(generator._masks for generator in masked.generators)


@pytest.mark.parametrize("name", ["mwt:simcnn_tiny", "mwt:simcnn_tiny[bgr]"])
def test_a_checkpoint_comes_back(name: str, tmp_path: Path) -> None:
    saved, path = network_of(name, 3), tmp_path / "it.pth"
    torch.save(saved.state_dict(), path)
    network = network_of(name, 3)
    load_foreign_checkpoint(network, path)
    assert all(torch.equal(value, saved.state_dict()[key]) for key, value in network.state_dict().items())
    with pytest.raises(UserError, match="of a network with mask generators: name the network mwt:NAME"):
        load_foreign_checkpoint(network_of("simcnn_tiny", 3), path)


def test_one_line_for_what_gets_none() -> None:
    with pytest.raises(UserError, match="expected a network with two conv layers or more, given 0"):
        MaskedNetwork(nn.Sequential(nn.Flatten(), nn.Linear(3072, 2)), 32)
    with pytest.raises(UserError, match=r"mwt:net\.py:build: in your file, return"):
        network_of("mwt:net.py:build", 3)
    with pytest.raises(UserError, match=r"network simcn: |unknown network simcn"):
        network_of("mwt:simcn", 3)
    with pytest.raises(UserError, match="expected mwt: once"):
        network_of("mwt:mwt:simcnn_tiny", 3)
    with pytest.raises(UserError, match="does not run on images of 8 pixels"):
        MaskedNetwork(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 9)), 8)
