"""The rule that makes outputs of different networks comparable: a scale and a bias of each output.

Two networks' logits have different units and offsets, so that the largest of them decides nothing. The outputs are
standardised first; then a scale and a bias of each are fitted on validation images, by the cross-entropy of all of them
together. A ridge pulls both towards the standardised outputs, so that a few images a class are enough.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from patching.calibration import fitted_scale
from patching.learned import RIDGES, fold_of_each, least_loss, one_blas_thread
from utils.errors import UserError


class Scaled(nn.Module):
    """(output - centre) * scale + bias, of each output; the softmax of these scores is calibrated where it was fitted.

    Args:
        centre, scale, bias: (classes,) float.
        found_by: plain values that say how; a saved model does not have them.
    """

    centre: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, centre: Any, scale: Any, bias: Any, **found_by: Any) -> None:
        super().__init__()
        self.found_by = found_by
        for name, value in (("centre", centre), ("scale", scale), ("bias", bias)):
            self.register_buffer(name, torch.as_tensor(np.asarray(value), dtype=torch.float32).clone())
        if not self.centre.shape == self.scale.shape == self.bias.shape == (len(self.scale),):
            raise ValueError("expected a centre, a scale and a bias for each output")

    def forward(self, outputs: Tensor) -> Tensor:
        """Scores (batch, classes) of outputs (batch, classes), one for each class: the largest one decides."""
        return (outputs - self.centre) * self.scale + self.bias

    def scores(self, outputs: np.ndarray) -> np.ndarray:
        """The same of arrays: (images, classes) float32."""
        with torch.inference_mode():
            return self(torch.as_tensor(outputs, dtype=torch.float32)).numpy()

    def to_json(self) -> dict[str, Any]:
        """What was fitted, as plain values."""
        return {**{name: value.tolist() for name, value in self.named_buffers()}, **self.found_by}


def standardised(outputs: Sequence[np.ndarray], sources: Sequence[int]) -> Scaled:
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
    return Scaled(centre, scale, np.zeros(len(outputs)), start="sources")


@one_blas_thread
def fitted(outputs: np.ndarray, labels: np.ndarray, sources: Sequence[int], seed: int = 0) -> Scaled:
    """The scales and biases with the least cross-entropy; the start and the ridge are chosen by cross-validation.

    Outputs times a positive factor, and plus a constant, which may differ from source to source, give the same scores.

    Args:
        outputs: (images, classes) float: one output of each class, on validation images.
        labels: (images,) int64.
        sources: of each class, the number of the source that its output is of: outputs of one source may be in units
            of their own already. Standardised together and each by itself are the two starts that are tried.
        seed: of the assignment of images to folds.

    Raises UserError where a class has no images, or outputs are not finite.
    """
    values, num_classes = np.asarray(outputs, np.float64), outputs.shape[1]
    if not np.isfinite(values).all():
        raise UserError("outputs: expected finite numbers, given NaN or infinity")
    if len(absent := np.setdiff1d(np.arange(num_classes), labels)):
        raise UserError(f"expected validation images of every class, given none of class {absent[0]}")
    folds, best = fold_of_each(labels, seed), None
    for start, groups in {"sources": sources, "outputs": range(num_classes)}.items():
        rule = standardised(values.T, groups)
        centre, unit = rule.centre.double().numpy(), rule.scale.double().numpy()
        standard = (values - centre) * unit
        factor = fitted_scale(standard, labels)
        losses, parameters = np.zeros(len(RIDGES)), None
        for fold in np.unique(folds):
            inside, outside = folds != fold, folds == fold
            for number, ridge in reversed(list(enumerate(RIDGES))):  # from stiff to free, each from the last one's end
                parameters = _fit(standard[inside], labels[inside], factor, ridge, parameters)
                losses[number] += _loss(_scores(standard[outside], factor, parameters), labels[outside])
        loss = losses.min() / len(labels)
        if best is None or loss < best[0]:
            best = loss, start, RIDGES[losses.argmin()], centre, unit, standard, factor
    loss, start, ridge, centre, unit, standard, factor = best
    change, bias = _fit(standard, labels, factor, ridge).reshape(2, -1)
    found_by = {"start": start, "ridge": ridge, "loss_cross_validated": float(loss)}
    return Scaled(centre, unit * factor * (1 + change), bias, **found_by)


def _scores(standard: np.ndarray, factor: float, parameters: np.ndarray) -> np.ndarray:
    """(images, classes) of relative changes of the scales, and biases: parameters (2 * classes,)."""
    change, bias = parameters.reshape(2, -1)
    return standard * factor * (1 + change) + bias


def _fit(
    standard: np.ndarray, labels: np.ndarray, factor: float, ridge: float, first: np.ndarray | None = None
) -> np.ndarray:
    return least_loss(
        lambda parameters: _scores(standard, factor, parameters),
        lambda of_scores: np.concatenate([(of_scores * standard).sum(0) * factor, of_scores.sum(0)]),
        labels,
        ridge,
        np.zeros(2 * standard.shape[1]) if first is None else first,
    )


def _loss(scores: np.ndarray, labels: np.ndarray) -> float:
    """The sum over images of the cross-entropy, nats."""
    below = scores - scores.max(1, keepdims=True)
    return float((np.log(np.exp(below).sum(1)) - below[np.arange(len(labels)), labels]).sum())
