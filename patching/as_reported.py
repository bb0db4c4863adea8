"""What a saved model answers, compared with what was reported: a file that differs does not leave."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from utils.errors import UserError, reason
from utils.progress import steps

MOST_IMAGES = 1000  # of the test images, spread evenly, that a saved model is run on
BATCH = 50
# By how much scores may differ, as a share of the spread of an image's scores. A GPU multiplies in TensorFloat-32, with
# 10 bits, so that a report made there differs more from a file that is run on the CPU.
TOLERANCE, TOLERANCE_OF_GPU = 1e-3, 1e-2

Answer = Callable[..., np.ndarray]  # arrays (batch, ...) -> scores (batch, classes)


@dataclass(frozen=True)
class Reported:
    """Test images in the form that the saved model takes, and what was reported of them."""

    inputs: Mapping[str, np.ndarray]  # by the name of the model's input, in its order: (images, ...)
    scores: np.ndarray  # (images, classes) float
    tolerance: float  # a share of the spread of an image's scores


def tolerance_on(device: torch.device) -> float:
    """By how much scores that were computed on a device may differ from those of the CPU."""
    return TOLERANCE if device.type == "cpu" else TOLERANCE_OF_GPU


def checked_places(images: int) -> np.ndarray:
    """Which images (n,) int64 a saved model is run on: all, or MOST_IMAGES spread evenly."""
    return np.linspace(0, images - 1, min(images, MOST_IMAGES)).astype(np.int64)


def differs(found: np.ndarray, reported: np.ndarray, tolerance: float) -> np.ndarray:
    """Which images have other scores: (images,) bool.

    An image's scores agree where each one differs by at most `tolerance` times their spread (or the median image's
    spread, where that is larger). A decision can then differ only where the two largest scores are tied within twice
    that. NaN agrees with nothing. Both are (images, classes) float.
    """
    spread = np.ptp(reported, axis=1)
    allowed = tolerance * np.maximum(spread, np.median(spread))
    is_near: np.ndarray = np.abs(found.astype(np.float64) - reported).max(1) <= allowed
    return ~is_near


def check_as_reported(path: Path, load: Callable[[], Answer], reported: Reported) -> None:
    """Run a saved model on test images; `load` gives it from its file, as a user loads it.

    Raises UserError, which names the path, where it does not answer as reported, or does not run.
    """
    count = len(reported.scores)
    bounds = [0, *range(1, count, BATCH), count]  # the first image alone, as many programs ask
    try:
        answer = load()
        found = []
        with steps(f"running {path.name}, batches", len(bounds) - 1) as advance:
            for start, end in itertools.pairwise(bounds):
                found.append(answer(*(values[start:end] for values in reported.inputs.values())))
                advance()
        scores = np.concatenate(found)
    except UserError:
        raise
    except Exception as error:  # whatever the runtime raises
        raise UserError(f"{path}: the saved model does not run: {reason(error)}; nothing was saved") from None
    if (given := scores.shape) != (wanted := reported.scores.shape):
        raise UserError(f"{path}: the saved model gives scores {given}, expected {wanted}; nothing was saved")
    other = differs(scores, reported.scores, reported.tolerance)
    if other.any():
        decisions = int((scores.argmax(1) != reported.scores.argmax(1)).sum())
        raise UserError(
            f"{path}: the saved model does not answer as reported: other scores on {int(other.sum())} of {len(other)} "
            f"test images, another class on {decisions}; nothing was saved; a network that draws random numbers, "
            "such as dropout without training=self.training, answers differently every time"
        )
