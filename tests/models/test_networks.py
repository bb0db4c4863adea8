"""Our own networks are the published ones, at any width and image side."""

import itertools
import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import torchvision
from conftest import assert_near
from exactness import check_exact
from hypothesis import given
from torch import nn

from models.evaluation import count_parameters, cpu_state
from models.graph import flops_of, trace
from models.layers import side_behind_pools
from models.names import NETWORKS
from models.rescnn import LAYERS, Conv, ResCNN
from models.resnet20 import ResNet20
from models.simcnn import SimCNN


def multiply_accumulates(network: nn.Module) -> int:
    """Counted where they happen: per output value of a layer, the products that are summed for it."""
    count = 0

    def hook(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal count
        count += output.numel() * layer.weight[0].numel()

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(hook)
    network.eval()(torch.zeros(1, 3, 32, 32))
    return count


@pytest.mark.parametrize(("build", "millions", "kernels"), [(SimCNN, 313.73, 4224), (ResCNN, 431.17, 4288)])
def test_published_cost(build: type, millions: float, kernels: int) -> None:
    network = build(10)
    assert round(multiply_accumulates(network) / 1e6, 2) == millions
    assert flops_of(network, (3, 32, 32)) == 2 * multiply_accumulates(network)
    assert sum(conv.out_channels for conv in network.convs) == kernels


def test_simcnn_has_the_conv_layers_of_vgg16() -> None:
    with torch.device("meta"):
        vgg = [layer for layer in torchvision.models.vgg16().features if not isinstance(layer, nn.ReLU)]
        ours = SimCNN(10)
    shapes = [layer.weight.shape for layer in vgg if isinstance(layer, nn.Conv2d)]
    assert [conv.weight.shape for conv in ours.convs] == shapes
    pooled = [isinstance(after, nn.MaxPool2d) for conv, after in itertools.pairwise(vgg) if isinstance(conv, nn.Conv2d)]
    last_of_blocks = list(itertools.accumulate(ours.block_sizes))
    assert [number + 1 in last_of_blocks for number in range(len(shapes))] == pooled
    assert [fc.out_features for fc in ours.fcs] == [512, 512, 10]


def test_rescnn_is_the_published_one() -> None:
    published = ["64", "128p", "128", "128", "256p", "512p", "512", "512", "512p", "512p", "512", "512"]
    assert [f"{layer.kernels}{'p' * layer.pool}" for layer in LAYERS] == published
    assert {number: layer.add for number, layer in enumerate(LAYERS) if layer.add is not None} == {3: 1, 7: 5, 11: 9}
    network = ResCNN(10, 1 / 32)
    assert [conv.out_channels * 32 for conv in network.convs] == [layer.kernels for layer in LAYERS]
    assert len(network.fcs) == 1


def test_rescnn_by_hand() -> None:
    """Convolution, ReLU, pool, addition: in this order."""
    torch.manual_seed(0)
    layers = (Conv(4), Conv(5, pool=True), Conv(5), Conv(5, add=1), Conv(5, pool=True), Conv(5))
    network, images = ResCNN(3, layers=layers).eval(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        convs = network.convs
        one = torch.max_pool2d(torch.relu(convs[1](torch.relu(convs[0](images)))), 2)
        three = torch.relu(convs[3](torch.relu(convs[2](one)))) + one
        five = torch.relu(convs[5](torch.max_pool2d(torch.relu(convs[4](three)), 2)))
        assert_near(network(images), network.fcs[0](five.flatten(1)))


@pytest.mark.long
@given(width=st.floats(0.001, 2), name=st.sampled_from(["simcnn", "rescnn", "resnet20"]))
def test_any_width(width: float, name: str) -> None:
    with torch.device("meta"):
        full, scaled = NETWORKS[name](10, 1.0, 32), NETWORKS[name](10, width, 32)
    pairs = zip(full.modules(), scaled.modules(), strict=True)
    convs = [(before, after) for before, after in pairs if isinstance(before, nn.Conv2d)]
    for before, after in convs:
        assert after.out_channels == max(1, round(before.out_channels * width))
    assert [conv.in_channels for _, conv in convs] == [3, *(conv.out_channels for _, conv in convs[:-1])]


POOLS = {"simcnn": 5, "simcnn_weak": 4, "simcnn_tiny": 2, "rescnn": 5, "rescnn_weak": 3, "rescnn_tiny": 2}


@pytest.mark.parametrize("side", [32, 64, 100])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_runs_and_counts_its_parameters(name: str, side: int) -> None:
    network = NETWORKS[name](7, 1 / 16, side)
    assert network.eval()(torch.zeros(2, 3, side, side)).shape == (2, 7)
    pools = POOLS.get(name)
    if pools is None:  # it is not of conv and FC layers alone
        return
    widths = [3, *(conv.out_channels for conv in network.convs)]
    convs = sum(9 * before * after + after for before, after in itertools.pairwise(widths))
    hidden = [fc.out_features for fc in network.fcs]
    fcs = [widths[-1] * (side // 2**pools) ** 2, *hidden]
    assert count_parameters(network) == convs + sum((a + 1) * b for a, b in itertools.pairwise(fcs))


def test_pools_that_leave_nothing_are_refused() -> None:
    assert [side_behind_pools(side, 5) for side in (32, 63, 64, 100)] == [1, 1, 2, 3]
    for build in (SimCNN, ResCNN):
        with pytest.raises(ValueError, match="5 pools leave nothing of 16 pixels: expected at least 32"):
            build(10, 1 / 16, 16)


def test_dropout_stands_before_the_last_layers() -> None:
    """After each hidden FC layer, or before the only one; nowhere between conv layers."""
    calls: list[int] = []
    for network, widths in ((SimCNN(3, 1 / 32), [512, 512]), (ResCNN(3, 1 / 32), [16])):
        calls.clear()
        network.dropout.register_forward_hook(lambda _, inputs, __: calls.append(inputs[0].shape[1]))
        network(torch.zeros(2, 3, 32, 32))
        assert calls == widths
    with torch.device("meta"):
        assert SimCNN(10).dropout.p == 0.5
        assert ResCNN(10).dropout.p == 0.4
        assert ResCNN(10, dropout=0.0).dropout.p == 0


@pytest.mark.parametrize("build", [SimCNN, ResCNN, ResNet20])
def test_he_initialisation(build: type) -> None:
    torch.manual_seed(0)
    network = build(10, 0.25)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            assert layer.bias is None or layer.bias.abs().max() == 0
            fan_in, count = layer.weight[0].numel(), layer.weight.numel()
            # The standard deviation of an estimated standard deviation is 1 / sqrt(2 n): five of them are allowed.
            assert layer.weight.std().item() * math.sqrt(fan_in / 2) == pytest.approx(1, abs=5 / math.sqrt(2 * count))


def test_resnet20_is_the_published_one() -> None:
    network = ResNet20(10)
    assert round(count_parameters(network) / 1e6, 2) == 0.27
    convs = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    assert [conv.out_channels for conv in convs] == [16] * 7 + [32] * 6 + [64] * 6
    assert [number for number, conv in enumerate(convs) if conv.stride == (2, 2)] == [7, 13]
    assert len([layer for layer in network.modules() if isinstance(layer, nn.Linear)]) == 1
    assert round(multiply_accumulates(network) / 1e6) == 41


def test_resnet20s_shortcuts_take_every_other_pixel_and_add_zeros_on_both_sides() -> None:
    torch.manual_seed(0)
    block = ResNet20(10).blocks[3].eval()
    maps = torch.randn(2, 16, 8, 8).relu()
    with torch.no_grad():
        made = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(maps)))))
        expected = made.clone()
        expected[:, 8:24] += maps[:, :, ::2, ::2]
        assert_near(block(maps), expected.relu())
    assert made.shape == (2, 32, 4, 4)


@pytest.mark.slow
@pytest.mark.parametrize("side", [32, 64])
def test_resnet20_is_traced_and_cut_exactly(side: int) -> None:
    torch.manual_seed(0)
    graph = check_exact(ResNet20(10, 1 / 4), side, shares=(0.6, 0.3))
    assert graph.image_shape == (3, side, side)
    assert len(graph.units.layers) == 19


@pytest.mark.slow
@pytest.mark.parametrize("width", [1.0, 0.25, 0.75])
def test_units_of_resnet20(width: float) -> None:
    """The stem is a unit with the second layers of its stage, and, between zeros, with those of the later stages."""
    units = trace(ResNet20(10, width).eval(), 32).units
    first, second, third = (round(kernels * width) for kernels in (16, 32, 64))
    inner = [(1, first), (3, first), (5, first), (7, second), (9, second), (11, second)]
    inner += [(13, third), (15, third), (17, third)]
    shared = [(tuple(range(0, 19, 2)), first), (tuple(range(8, 19, 2)), second - first)]
    shared += [((14, 16, 18), third - second)]
    found = [(group.layers, len(group.units)) for group in units.groups]
    assert sorted(found) == sorted([((layer,), width_) for layer, width_ in inner] + shared)
    assert units.num_units == third + sum(width_ for _, width_ in inner)
    assert all(layer.is_cuttable for layer in units.layers)
    assert units.tied_layers == {
        0: (0, 2, 4, 6),
        8: (8, 10, 12),
        14: (14, 16, 18),
        **{n: (n,) for n in range(1, 18, 2)},
    }
    stem = units.of_layer(0)
    zeros = (second - first) // 2
    of_second_stage = units.unit_of_kernel[units.layers[8].kernels]
    assert np.array_equal(of_second_stage[zeros : zeros + first], stem)


def test_cpu_state_is_a_copy_in_float32() -> None:
    network = ResNet20(10, 1 / 8).double()
    state = cpu_state(network)
    assert {str(value.dtype) for value in state.values()} == {"torch.float32", "torch.int64"}  # batches are counted
    network = network.float()
    state = cpu_state(network)
    state["fc.bias"].fill_(7)
    assert network.fc.bias.abs().max() == 0
