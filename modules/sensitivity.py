"""Layer sensitivity: how much of one layer can go before the composed model's accuracy falls."""

import numpy as np

from models.graph import Units


def top_ratio_masks(importance: np.ndarray, units: Units, layer: int, ratio: float) -> np.ndarray:
    """Every class's mask that keeps the top `ratio` of a layer's units and all others.

    Args:
        importance: (classes, K); a unit's is that of its first kernel.
        units: of the network.
        layer: a conv layer; layers with the same units are cut alike.
        ratio: the kept share of the layer's units, rounded down, at least one.

    Returns unit masks (classes, U) bool, True = kept.
    """
    of_unit = importance[:, units.first_kernels]
    masks = np.ones(of_unit.shape, bool)
    of_layer = units.of_layer(layer)
    num_kept = max(1, int(len(of_layer) * ratio + 1e-9))
    order = np.argsort(-of_unit[:, of_layer], axis=1, kind="stable")
    np.put_along_axis(masks, of_layer[order[:, num_kept:]], False, axis=1)
    return np.stack([units.repair(mask, row) for mask, row in zip(masks, of_unit, strict=True)])


def falls_at(ratios: np.ndarray, accuracies: np.ndarray, tolerance: float) -> float:
    """The largest ratio at which accuracy is more than `tolerance` below that of the whole layer; 0 if it never is."""
    whole = accuracies[np.argmax(ratios)]
    fallen = ratios[accuracies < whole - tolerance]
    return float(fallen.max()) if len(fallen) else 0.0


def recommend_sensitive(curves: dict[int, np.ndarray], tolerance: float, sensitive_from: float) -> list[int]:
    """The layers whose curve (ratios, 2) has fallen at the ratio `sensitive_from` or above: early."""
    return [layer for layer, curve in curves.items() if falls_at(curve[:, 0], curve[:, 1], tolerance) >= sensitive_from]
