"""Random networks, and random masks of them that hypothesis draws."""

from collections.abc import Sequence

import numpy as np
import torch
from hypothesis import strategies as st
from models.cnn import CNN, Architecture, Conv


def random_model(architecture: Architecture, num_classes: int, seed: int) -> CNN:
    """In float64, with biases, so that nothing hides behind a zero."""
    torch.manual_seed(seed)
    model = CNN(architecture, num_classes).double().eval()
    with torch.no_grad():
        for layer in [*model.convs, *model.fcs]:
            layer.bias.normal_()
    return model


@st.composite
def kernel_masks(draw: st.DrawFn, architecture: Architecture) -> np.ndarray:
    """Masks that keep one kernel per layer or more, tied layers alike; often all kernels or one alone."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    kept: dict[int, np.ndarray] = {}
    for layer in architecture.free_layers:
        width = architecture.num_kernels[layer]
        count = draw(st.sampled_from([1, width, max(1, width // 2), max(1, width - 1)]))
        kept[layer] = np.isin(np.arange(width), random.choice(width, count, replace=False))
    return np.concatenate([kept[first] for first in architecture.tied_to])


def tied_architecture(num_kernels: Sequence[int], tied_to: Sequence[int]) -> Architecture:
    """A network without pools, whose layers are added to the first of those that they are tied to."""
    return Architecture(
        tuple(
            Conv(width, add=first if first != layer else None)
            for layer, (width, first) in enumerate(zip(num_kernels, tied_to, strict=True))
        )
    )
