"""Our own networks by name, at any width."""

import re

import pytest
import torch

from models.names import NETWORKS, build_own_network, is_own_network
from models.simcnn import SimCNN
from utils.errors import UserError


def test_known_networks() -> None:
    assert {"simcnn", "rescnn", "resnet20"} <= set(NETWORKS)
    assert all(is_own_network(name) and is_own_network(f"{name}_x0_25") for name in NETWORKS)


@pytest.mark.parametrize("name", ["vgg", "simcnn_x", "simcnn_x0", "simcnn_0_25", "cnn", "", "../simcnn", "vgg_x0_25"])
def test_others_are_not_ours(name: str) -> None:
    assert not is_own_network(name)


@pytest.mark.parametrize(("name", "first"), [("simcnn", 64), ("simcnn_x0_25", 16), ("simcnn_x1_5", 96)])
def test_a_suffix_is_a_width(name: str, first: int) -> None:
    with torch.device("meta"):
        network = build_own_network(name, 10, 32)
    assert isinstance(network, SimCNN)
    assert network.convs[0].out_channels == first
    assert [fc.out_features for fc in network.fcs] == [512, 512, 10]


@pytest.mark.parametrize(("digits", "given"), [("0_0", "0.0"), (f"{'9' * 400}_0", "inf")])
def test_a_width_that_no_network_has_is_refused(digits: str, given: str) -> None:
    with pytest.raises(UserError, match=f"expected a width above 0, up to 100, given {re.escape(given)}$"):
        build_own_network(f"simcnn_x{digits}", 10, 32)


def test_images_that_are_too_small_are_refused() -> None:
    with pytest.raises(UserError, match="network rescnn: 5 pools leave nothing of 31 pixels: expected at least 32"):
        build_own_network("rescnn", 10, 31)


def test_weights_are_of_the_global_seed() -> None:
    networks = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        networks.append(build_own_network("rescnn_x0_0625", 4, 32))
    first, again, other = (network.fcs[0].weight for network in networks)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len(first) == 4
