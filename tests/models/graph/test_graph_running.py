"""The interpreter: a mask for each image, gradients of masks, maps observed."""

import torch
from awkward_networks import TRACEABLE, ChannelsLast, PaddedShortcuts, Shuffled
from exactness import random_images, random_mask, random_network, traced
from torch import Tensor

from models.graph import trace, unit_norms
from models.graph.observing import observed_values

SIDE = 16


@torch.no_grad()
def test_a_mask_for_each_image() -> None:
    for network in (PaddedShortcuts, Shuffled, ChannelsLast):
        (_, graph), images = traced(network), random_images(SIDE, 3)
        masks = torch.stack([torch.as_tensor(random_mask(graph, seed)) for seed in range(3)]).double()
        found = graph.forward(images, masks)
        for image in range(3):
            alone = graph.forward(images[image : image + 1], masks[image])
            torch.testing.assert_close(found[image : image + 1], alone, rtol=1e-10, atol=1e-10)


def test_the_gradient_of_masks() -> None:
    (_, graph), images = traced(PaddedShortcuts), random_images(SIDE)
    factors = torch.as_tensor(random_mask(graph, 0)).double().requires_grad_()
    (gradient,) = torch.autograd.grad(graph.forward(images, factors).square().sum(), factors)
    step = 1e-6
    for unit in (0, 9, 30):
        change = torch.zeros_like(factors)
        change[unit] = step
        with torch.no_grad():
            up, down = (graph.forward(images, factors + sign * change).square().sum() for sign in (1, -1))
        torch.testing.assert_close(gradient[unit], (up - down) / (2 * step), rtol=1e-5, atol=1e-7)


def test_every_unit_is_observed_once() -> None:
    for network in TRACEABLE:
        _, graph = traced(network)
        units = torch.cat([torch.as_tensor(part.units).unique() for part in observed_values(graph)])
        assert sorted(units.tolist()) == list(range(graph.num_units)), network.__name__


@torch.no_grad()
def test_norms_are_those_of_the_last_sum_before_pooling() -> None:
    torch.manual_seed(0)
    network = random_network(PaddedShortcuts(), SIDE)
    images = random_images(SIDE)
    seen: list[Tensor] = []
    network.blocks[2].register_forward_hook(lambda module, given, result: seen.append(result))
    network.blocks[1].bn1.register_forward_hook(lambda module, given, result: seen.append(result.relu()))
    network(images)
    inner, last = (maps.abs().float().sum((2, 3)) for maps in seen)
    graph = trace(network, SIDE)
    _, norms = unit_norms(graph, images)
    of_kernel = torch.as_tensor(graph.units.spread(norms.numpy(), 0))
    layers = {layer.name: layer.kernels for layer in graph.units.layers}
    torch.testing.assert_close(of_kernel[:, layers["blocks.1.conv1"]], inner, rtol=1e-4, atol=1e-4)
    for tied in ("blocks.1.conv2", "blocks.2.conv2"):
        torch.testing.assert_close(of_kernel[:, layers[tied]], last, rtol=1e-4, atol=1e-4)
