"""The rule that makes outputs of different networks comparable: a scale and a bias of each output.

Two networks' logits have different units and offsets, so that the largest of them decides nothing. The outputs are
standardised first; then a scale and a bias of each are fitted on validation images, by the cross-entropy of all of them
together. Normal priors hold both near the standardised outputs, so that a few images a class are enough.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from patching.calibration import fitted_scale
from patching.learned import fold_of_each, least_loss, one_blas_thread
from utils.errors import UserError

# Standard deviations of the priors of biases, in nats, and of relative changes of scales.
WIDE = 3.0  # of what all outputs of a source share
NARROW = (0.3, 1.0, 3.0)  # of an output's own; wider ones cost accuracy with 10 images a class


class Scaled(nn.Module):
    """(output - centre) * scale + bias, of each output; the softmax of these scores is calibrated where it was fitted.

    Args:
        centre, scale, bias: (classes,) float.
        prior: how the fit was held; a saved model does not have it.
    """

    centre: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, centre: Any, scale: Any, bias: Any, prior: float | None = None) -> None:
        super().__init__()
        self.prior = prior
        for name, value in (("centre", centre), ("scale", scale), ("bias", bias)):
            self.register_buffer(name, torch.as_tensor(np.asarray(value), dtype=torch.float32).clone())
        if not self.centre.shape == self.scale.shape == self.bias.shape == (len(self.scale),):
            raise ValueError("expected a centre, a scale and a bias for each output")

    def forward(self, outputs: Tensor) -> Tensor:
        """Scores (batch, classes) of outputs (batch, classes), one for each class: the largest one decides."""
        return (outputs - self.centre) * self.scale + self.bias

    def scores(self, outputs: np.ndarray) -> np.ndarray:
        """Scores (images, classes) float32 of an array of outputs; see `forward`."""
        with torch.inference_mode():
            return self(torch.as_tensor(outputs, dtype=torch.float32)).numpy()

    def to_json(self) -> dict[str, Any]:
        """What was fitted, as plain values."""
        return {**{name: value.tolist() for name, value in self.named_buffers()}, "prior": self.prior}


def standardised(outputs: Sequence[np.ndarray] | np.ndarray, sources: Sequence[int]) -> Scaled:
    """The rule without labels: all outputs of a source, less their mean, in units of their standard deviation.

    Outputs of one source keep their differences: its network was trained to make them comparable.

    Args:
        outputs: of each class (images,) float, of the images that its own source is standardised on.
        sources: of each class, the number of its source.
    """
    centre, scale = np.zeros(len(outputs)), np.zeros(len(outputs))
    for source in set(sources):
        of_source = [number for number, each in enumerate(sources) if each == source]
        values = np.concatenate([outputs[number] for number in of_source]).astype(np.float64)
        deviation = values.std()
        centre[of_source], scale[of_source] = values.mean(), 1 / deviation if deviation > 0 else 0
    return Scaled(centre, scale, np.zeros(len(outputs)))


@one_blas_thread
def fitted(outputs: np.ndarray, labels: np.ndarray, sources: Sequence[int], seed: int = 0) -> Scaled:
    """The scales and biases with the largest posterior probability, from the standardised outputs on.

    A scale's relative change and a bias are the sum of one that all outputs of a source share, with the wide prior, and
    of one of the output itself, with a narrow prior: the narrowest one whose loss in cross-validation is within one
    standard error of the least one (Breiman et al., Classification and Regression Trees, 1984, section 3.4.3). Outputs
    times a positive factor, and plus a constant, which may differ from source to source, give the same scores.

    Args:
        outputs: (images, classes) float: one output of each class, on validation images.
        labels: (images,) int64.
        sources: of each class, the number of the source that its output is of.
        seed: of the assignment of images to folds.

    Raises UserError where a class has no images, or outputs are not finite.
    """
    values, num_classes = np.asarray(outputs, np.float64), outputs.shape[1]
    if not np.isfinite(values).all():
        raise UserError("outputs: expected finite numbers, given NaN or infinity")
    if len(absent := np.setdiff1d(np.arange(num_classes), labels)):
        raise UserError(f"expected validation images of every class, given none of class {absent[0]}")
    start = standardised(values.T, sources)
    centre, unit = start.centre.double().numpy(), start.scale.double().numpy()
    standard = (values - centre) * unit
    factor, folds = fitted_scale(standard, labels), fold_of_each(labels, seed)
    priors = [_spread(sources, narrow) for narrow in NARROW]
    losses = np.zeros((len(NARROW), len(labels)))
    for fold in np.unique(folds):
        inside, outside = folds != fold, folds == fold
        for of_prior, spread in zip(losses, priors, strict=True):
            change, bias = _fit(standard[inside], labels[inside], factor, spread)
            of_prior[outside] = _losses(standard[outside] * factor * (1 + change) + bias, labels[outside])
    excess = losses - losses[losses.mean(1).argmin()]
    prior = int((excess.mean(1) <= excess.std(1) / len(labels) ** 0.5).argmax())
    change, bias = _fit(standard, labels, factor, priors[prior])
    return Scaled(centre, unit * factor * (1 + change), bias, prior=NARROW[prior])


def _spread(sources: Sequence[int], narrow: float) -> np.ndarray:
    """(classes, classes + sources): what parameters with priors of standard deviation 1 add to scales and biases."""
    shared = np.equal.outer(np.asarray(sources), np.unique(sources)).astype(np.float64)
    return np.concatenate([narrow * np.eye(len(sources)), WIDE * shared], 1)


def _fit(standard: np.ndarray, labels: np.ndarray, factor: float, spread: np.ndarray) -> np.ndarray:
    """Relative changes of the scales, and biases: (2, classes)."""

    def parts(parameters: np.ndarray) -> np.ndarray:
        return parameters.reshape(2, -1) @ spread.T

    def scores(parameters: np.ndarray) -> np.ndarray:
        change, bias = parts(parameters)
        return standard * factor * (1 + change) + bias

    def gradient(of_scores: np.ndarray) -> np.ndarray:
        return (np.stack([(of_scores * standard).sum(0) * factor, of_scores.sum(0)]) @ spread).ravel()

    return parts(least_loss(scores, gradient, labels, 1 / len(labels), np.zeros(2 * spread.shape[1])))


def _losses(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(images,) the cross-entropy, nats."""
    below = scores - scores.max(1, keepdims=True)
    return np.log(np.exp(below).sum(1)) - below[np.arange(len(labels)), labels]
