"""Networks of torchvision and timm: exact, and with the layers and units that are known."""

from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from exactness import check_exact
from torch import nn

pytestmark = pytest.mark.slow
LONG = pytest.mark.long


def small_vgg() -> nn.Module:
    """vgg16_bn with one linear layer in place of three, which have 120 million weights."""
    with torch.device("meta"):
        network = torchvision.models.vgg16_bn(num_classes=10, init_weights=False)
        network.avgpool, network.classifier = nn.AdaptiveAvgPool2d(2), nn.Linear(2048, 10)
    return network.to_empty(device="cpu")


def small_densenet() -> nn.Module:
    """densenet121 with fewer layers in its blocks."""
    return torchvision.models.DenseNet(12, (3, 4, 3, 2), 16, num_classes=10)


def torchvision_network(name: str) -> Callable[[], nn.Module]:
    """What makes one of torchvision's, without the second classifier of training."""
    more = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    return lambda: torchvision.models.get_model(name, num_classes=10, **more)


def timm_network(name: str) -> Callable[[], nn.Module]:
    """What makes one of timm's."""
    return lambda: timm.create_model(name, num_classes=10)


@pytest.mark.parametrize(
    ("build", "side", "layers", "kernels", "units", "groups"),
    [
        pytest.param(torchvision_network("resnet18"), 32, 20, 4800, 2880, 12, id="resnet18"),
        pytest.param(small_vgg, 32, 13, 4224, 4224, 13, id="vgg16_bn", marks=LONG),
        pytest.param(small_densenet, 32, 28, 835, 835, 28, id="densenet"),
        pytest.param(torchvision_network("mobilenet_v2"), 32, 52, 17056, 9128, 25, id="mobilenet_v2"),
        pytest.param(torchvision_network("squeezenet1_1"), 32, 25, 2954, 2944, 25, id="squeezenet1_1"),
        pytest.param(
            torchvision_network("shufflenet_v2_x0_5"), 32, None, None, None, None, id="shufflenet_v2", marks=LONG
        ),
        pytest.param(torchvision_network("googlenet"), 32, 57, 7280, 7280, 57, id="googlenet", marks=LONG),
        pytest.param(torchvision_network("convnext_tiny"), 32, 58, 41184, 27936, 22, id="convnext_tiny", marks=LONG),
        pytest.param(timm_network("test_efficientnet"), 32, None, None, None, None, id="timm-efficientnet"),
        pytest.param(timm_network("convnextv2_atto"), 32, None, None, None, None, id="timm-convnextv2", marks=LONG),
        pytest.param(timm_network("regnetx_002"), 32, None, None, None, None, id="timm-regnetx", marks=LONG),
    ],
)
def test_cut_is_exact(
    build: Callable[[], nn.Module],
    side: int,
    layers: int | None,
    kernels: int | None,
    units: int | None,
    groups: int | None,
) -> None:
    torch.manual_seed(0)
    graph = check_exact(build(), side)
    found = graph.units
    assert set(found.unit_of_kernel.tolist()) - {-1} == set(range(found.num_units))
    if layers is not None:
        cuttable = sum(layer.is_cuttable for layer in found.layers)
        assert (cuttable, found.num_kernels, found.num_units, len(found.groups)) == (layers, kernels, units, groups)
