"""Layer sensitivity: exact masks, exact accuracies, and the layers that it recommends."""

import hypothesis.strategies as st
import naive
import numpy as np
import pytest
import torch
from conftest import even_out
from hypothesis import given
from random_modules import tied_units, units_of_layers, with_random_biases

from models.graph import trace
from models.rescnn import ResCNN
from models.resnet20 import ResNet20
from models.simcnn import SimCNN
from modules.layer_sensitivity import falls_at, layer_sensitivity, recommend_sensitive, top_ratio_masks

RATIOS = (0.1, 0.3, 0.6, 1.0)


@pytest.mark.parametrize(
    ("build", "layer", "cut"), [(SimCNN, 5, (5,)), (ResCNN, 3, (1, 3)), (ResCNN, 9, (9, 11))], ids=str
)
def test_accuracies_are_those_of_the_composed_modules(build: type, layer: int, cut: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network = with_random_biases(build(4, 1 / 16), 0).float()
    images = torch.randn(40, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    even_out(network, images)
    graph = trace(network, 32)
    units = graph.units
    importance = np.random.default_rng(0).random((4, units.num_kernels)).astype(np.float32)
    importance = importance[:, units.first_kernels][:, units.unit_of_kernel]
    with torch.no_grad():
        predicted = network(images).argmax(1)
    labels = predicted.numpy().copy()
    assert len(set(labels.tolist())) > 2
    labels[::3] = (labels[::3] + 1) % 4  # so that the strong model is wrong on a third
    curve = layer_sensitivity(graph, importance, layer, RATIOS, images, labels)
    assert units.tied_layers[cut[0]] == cut
    assert curve.shape == (4, 2)
    assert curve.dtype == np.float32
    assert curve[:, 0].tolist() == np.array(RATIOS, np.float32).tolist()
    assert curve[-1, 1] == np.float32((predicted.numpy() == labels).mean())  # the whole layer: the strong model

    for ratio, accuracy in curve:
        outputs = []
        for target_class in range(4):
            mask = np.ones(importance.shape[1], bool)
            for tied in cut:
                kernels = units.layers[tied].kernels
                width = kernels.stop - kernels.start
                kept = max(1, int(width * float(f"{ratio:.1f}")))
                worst_first = sorted(range(width), key=lambda k, row=importance[target_class, kernels]: row[k])
                mask[[kernels.start + k for k in worst_first[: width - kept]]] = False
            outputs.append(naive.module_outputs(network, mask, target_class, [images]))
        answers = np.argmax(outputs, axis=0)
        assert accuracy == np.float32((answers == labels).mean())
    assert len(set(curve[:, 1].tolist())) > 1


@given(st.integers(1, 40), st.sampled_from([0.1, 0.29, 0.3, 0.58, 0.7, 1.0]), st.integers(0, 99))
def test_top_ratio_masks(width: int, ratio: float, seed: int) -> None:
    units = tied_units((width, 3, width), (0, 1, 0))
    importance = np.random.default_rng(seed).integers(0, 3, (2, 2 * width + 3)).astype(np.float32)
    kept = max(1, round(100 * ratio) * width // 100)
    for layer in (0, 2):
        masks = top_ratio_masks(importance, units, layer, ratio)
        assert masks.shape == (2, width + 3)
        assert masks[:, width:].all()
        for row, mask in zip(importance, masks, strict=True):
            best = sorted(range(width), key=lambda kernel: (-row[kernel], kernel))[:kept]
            assert np.flatnonzero(mask[:width]).tolist() == sorted(best)


def test_what_is_always_kept_has_no_share() -> None:
    units = units_of_layers([[0, 1, -1, 2, 3], [4, 5]])
    masks = top_ratio_masks(np.array([[4.0, 3, 9, 2, 1, 0, 0]]), units, 0, 0.5)
    assert masks.tolist() == [[True, True, False, False, True, True]]
    assert units.spread(masks).tolist() == [[True, True, True, False, False, True, True]]


@pytest.mark.slow
@pytest.mark.parametrize("layer", [0, 8, 14])
def test_layers_that_share_a_part_of_their_units_are_left_with_something(layer: int) -> None:
    """In ResNet-20 the channels of a stage are a part of those of the next one."""
    units = trace(ResNet20(3, 1 / 8).eval(), 32).units
    importance = np.random.default_rng(0).random((3, units.num_kernels))
    masks = top_ratio_masks(importance, units, layer, 0.01)
    of_layer = units.of_layer(layer)
    for mask in masks:
        units.check(mask)
        assert mask[of_layer].sum() < len(of_layer)
        assert mask[np.setdiff1d(np.arange(units.num_units), of_layer)].all()


def test_sensitive_layers_fall_early() -> None:
    ratios = np.array([0.2, 0.4, 0.6, 1.0])

    def curve(*accuracies: float) -> np.ndarray:
        return np.stack([ratios, accuracies], 1)

    assert falls_at(ratios, np.array([0.1, 0.5, 0.9, 0.9]), 0.05) == 0.4
    assert falls_at(ratios, np.array([0.9, 0.9, 0.9, 0.9]), 0.05) == 0
    exactly = np.array([247, 272, 272, 272], np.float32) / 500
    assert falls_at(ratios, exactly, 0.05) == 0  # five percentage points are not more than five
    assert falls_at(ratios, np.array([0.95, 0.8, 0.95, 0.9]), 0.05) == 0.4  # whatever comes below
    assert falls_at(ratios[::-1], np.array([0.9, 0.9, 0.5, 0.1]), 0.05) == 0.4
    curves = {0: curve(0.1, 0.5, 0.9, 0.9), 2: curve(0.1, 0.9, 0.9, 0.9), 3: curve(0.9, 0.9, 0.2, 0.9)}
    assert recommend_sensitive(curves, 0.05, 0.4) == [0, 3]
    assert recommend_sensitive(curves, 0.05, 0.6) == [3]
    assert recommend_sensitive(curves, 0.05, 0.0) == [0, 2, 3]


@pytest.mark.parametrize("sensitive_from", [0.1, 0.3, 0.7, 0.9])
def test_a_layer_that_falls_at_the_limit_is_sensitive(sensitive_from: float) -> None:
    """Also in float32, in which curves are saved."""
    curve = np.array([[sensitive_from, 0.5], [1, 0.9]], np.float32)
    assert recommend_sensitive({4: curve}, 0.05, sensitive_from) == [4]
    assert recommend_sensitive({4: curve}, 0.05, sensitive_from + 0.01) == []
