"""Layer sensitivity: exact masks, exact accuracies, and the layers that it recommends."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from conftest import even_out
from hypothesis import given
from models.cnn import CNN

from models.registry import architecture_of
from modules.composed_model import ComposedModel
from modules.layer_sensitivity import layer_sensitivity, tied_layers
from modules.module import extract_module
from modules.sensitivity import falls_at, recommend_sensitive, top_ratio_masks

RATIOS = (0.1, 0.3, 0.6, 1.0)


def strong_model(name: str) -> CNN:
    torch.manual_seed(0)
    model = CNN(architecture_of(name).scaled(1 / 16), 4).eval()
    with torch.no_grad():
        for layer in [*model.convs, *model.fcs]:
            layer.bias.normal_()
    return model


@pytest.mark.parametrize(("name", "layer", "cut"), [("simcnn", 5, [5]), ("rescnn", 3, [1, 3]), ("rescnn", 9, [9, 11])])
def test_accuracies_are_those_of_the_composed_modules(name: str, layer: int, cut: list[int]) -> None:
    model = strong_model(name)
    architecture = model.architecture
    importance = np.random.default_rng(0).random((4, sum(architecture.num_kernels))).astype(np.float32)
    for other, first in enumerate(architecture.tied_to):
        importance[:, architecture.layer_slices[other]] = importance[:, architecture.layer_slices[first]]
    images = torch.randn(40, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    even_out(model, images)
    with torch.no_grad():
        predicted = model(images).argmax(1)
    labels = predicted.numpy().copy()
    assert len(set(labels.tolist())) > 2
    labels[::3] = (labels[::3] + 1) % 4  # so that the strong model is wrong on a third
    curve = layer_sensitivity(model, importance, layer, RATIOS, images, labels)
    assert tied_layers(model, layer) == cut
    assert curve.shape == (4, 2)
    assert curve.dtype == np.float32
    assert curve[:, 0].tolist() == np.array(RATIOS, np.float32).tolist()
    assert curve[-1, 1] == np.float32((predicted.numpy() == labels).mean())  # the whole layer: the strong model

    for ratio, accuracy in curve:
        modules = []
        for target_class in range(4):
            mask = np.ones(importance.shape[1], bool)
            for tied in cut:
                kernels = architecture.layer_slices[tied]
                width = kernels.stop - kernels.start
                kept = max(1, int(width * float(f"{ratio:.1f}")))
                worst_first = sorted(range(width), key=lambda k, row=importance[target_class, kernels]: row[k])
                mask[[kernels.start + k for k in worst_first[: width - kept]]] = False
            modules.append(extract_module(model, mask, target_class))
        with torch.no_grad():
            answers = ComposedModel(modules)(images).argmax(1).numpy()
        assert accuracy == np.float32((answers == labels).mean())
    assert len(set(curve[:, 1].tolist())) > 1


@given(st.integers(1, 40), st.sampled_from([0.1, 0.29, 0.3, 0.58, 0.7, 1.0]), st.integers(0, 99))
def test_top_ratio_masks(width: int, ratio: float, seed: int) -> None:
    importance = np.random.default_rng(seed).integers(0, 3, (2, 2 * width + 3)).astype(np.float32)
    slices = [slice(0, width), slice(width, width + 3), slice(width + 3, 2 * width + 3)]
    masks = top_ratio_masks(importance, slices, [0, 2], ratio)
    kept = max(1, round(100 * ratio) * width // 100)
    assert masks[:, slices[1]].all()
    for row, mask in zip(importance, masks, strict=True):
        best = sorted(range(width), key=lambda kernel: (-row[kernel], kernel))[:kept]
        assert np.flatnonzero(mask[slices[0]]).tolist() == sorted(best)
        assert np.flatnonzero(mask[slices[2]]).tolist() == sorted(best)


def test_sensitive_layers_fall_early() -> None:
    ratios = np.array([0.2, 0.4, 0.6, 1.0])

    def curve(*accuracies: float) -> np.ndarray:
        return np.stack([ratios, accuracies], 1)

    assert falls_at(ratios, np.array([0.1, 0.5, 0.9, 0.9]), 0.05) == 0.4
    assert falls_at(ratios, np.array([0.9, 0.9, 0.9, 0.9]), 0.05) == 0
    assert falls_at(ratios, np.array([0.95, 0.8, 0.95, 0.9]), 0.05) == 0.4  # whatever comes below
    assert falls_at(ratios[::-1], np.array([0.9, 0.9, 0.5, 0.1]), 0.05) == 0.4
    curves = {0: curve(0.1, 0.5, 0.9, 0.9), 2: curve(0.1, 0.9, 0.9, 0.9), 3: curve(0.9, 0.9, 0.2, 0.9)}
    assert recommend_sensitive(curves, 0.05, 0.4) == [0, 3]
    assert recommend_sensitive(curves, 0.05, 0.6) == [3]
    assert recommend_sensitive(curves, 0.05, 0.0) == [0, 2, 3]
