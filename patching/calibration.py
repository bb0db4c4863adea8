"""How a module's output takes the place of the weak model's opinion of the target class.

The published rule (Qi et al., ASE 2022, arXiv 2209.06116, section 3.3) scales the output by the range of the module's
outputs on validation images of its own class; `learned` rules are linear in logits and output.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


def min_max(outputs: np.ndarray) -> tuple[float, float]:
    """The smallest and the largest output: the published range."""
    return float(outputs.min()), float(outputs.max())


def percentile(outputs: np.ndarray) -> tuple[float, float]:
    """The 10th and the 90th percentile."""
    low, high = np.percentile(outputs, (10, 90))
    return float(low), float(high)


def outlier(outputs: np.ndarray) -> tuple[float, float]:
    """The smallest and the largest output within Tukey's fences: 1.5 interquartile ranges beyond the quartiles."""
    first, third = np.percentile(outputs, (25, 75))
    reach = 1.5 * (third - first)
    return min_max(outputs[(outputs >= first - reach) & (outputs <= third + reach)])


def norm(outputs: np.ndarray) -> tuple[float, float]:
    """One standard deviation below and above the mean, so that the mean output counts 0.5."""
    mean, deviation = float(outputs.mean(dtype=np.float64)), float(outputs.std(dtype=np.float64))
    return mean - deviation, mean + deviation


RANGES: dict[str, Callable[[np.ndarray], tuple[float, float]]] = {
    "min_max": min_max,
    "percentile": percentile,
    "outlier": outlier,
    "norm": norm,
}


def scale_to_range(output: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """(output - low) / (high - low). Where the range is a single value: 0 below it, 0.5 at it, 1 above it."""
    width = high - low
    scaled = (output - low) / torch.where(width > 0, width, 1)
    return torch.where(width > 0, scaled, (1 + torch.sign(output - low)) / 2)


def replace_target_entry(weak_logits: Tensor, module_output: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The weak model's softmax with the target class's entry, the last one, replaced by the scaled module output.

    Args:
        weak_logits: (images, classes) float.
        module_output: (images,) float.
        low, high: the range of the module's outputs, scalars.

    Returns scores (images, classes): the largest one decides. They are no probabilities: a row need not sum to 1.
    """
    others = torch.softmax(weak_logits, 1)[:, :-1]
    return torch.cat([others, scale_to_range(module_output, low, high)[:, None]], 1)


def linear_scores(weak_logits: Tensor, module_output: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Calibrated logits (images, classes): a linear map of the weak model's logits and the module's output.

    Args:
        weak_logits: (images, classes) float.
        module_output: (images,) float.
        weight: (classes, classes + 1); the last column weighs the module's output.
        bias: (classes,).
    """
    return torch.nn.functional.linear(torch.cat([weak_logits, module_output[:, None]], 1), weight, bias)
