"""The rule that makes outputs of different networks comparable: a linear map, held near a scale of each network.

Two networks' logits have different units and offsets, so that the largest of them decides nothing. The outputs are
standardised first; then a scale and a bias of each, and how much it tells of the other classes, are fitted on
validation images, by the cross-entropy of all of them together. Gaussian priors keep the map close to the standardised
outputs, so that a few images a class are enough.

A *source* is the strong model that an output comes from.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from patching.calibration import fitted_scale
from patching.learned import fold_of_each, least_loss, one_blas_thread
from utils.errors import UserError
from utils.seeds import generator

# Standard deviations of the priors of biases, in nats, and of weights, relative to the scale of all outputs.
WIDE = 3.0  # of what all outputs of a source share
# Of an output's own weight and bias, and of its weight in another class's score; looser ones cost accuracy with 10
# images a class, so that cross-validation chooses.
MOST_COMPARED = 3000  # images that the choice is made on
PRIORS = ((0.3, 0.0), (1.0, 0.0), (0.3, 0.1), (0.3, 0.3), (1.0, 1.0))


class LinearRule(nn.Module):
    """weight (output - centre) + bias; the softmax of these scores is calibrated where it was fitted.

    Outputs of one source, the strong model that they come from, share a scale and a bias in the fit.

    Args:
        centre, bias: (classes,) float.
        weight: (classes, classes) float.
        prior: how the fit was held, one of PRIORS; a saved model does not have it.
    """

    centre: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, centre: Any, weight: Any, bias: Any, prior: Sequence[float] = ()) -> None:
        super().__init__()
        self.prior = tuple(prior)
        for name, value in (("centre", centre), ("weight", weight), ("bias", bias)):
            self.register_buffer(name, torch.as_tensor(np.asarray(value), dtype=torch.float32).clone())
        if not self.weight.shape == (*self.centre.shape, *self.bias.shape) == 2 * self.bias.shape:
            raise ValueError("expected a centre, a row of weights and a bias for each output")

    def forward(self, outputs: Tensor) -> Tensor:
        """Scores (batch, classes) of outputs (batch, classes), one for each class: the largest one decides."""
        return (outputs - self.centre) @ self.weight.T + self.bias

    def scores(self, outputs: np.ndarray) -> np.ndarray:
        """Scores (images, classes) float32 of an array of outputs; see `forward`."""
        with torch.inference_mode():
            return self.forward(torch.as_tensor(outputs, dtype=torch.float32)).numpy()

    def to_json(self) -> dict[str, Any]:
        """What was fitted, as plain values."""
        return {**{name: value.tolist() for name, value in self.named_buffers()}, "prior": list(self.prior)}


def standardised(outputs: np.ndarray, sources: Sequence[int], labels: np.ndarray | None = None) -> LinearRule:
    """The rule that fits nothing: all outputs of a source, less their mean, in units of their standard deviation.

    Outputs of one source keep their differences: its network was trained to make them comparable.

    Args:
        outputs: (images, classes) float: one output of each class.
        sources: of each class, the number of its source.
        labels: (images,) int64: a source is standardised on the images of its own classes; None = on all, as always a
            source of one class, whose mean on its own images would hide that it knows them.
    """
    centre, scale = np.zeros(len(sources)), np.zeros(len(sources))
    for source in set(sources):
        of_source = np.flatnonzero(np.asarray(sources) == source)
        rows = slice(None) if labels is None or len(of_source) == 1 else np.isin(labels, of_source)
        values = outputs[rows][:, of_source].astype(np.float64)
        deviation = values.std()
        centre[of_source], scale[of_source] = values.mean(), 1 / deviation if deviation > 0 else 0
    return LinearRule(centre, np.diag(scale), np.zeros(len(sources)))


@one_blas_thread
def fitted(outputs: np.ndarray, labels: np.ndarray, sources: Sequence[int], seed: int = 0) -> LinearRule:
    """Maximum a posteriori linear map, initialised at the standardised outputs.

    What all outputs of a source share, a relative change of their scale and a bias, has the wide prior; what each
    output has of its own has one of PRIORS: the first one whose loss in cross-validation is within one standard error
    of the least loss (Breiman et al., Classification and Regression Trees, 1984, section 3.4.3). Outputs times a
    positive factor, and plus a constant, which may differ from source to source, give the same scores.

    Args:
        outputs: (images, classes) float: one output of each class, on validation images.
        labels: (images,) int64.
        sources: of each class, the number of the source, the strong model that its output comes from.
        seed: of the assignment of images to folds.

    Returns:
        The fitted rule: outputs (n, classes) -> scores (n, classes).

    Raises:
        UserError: a class has no images, or outputs are not finite.
    """
    values, num_classes = np.asarray(outputs, np.float64), outputs.shape[1]
    if not np.isfinite(values).all():
        raise UserError("outputs: expected finite numbers, given NaN or infinity")
    if len(absent := np.setdiff1d(np.arange(num_classes), labels)):
        raise UserError(f"expected validation images of every class, given none of class {absent[0]}")
    start = standardised(values, sources)
    centre, unit = start.centre.double().numpy(), start.weight.double().numpy().diagonal()
    standard = (values - centre) * unit
    factor, order = fitted_scale(standard, labels), generator(seed, "compared").permutation(len(labels))
    standard, some = standard * factor, order[:MOST_COMPARED]
    folds, losses = fold_of_each(labels[some], seed), np.zeros((len(PRIORS), len(some)))
    for fold in np.unique(folds):
        inside, outside = some[folds != fold], some[folds == fold]
        for of_prior, prior in zip(losses, PRIORS, strict=True):
            weight, bias = _fit(standard[inside], labels[inside], sources, prior)
            of_prior[folds == fold] = _losses(standard[outside] @ weight.T + bias, labels[outside])
    excess = losses - losses[losses.mean(1).argmin()]
    prior = PRIORS[int((excess.mean(1) <= excess.std(1) / len(some) ** 0.5).argmax())]
    weight, bias = _fit(standard, labels, sources, prior)
    return LinearRule(centre, weight * (unit * factor), bias, prior)


def _fit(
    standard: np.ndarray, labels: np.ndarray, sources: Sequence[int], prior: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Weight (classes, classes) and bias (classes,), which without images would be the identity and 0."""
    own, cross = prior
    count = standard.shape[1]
    of_source = WIDE * np.equal.outer(np.asarray(sources), np.unique(sources))  # (classes, sources)
    identity, deviations = np.eye(count), np.where(np.eye(count), own, cross)
    # What is free, each in units of its prior: weights, biases, and the scales and biases that sources share.
    cuts = np.cumsum([count * count, count, of_source.shape[1]])

    def parts(parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        weights, biases, scales, shifts = np.split(parameters, cuts)
        weight = identity + deviations * weights.reshape(count, count) + np.diag(of_source @ scales)
        return weight, own * biases + of_source @ shifts

    def scores(parameters: np.ndarray) -> np.ndarray:
        weight, bias = parts(parameters)
        found: np.ndarray = standard @ weight.T + bias
        return found

    def gradient(of_scores: np.ndarray) -> np.ndarray:
        of_weight, of_bias = of_scores.T @ standard, of_scores.sum(0)
        shared = of_weight.diagonal() @ of_source, of_bias @ of_source
        return np.concatenate([(deviations * of_weight).ravel(), own * of_bias, *shared])

    return parts(least_loss(scores, gradient, labels, 1 / len(labels), np.zeros(cuts[-1] + of_source.shape[1])))


def _losses(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(images,) the cross-entropy, nats."""
    below = scores - scores.max(1, keepdims=True)
    losses: np.ndarray = np.log(np.exp(below).sum(1)) - below[np.arange(len(labels)), labels]
    return losses
