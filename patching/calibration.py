"""Log-probabilities of the scores that a classifier gives: logits of any scale, or probabilities.

A rule is fitted on log-probabilities with a temperature of their own. So logits times a positive factor, and plus a
constant for each image, give the same rule, and the probabilities of such logits do.
Temperature scaling: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2.
"""

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp
from torch import Tensor

FURTHEST = 40.0  # nats by which a class can be below the most likely one; a class masked with -1e9 is at this distance
PRIOR = 3.0  # standard deviation of the logarithm of a scale, in units of the typical margin between two classes
SEARCHED = range(-2, 15)  # logarithms of scales in that unit; below 0.1 float32 would lose digits of log-probabilities
TOLERANCE = 0.05  # of the sum of probabilities that were rounded to two digits
TOTALS = (1.0, 100.0)  # of probabilities, and of percentages
TAKEN_FOR_PROBABILITIES = "the weak model gives probabilities: the patch is fitted on their logarithms"


def probability_floor(scores: np.ndarray) -> float | None:
    """What replaces probabilities of 0 before the logarithm; None if the scores are no probabilities.

    Scores (images, classes) are probabilities if they are between 0 and 1 and each row's sum is 1, except for
    rounding; or between 0 and 100, and each sum is 100. The floor is half of the smallest positive one.
    """
    values = np.asarray(scores, np.float64)
    for total in TOTALS:
        shares = values / total
        if shares.min() >= -1e-6 and (np.abs(shares.sum(1) - 1) <= TOLERANCE).all():
            tiny = float(np.finfo(np.float32).tiny)
            return max(float(values[values > 0].min()) / 2, tiny)
    return None


def logits_of(scores: Tensor, floor: Tensor | float | None) -> Tensor:
    """Logits as they are, if `floor` is None; else the logarithms of probabilities, none of them below the floor."""
    return scores if floor is None else torch.log(torch.clamp(scores, min=floor))


def log_probabilities(scores: Tensor, scale: Tensor | float, floor: Tensor | float | None = None) -> Tensor:
    """(images, classes): the logarithms of softmax(scale * logits).

    Args:
        scores: (images, classes), logits or probabilities.
        scale: of the logits.
        floor: of probabilities; None if the scores are logits.
    """
    logits = logits_of(scores, floor)
    below = logits - logits.amax(1, keepdim=True)
    return torch.log_softmax(torch.clamp(below * scale, min=-FURTHEST), 1)


@np.errstate(over="ignore")  # further than float64 goes is further than FURTHEST
def fitted_scale(logits: np.ndarray, labels: np.ndarray) -> float:
    """The factor of the logits with the least cross-entropy; rounded to float32, which a rule stores.

    If all images are right, the best factor is infinite: a weak prior keeps it finite, a log-normal one around
    1 / (the median margin between the two highest logits). If they are no better than chance, it would be 0, and is
    about a tenth of that.

    Args:
        logits: (images, classes) float64.
        labels: (images,) int64; images of classes that the logits do not name are left out.
    """
    below = logits.max(1, keepdims=True) - logits
    margins = np.partition(below, 1, axis=1)[:, 1]
    unit = float(np.median(margins[margins > 0])) if (margins > 0).any() else 1.0
    named = labels < logits.shape[1]
    below, wanted = below[named] / unit, labels[named, None]

    def loss(log_scale: float) -> float:
        distances = np.minimum(np.exp(log_scale) * below, FURTHEST)
        cross_entropy = np.take_along_axis(distances, wanted, 1).sum() + logsumexp(-distances, axis=1).sum()
        return float(cross_entropy + log_scale**2 / (2 * PRIOR**2))

    # The cap makes several minima possible: the lowest one is near the best of a grid.
    best = min(SEARCHED, key=loss)
    found = minimize_scalar(loss, bounds=(best - 1, best + 1), method="bounded", options={"xatol": 1e-9})
    return float(np.float32(np.exp(found.x) / unit))
