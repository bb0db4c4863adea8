"""Layer sensitivity: how much of one layer can go before the composed model's accuracy falls."""

from collections.abc import Sequence

import numpy as np


def top_ratio_masks(
    importance: np.ndarray, layer_slices: Sequence[slice], layers: Sequence[int], ratio: float
) -> np.ndarray:
    """Every class's mask that keeps the top `ratio` of some (tied) layers' kernels and all others.

    Args:
        importance: (classes, K).
        layer_slices: where each layer's kernels stand.
        layers: the layers that are cut, alike.
        ratio: the kept share of their kernels, rounded down, at least one.

    Returns (classes, K) bool, True = kept.
    """
    masks = np.ones(importance.shape, bool)
    for layer in layers:
        scores = importance[:, layer_slices[layers[0]]]
        width = scores.shape[1]
        num_kept = max(1, int(width * ratio + 1e-9))
        order = np.argsort(-scores, axis=1, kind="stable")
        np.put_along_axis(masks[:, layer_slices[layer]], order[:, num_kept:], False, axis=1)
    return masks


def falls_at(ratios: np.ndarray, accuracies: np.ndarray, tolerance: float) -> float:
    """The largest ratio at which accuracy is more than `tolerance` below that of the whole layer; 0 if it never is."""
    whole = accuracies[np.argmax(ratios)]
    fallen = ratios[accuracies < whole - tolerance]
    return float(fallen.max()) if len(fallen) else 0.0


def recommend_sensitive(curves: dict[int, np.ndarray], tolerance: float, sensitive_from: float) -> list[int]:
    """The layers whose curve (ratios, 2) has fallen at the ratio `sensitive_from` or above: early."""
    return [layer for layer, curve in curves.items() if falls_at(curve[:, 0], curve[:, 1], tolerance) >= sensitive_from]
