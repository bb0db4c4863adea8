"""Networks of our own, at any width, and of libraries by name."""

import sys

import pytest
import torch
from conftest import refusal_of

from models.names import build_own_network, network_of
from models.simcnn import SimCNN


def refusal(name: str, num_classes: int = 10) -> str:
    return refusal_of(lambda: network_of(name, num_classes))


@pytest.mark.parametrize(
    ("name", "weight"),
    [
        ("torchvision:squeezenet1_1", "classifier.1.weight"),
        ("torchvision:googlenet", "fc.weight"),
        ("timm:test_resnet.r160_in1k", "fc.weight"),
    ],
)
def test_libraries_networks_are_made_and_never_downloaded(
    name: str, weight: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_download(*args: object, **kwargs: object) -> None:
        raise AssertionError("downloads")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", no_download)
    monkeypatch.setattr("socket.socket.connect", no_download)
    assert len(network_of(name, 7).state_dict()[weight]) == 7


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("simcn", "did you mean simcnn"),
        ("resnet18", "did you mean torchvision:resnet18?"),
        ("torchvison:resnet18", "did you mean torchvision:resnet18?"),
        ("torchvision:resnet19", "did you mean torchvision:resnet18"),
        ("timm:resnet19", "did you mean timm:resnet18"),
        ("torchvision:fasterrcnn_resnet50_fpn", "expected simcnn, rescnn, "),  # its backbone would be downloaded
        ("timm:hf-hub:timm/resnet18.a1_in1k", "expected simcnn, rescnn, "),  # its description would be downloaded
        ("", "unknown network : expected simcnn, rescnn, "),
        ("simcnn_x0_0", "network simcnn_x0_0: expected a width above 0, up to 100, given 0.0"),
        (f"simcnn_x{'9' * 400}_0", "expected a width above 0, up to 100, given inf"),
        (
            "vgg_x0_25",
            "unknown network vgg_x0_25: expected simcnn, rescnn, resnet20, one of these with a width like simcnn_x0_25",
        ),
        ("simcnn_x", "did you mean simcnn"),
        ("simcnn_0_25", "did you mean simcnn"),
        ("../simcnn", "did you mean simcnn"),
        ("resnet2", "resnet20"),
        ("timm:resnet18.no_such_tag", "cannot be made: RuntimeError: Invalid pretrained tag"),
    ],
)
def test_unknown_names_are_refused_with_those_that_are_alike(name: str, expected: str) -> None:
    assert expected in refusal(name)


def test_too_few_classes() -> None:
    assert "expected at least 2 classes, given 1" in refusal("simcnn", 1)


def test_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    assert refusal("timm:resnet18").endswith("first run: pip install timm")


@pytest.mark.parametrize(("name", "first"), [("simcnn", 64), ("simcnn_x0_25", 16), ("simcnn_x1_5", 96)])
def test_a_suffix_is_a_width(name: str, first: int) -> None:
    with torch.device("meta"):
        network = build_own_network(name, 10, 32)
    assert isinstance(network, SimCNN)
    assert network.convs[0].out_channels == first
    assert [fc.out_features for fc in network.fcs] == [512, 512, 10]


def test_weights_are_of_the_global_seed() -> None:
    networks = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        networks.append(build_own_network("rescnn_x0_0625", 4, 32))
    first, again, other = (network.fcs[0].weight for network in networks)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_images_that_are_too_small_for_our_own() -> None:
    message = refusal_of(lambda: network_of("simcnn", 10, image_side=16))
    assert message == "network simcnn: 5 pools leave nothing of 16 pixels: expected at least 32"
