"""The networks are the published ones, at any width."""

import itertools
import math
import re

import hypothesis.strategies as st
import pytest
import torch
import torchvision
from hypothesis import given
from models.cnn import CNN, Architecture, Conv, count_parameters, cpu_state
from torch import nn

from models.registry import architecture_of, known_networks
from models.rescnn import ARCHITECTURE as RESCNN
from models.simcnn import ARCHITECTURE as SIMCNN


def multiply_accumulates(model: nn.Module) -> int:
    """Counted where they happen: per output value of a layer, the products that are summed for it."""
    count = 0

    def hook(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal count
        count += output.numel() * layer.weight[0].numel()

    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(hook)
    model.eval()(torch.zeros(1, 3, 32, 32))
    return count


@pytest.mark.parametrize(("name", "millions", "kernels"), [("simcnn", 313.73, 4224), ("rescnn", 431.17, 4288)])
def test_published_cost(name: str, millions: float, kernels: int) -> None:
    architecture = architecture_of(name)
    assert round(multiply_accumulates(CNN(architecture, 10)) / 1e6, 2) == millions
    assert architecture.total_kernels == sum(architecture.num_kernels) == kernels


def test_simcnn_has_the_conv_layers_of_vgg16() -> None:
    with torch.device("meta"):
        vgg = [layer for layer in torchvision.models.vgg16().features if not isinstance(layer, nn.ReLU)]
        ours = CNN(SIMCNN, 10)
    shapes = [layer.weight.shape for layer in vgg if isinstance(layer, nn.Conv2d)]
    assert [conv.weight.shape for conv in ours.convs] == shapes
    pooled = [isinstance(after, nn.MaxPool2d) for conv, after in itertools.pairwise(vgg) if isinstance(conv, nn.Conv2d)]
    assert [conv.pool for conv in SIMCNN.convs] == pooled
    assert [fc.out_features for fc in ours.fcs] == [512, 512, 10]


def test_rescnn_is_the_published_one() -> None:
    published = ["64", "128p", "128", "128", "256p", "512p", "512", "512", "512p", "512p", "512", "512"]
    assert [f"{conv.kernels}{'p' * conv.pool}" for conv in RESCNN.convs] == published
    assert {layer: conv.add for layer, conv in enumerate(RESCNN.convs) if conv.add is not None} == {3: 1, 7: 5, 11: 9}
    assert RESCNN.dropout == 0.4
    assert RESCNN.hidden == ()


def test_tied_layers_share_the_first_one() -> None:
    assert RESCNN.tied_to == (0, 1, 2, 1, 4, 5, 6, 5, 8, 9, 10, 9)
    assert RESCNN.free_layers == (0, 1, 2, 4, 5, 6, 8, 9, 10)
    assert SIMCNN.tied_to == SIMCNN.free_layers == tuple(range(13))
    chain = Architecture((Conv(4), Conv(4), Conv(4, add=0), Conv(4), Conv(4, add=2), Conv(4, add=3)))
    assert chain.tied_to == (0, 1, 0, 3, 0, 3)
    joined_later = Architecture((Conv(4), Conv(4), Conv(4, add=1), Conv(4, add=0), Conv(4, add=2)))
    assert joined_later.tied_to == (0, 1, 1, 0, 1)


@given(width=st.floats(0.001, 2), name=st.sampled_from(["simcnn", "rescnn"]))
def test_any_width(width: float, name: str) -> None:
    full, scaled = architecture_of(name), architecture_of(name).scaled(width)
    for before, after in zip(full.num_kernels, scaled.num_kernels, strict=True):
        assert after == max(1, round(before * width))
    assert scaled.tied_to == full.tied_to
    covered = [k for layer_slice in scaled.layer_slices for k in range(layer_slice.start, layer_slice.stop)]
    assert covered == list(range(scaled.total_kernels))


@pytest.mark.parametrize("name", known_networks())
def test_every_network_runs_and_counts_its_parameters(name: str) -> None:
    architecture = architecture_of(name).scaled(1 / 16)
    model = CNN(architecture, 7).eval()
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    widths = [3, *architecture.num_kernels]
    convs = sum(9 * before * after + after for before, after in itertools.pairwise(widths))
    fcs = [widths[-1] * architecture.final_side**2, *architecture.hidden, 7]
    assert count_parameters(model) == convs + sum((a + 1) * b for a, b in itertools.pairwise(fcs))


def test_dropout_stands_before_the_last_layers() -> None:
    """After each hidden FC layer, or before the only one; nowhere between conv layers."""
    calls = []
    for architecture in (SIMCNN.scaled(1 / 32), RESCNN.scaled(1 / 32)):
        model = CNN(architecture, 3)
        calls.clear()
        model.dropout.register_forward_hook(lambda _, inputs, __: calls.append(inputs[0].shape[1]))
        model(torch.zeros(2, 3, 32, 32))
        assert calls == (list(architecture.hidden) or [architecture.num_kernels[-1]])
    assert CNN(SIMCNN, 10).dropout.p == 0.5
    assert CNN(RESCNN, 10, dropout=0.0).dropout.p == 0


def test_he_initialisation() -> None:
    torch.manual_seed(0)
    model = CNN(SIMCNN.scaled(0.25), 10)
    for layer in [*model.convs, *model.fcs]:
        assert layer.bias.abs().max() == 0
        fan_in, count = layer.weight[0].numel(), layer.weight.numel()
        # The standard deviation of an estimated standard deviation is 1 / sqrt(2 n): five of them are allowed.
        assert layer.weight.std().item() * math.sqrt(fan_in / 2) == pytest.approx(1, abs=5 / math.sqrt(2 * count))


def test_observe_sees_the_sum_of_tied_layers_and_every_other_layer_before_pooling() -> None:
    torch.manual_seed(0)
    architecture = RESCNN.scaled(1 / 32)
    model, images = CNN(architecture, 10).eval(), torch.randn(2, 3, 32, 32)
    seen: dict[int, torch.Tensor] = {}

    def observe(layer: int, feature_map: torch.Tensor) -> None:
        assert layer not in seen
        seen[layer] = feature_map

    with torch.no_grad():
        features = model.convolve(images, observe)
        zero = torch.relu(model.convs[0](images))
        one = torch.max_pool2d(torch.relu(model.convs[1](zero)), 2)
        two = torch.relu(model.convs[2](one))
        three = torch.relu(model.convs[3](two)) + one
        four = torch.relu(model.convs[4](three))
    assert tuple(sorted(seen)) == architecture.free_layers
    for layer, expected in ((0, zero), (1, three), (2, two), (4, four), (9, features)):
        torch.testing.assert_close(seen[layer], expected)


@pytest.mark.parametrize(
    ("convs", "message"),
    [
        ((Conv(4), Conv(4, add=1)), "conv 1: add expects an earlier layer, given 1"),
        ((Conv(4), Conv(4, add=-1)), "conv 1: add expects an earlier layer, given -1"),
        ((Conv(4), Conv(5), Conv(5, add=0)), "conv 2 has 5 kernels, conv 0"),
        ((Conv(4), Conv(4, pool=True), Conv(4, add=0)), "conv 2: its feature map is 16 pixels wide, that of conv 0 32"),
        ((*[Conv(4, pool=True)] * 6,), "6 pools"),
    ],
)
def test_a_network_that_cannot_be_is_refused(convs: tuple[Conv, ...], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Architecture(convs)


def test_cpu_state_is_a_copy_in_float32() -> None:
    model = CNN(SIMCNN.scaled(1 / 32), 10).double()
    state = cpu_state(model)
    assert all(value.dtype == torch.float32 for value in state.values())
    model = model.float()
    state = cpu_state(model)
    state["fcs.0.bias"].fill_(7)
    assert model.fcs[0].bias.abs().max() == 0
