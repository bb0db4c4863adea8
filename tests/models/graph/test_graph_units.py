"""Units: masks over units and over kernels, what is refused, what is repaired."""

import numpy as np
import pytest
import torch
from awkward_networks import PaddedShortcuts, SelectedKernels, Shuffled, UpAndDown
from exactness import traced
from torch import nn

from models.graph import Units, trace

SIDE = 16


def units_of(network: type[nn.Module]) -> Units:
    """The units of a network with 3 channels."""
    return traced(network)[1].units


def layer(units: Units, name: str) -> slice:
    """The kernels of the layer by this name."""
    return next(layer.kernels for layer in units.layers if layer.name == name)


def test_tied_layers_share_units() -> None:
    units = units_of(PaddedShortcuts)
    of_kernel = units.unit_of_kernel
    stem = of_kernel[layer(units, "conv")]
    assert np.array_equal(stem, of_kernel[layer(units, "blocks.0.conv2")])
    # Eight channels between four and four of zeros.
    assert np.array_equal(of_kernel[layer(units, "blocks.1.conv2")][4:12], stem)
    assert np.array_equal(of_kernel[layer(units, "blocks.1.conv2")], of_kernel[layer(units, "blocks.2.conv2")])
    assert len(set(of_kernel[layer(units, "blocks.1.conv1")]) & set(stem)) == 0


def test_every_unit_is_in_one_group() -> None:
    for network in (PaddedShortcuts, Shuffled, UpAndDown, SelectedKernels):
        units = units_of(network)
        assert np.array_equal(
            np.sort(np.concatenate([group.units for group in units.groups])), np.arange(units.num_units)
        )
        for group in units.groups:
            for number in group.layers:
                assert set(group.units) <= set(units.unit_of_kernel[units.layers[number].kernels])


@pytest.mark.parametrize("network", [PaddedShortcuts, Shuffled, UpAndDown, SelectedKernels])
def test_what_is_known_of_units_and_layers(network: type[nn.Module]) -> None:
    """Kernel by kernel."""
    units = units_of(network)
    kernels_of_unit: dict[int, list[int]] = {unit: [] for unit in range(units.num_units)}
    for kernel, unit in enumerate(units.unit_of_kernel.tolist()):
        if unit >= 0:
            kernels_of_unit[unit].append(kernel)
    first = units.first_kernels.tolist()
    assert first == sorted(first) == [kernels[0] for kernels in kernels_of_unit.values()]
    assert units.sizes.tolist() == [len(kernels) for kernels in kernels_of_unit.values()]
    tied: dict[int, list[int]] = {}
    for number, layer in enumerate(units.layers):
        inside = set(range(layer.kernels.start, layer.kernels.stop))
        expected = [unit for unit, kernels in kernels_of_unit.items() if inside & set(kernels)]
        assert units.of_layer(number).tolist() == expected
        assert layer.is_cuttable == bool(expected)
        before = next((other for other in tied if units.of_layer(other).tolist() == expected), number)
        if expected:
            tied.setdefault(before, []).append(number)
    assert units.tied_layers == {first: tuple(layers) for first, layers in tied.items()}


def test_spread_and_gather_are_inverse() -> None:
    units = units_of(UpAndDown)
    assert (units.unit_of_kernel == -1).any()
    for seed in range(5):
        masks = units.repair(np.random.default_rng(seed).random((3, units.num_units)) < 0.5)
        kernel_masks = units.spread(masks)
        assert kernel_masks.dtype == bool
        assert kernel_masks[:, units.unit_of_kernel == -1].all()
        for mask, kernel_mask in zip(masks, kernel_masks, strict=True):
            assert np.array_equal(units.gather(kernel_mask), mask)


def test_spread_of_values() -> None:
    units = units_of(UpAndDown)
    values = np.arange(units.num_units, dtype=np.float32)
    spread = units.spread(values, always=-5)
    assert spread.dtype == np.float32
    always = units.unit_of_kernel < 0
    assert (spread[always] == -5).all()
    assert np.array_equal(spread[~always], values[units.unit_of_kernel[units.unit_of_kernel >= 0]])


def test_masks_that_are_refused() -> None:
    units = units_of(PaddedShortcuts)
    every = np.ones(units.num_kernels, bool)
    with pytest.raises(
        ValueError, match=rf"expected a mask over {units.num_kernels} kernels, given one of shape \(3,\)"
    ):
        units.gather(every[:3])
    empty = every.copy()
    empty[layer(units, "blocks.0.conv1")] = False
    with pytest.raises(ValueError, match=r"blocks\.0\.conv1: expected at least one kept kernel, given none"):
        units.gather(empty)
    untied = every.copy()
    untied[layer(units, "blocks.2.conv2").start + 5] = False
    with pytest.raises(
        ValueError, match=r"blocks\.2\.conv2 is tied to conv: expected the same for kernel 5 .* kernel 1 "
    ):
        units.gather(untied)
    with pytest.raises(ValueError, match=r"expected a mask over \d+ units, given one of shape"):
        units.check(every)


def test_what_is_always_kept_cannot_be_dropped() -> None:
    units = units_of(UpAndDown)
    mask = np.ones(units.num_kernels, bool)
    mask[layer(units, "down2").start + 2] = False
    with pytest.raises(ValueError, match="down2: kernel 2 is always kept"):
        units.gather(mask)


class Halves(nn.Module):
    """Either half of a layer's channels is read by a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.left, self.right = nn.Conv2d(3, 8, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = self.conv(x).relu().chunk(2, 1)
        return self.fc(torch.cat([self.left(left), self.right(right)], 1).mean((2, 3)))


def test_every_reader_keeps_a_channel() -> None:
    graph = trace(Halves(), SIDE)
    units = graph.units
    mask = np.ones(units.num_units, bool)
    mask[units.unit_of_kernel[4:8]] = False
    with pytest.raises(
        ValueError, match="conv: expected at least one kept channel where its maps are read, given none"
    ):
        graph.cut(mask)
    importance = np.arange(units.num_units)[::-1].copy()
    assert np.flatnonzero(units.repair(mask) != mask).tolist() == [4]
    assert np.flatnonzero(units.repair(mask, -importance) != mask).tolist() == [7]
    nothing = units.repair(np.zeros(units.num_units, bool), importance)
    assert np.flatnonzero(nothing).tolist() == [0, 4, 8, 12]
    kept = units.repair(np.ones(units.num_units, bool))
    assert kept.all()


class NothingToDrop(nn.Module):
    """Its one convolution's kernels are the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 10, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).mean((2, 3))


def test_a_network_without_units() -> None:
    graph = trace(NothingToDrop().eval(), SIDE)
    units = graph.units
    assert (units.num_units, units.num_kernels, units.groups, units.tied_layers) == (0, 10, (), {})
    assert len(units.first_kernels) == len(units.sizes) == len(units.of_layer(0)) == 0
    for shape in ((0,), (3, 0)):
        masks = units.repair(np.zeros(shape, bool))
        assert masks.shape == shape
        assert units.spread(masks).all()
    assert units.gather(np.ones(10, bool)).shape == (0,)
