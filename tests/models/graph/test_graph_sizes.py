"""Sizes of modules as functions of the mask: counted kernels, and FLOPs by torch's counter."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from awkward_networks import (
    TRACEABLE,
    SelfAttention,
    Shuffled,
    Standardised,
)
from exactness import random_mask, traced
from torch import Tensor, nn

from models.graph import count_flops, flops_of, flops_share, kernels_share, trace

# Networks of which the share is an estimate, by at most so much, and why.
ESTIMATED = {
    SelfAttention: 0.001,  # products with what marks the groups of its group norm
    Shuffled: 0.01,  # a grouped convolution whose kernels are dropped one by one is filled up to even groups
    Standardised: 0.003,  # the same
}


@pytest.mark.parametrize("network", TRACEABLE, ids=lambda network: network.__name__)
def test_the_share_of_flops_is_that_of_the_module_that_is_cut_out(network: type[nn.Module]) -> None:
    _, graph = traced(network)
    sizes = [flops_share(graph, target_class) for target_class in (0, 7)]
    for seed, share in enumerate((0.6, 0.2)):
        mask = random_mask(graph, seed, share)
        counted = flops_of(graph.cut(mask, 7), graph.image_shape) / graph.flops
        of_classes = [float(size(torch.as_tensor(mask).double())) for size in sizes]
        tolerance = ESTIMATED.get(network, 1e-9)
        assert abs(of_classes[1] - counted) <= tolerance
        assert of_classes[0] == pytest.approx(of_classes[1])
    whole = flops_of(graph.cut(np.ones(graph.num_units, bool), 7), graph.image_shape) / graph.flops
    assert abs(float(sizes[1](torch.ones(graph.num_units).double())) - whole) <= ESTIMATED.get(network, 1e-9)


@pytest.mark.parametrize("network", TRACEABLE, ids=lambda network: network.__name__)
def test_the_share_of_kernels_is_the_masks_mean_and_each_unit_costs_something(network: type[nn.Module]) -> None:
    _, graph = traced(network)
    mask = random_mask(graph, 0)
    size = kernels_share(graph.units)
    assert float(size(torch.as_tensor(mask).float())) == pytest.approx(graph.units.spread(mask, True).mean())
    assert size(torch.ones(graph.num_units, device="meta")).device.type == "meta"  # wherever the mask is
    every = torch.ones(graph.num_units)
    assert (torch.func.grad(size)(every) > 0).all()
    assert (torch.func.grad(flops_share(graph, 1))(every) > 0).all()


class Attention(nn.Module):
    """Attention in two heads between the 64 pixels of 8 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 5)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).flatten(2).transpose(1, 2)
        return self.fc(self.attention(x, x, x, need_weights=False)[0].mean(1))


PRODUCTS = 2 * 2 * 64 * 64 * 8  # of queries and keys, and of those with values


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_attention_counts_whether_the_network_is_traced_or_not(dtype: torch.dtype) -> None:
    network = Attention().to(dtype).eval()
    layers = 2 * (3 * 9 * 8 * 64 + 8 * 5)
    projections = 2 * 4 * 8 * 8 * 64  # of queries, keys, values, and the result
    assert flops_of(network, (3, 8, 8)) == trace(network, 8).flops == layers + projections + PRODUCTS
    assert torch.backends.mha.get_fastpath_enabled() and torch.backends.cuda.flash_sdp_enabled()


@pytest.mark.parametrize("strides", [(1024, 512, 8, 1), (1024, 4, 8, 1), (1024, 512, 1, 64)])
def test_attention_counts_whatever_its_strides(strides: tuple[int, ...]) -> None:
    heads = torch.zeros(1024).as_strided((1, 2, 64, 4), strides)
    assert count_flops(lambda x: F.scaled_dot_product_attention(x, x, x), heads) == PRODUCTS
