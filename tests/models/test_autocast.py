"""Mixed precision: gradients of depthwise convolutions are torch's, however they are computed."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from models.autocast import DepthwiseConvolution, autocast

CPU = torch.device("cpu")


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(5, 12), st.integers(5, 12)),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.integers(0, 6),
    channels=st.integers(2, 5),
    has_bias=st.booleans(),
)
def test_gradients_are_those_of_torch(size, kernel, stride, padding, channels, has_bias):
    paddings = (min(padding, kernel[0] - 1), padding)  # also more than the kernel reaches
    torch.manual_seed(0)
    given = [torch.randn(2, channels, *size), torch.randn(channels, 1, *kernel), torch.randn(channels)]
    found = []
    for way in (DepthwiseConvolution.apply, lambda *of: F.conv2d(*of, groups=channels)):
        own = [tensor.clone().requires_grad_() for tensor in given]
        maps = way(own[0], own[1], own[2] if has_bias else None, stride, paddings)
        (maps * torch.linspace(-1, 1, maps.numel()).view_as(maps)).sum().backward()
        found.append([maps, *(tensor.grad for tensor in own[: 2 + has_bias])])
    for mine, torchs in zip(*found, strict=True):
        torch.testing.assert_close(mine, torchs, rtol=1e-4, atol=1e-4)


@pytest.fixture
def calls(monkeypatch):
    found = []
    true = DepthwiseConvolution.apply
    monkeypatch.setattr(DepthwiseConvolution, "apply", lambda *of: found.append(of[1].shape) or true(*of))
    return found


def test_layers_and_operators_are_found(calls):
    images, weight = torch.randn(2, 4, 8, 8), torch.randn(4, 1, 3, 3, requires_grad=True)
    layers = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4, stride=2, padding=1), nn.Conv2d(4, 8, 1))
    with autocast(CPU, torch.bfloat16):
        maps = layers(images)
        torch.ops.aten.conv2d.default(images, weight, None, [1, 1], [1, 1], [1, 1], 4)
    assert [tuple(shape) for shape in calls] == [(4, 1, 3, 3)] * 2
    maps.float().square().mean().backward()
    assert maps.dtype == torch.bfloat16
    assert all(parameter.grad.dtype == torch.float32 for parameter in layers.parameters())


def test_others_are_left_alone(calls):
    images = torch.randn(2, 4, 8, 8)
    others = [
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 8, 3, groups=4),
        nn.Conv2d(4, 4, 3, groups=4, dilation=2),
        nn.Conv2d(4, 4, 3, groups=4, padding="same"),
    ]
    with autocast(CPU, torch.bfloat16):
        for layer in others:
            layer(images)
        with torch.no_grad():
            nn.Conv2d(4, 4, 3, groups=4)(images)
    with autocast(CPU, torch.float32):
        nn.Conv2d(4, 4, 3, groups=4)(images)
    assert not calls
