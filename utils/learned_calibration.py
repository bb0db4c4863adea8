"""The learned calibration: a linear map of the weak model's logits and the module's output, fitted on validation data.

A multinomial logistic regression (convex) on the weak model's own validation images. Its free parameters are few, and a
ridge pulls them towards the weak model as it is, so that a module which knows nothing changes nothing. Temperature and
vector scaling: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from utils.seeds import generator

FOLDS = 5
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # strength per image
MAX_STEPS = 200  # of L-BFGS


@dataclass(frozen=True)
class LearnedRule:
    """A fitted linear map, for `linear_scores`, and how it was found."""

    weight: Tensor  # (classes, classes + 1) float32; the last column weighs the module's output
    bias: Tensor  # (classes,) float32
    ridge: float  # the strength that cross-validation chose
    loss_before: float  # cross-entropy of the weak model's own logits on the validation images, nats per image
    loss_cross_validated: float  # the same of the rule, on folds that it was not fitted on


def free_directions(num_classes: int, form: str, with_module: bool) -> Tensor:
    """What a fit may change: (parameters, classes, classes + 2) float64, the last two columns module output and bias.

    `few`: one temperature for the other classes' logits; weights of the target class's logit and the module's output,
    and a bias, for the target class's score. `row`: besides, every weak logit enters that score. `vector`:
    besides, every other class has its own temperature and bias. `matrix`: everything. Without the module its column
    is left out: the control that only recalibrates the weak model.
    """
    target, module, bias = num_classes - 1, num_classes, num_classes + 1
    others = range(target)
    entries: list[list[tuple[int, int]]] = [[(target, target)], [(target, bias)]]
    if with_module:
        entries.append([(target, module)])
    if form in ("row", "vector"):
        entries += [[(target, column)] for column in others]
    if form in ("few", "row"):
        entries.append([(k, k) for k in others])
    if form == "vector":
        entries += [[(k, k)] for k in others] + [[(k, bias)] for k in others]
    if form == "matrix":
        columns = [c for c in range(num_classes + 2) if with_module or c != module]
        entries = [[(row, column)] for row in range(num_classes) for column in columns]
    directions = torch.zeros(len(entries), num_classes, num_classes + 2, dtype=torch.float64)
    for number, places in enumerate(entries):
        for row, column in places:
            directions[number, row, column] = 1
    return directions


def fit_learned_rule(
    weak_logits: Tensor, module_output: Tensor | None, labels: np.ndarray, form: str = "row", seed: int = 0
) -> LearnedRule:
    """The rule with the least cross-entropy on validation images, its ridge chosen by cross-validation.

    Args:
        weak_logits: (images, classes) float; the last class is the target class.
        module_output: (images,) float, or None for the control without a module.
        labels: (images,) int64.
        seed: of the assignment of images to folds.
    """
    num_classes = weak_logits.shape[1]
    directions = free_directions(num_classes, form, module_output is not None)
    output = torch.zeros(len(labels)) if module_output is None else module_output
    logits, target = weak_logits.double(), torch.as_tensor(labels)
    features, scale = standardise(logits, output.double())
    folds = fold_of_each(labels, seed)
    held_out = np.zeros(len(RIDGES))
    for fold in np.unique(folds):
        inside, outside = torch.as_tensor(folds != fold), torch.as_tensor(folds == fold)
        start = None
        for number, ridge in reversed(list(enumerate(RIDGES))):  # from stiff to free, each from the last one's end
            start = fit(logits[inside], features[inside], target[inside], directions, ridge, start)
            scores = logits[outside] + features[outside] @ change(directions, start).T
            held_out[number] += float(F.cross_entropy(scores, target[outside], reduction="sum"))
    best = int(held_out.argmin())
    parameters = fit(logits, features, target, directions, RIDGES[best])
    weight, bias = unstandardise(change(directions, parameters), scale)
    before = float(F.cross_entropy(logits, target))
    return LearnedRule(weight.float(), bias.float(), RIDGES[best], before, float(held_out[best]) / len(labels))


def fold_of_each(labels: np.ndarray, seed: int) -> np.ndarray:
    """(images,) int: the fold of each image; every class is spread evenly over the folds."""
    order = generator(seed, "folds").permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    folds = np.empty(len(labels), np.int64)
    folds[by_class] = np.arange(len(labels)) % FOLDS
    return folds


Scale = tuple[Tensor, Tensor, Tensor]


def standardise(logits: Tensor, output: Tensor) -> tuple[Tensor, Scale]:
    """Features (images, classes + 2): logits in units of their spread, the standardised output, ones; and the scale.

    One strength of ridge then means the same for all of them.
    """
    spread, mean, deviation = logits.std().clamp_min(1e-12), output.mean(), output.std().clamp_min(1e-12)
    columns = [logits / spread, ((output - mean) / deviation)[:, None], torch.ones(len(output), 1, dtype=logits.dtype)]
    return torch.cat(columns, 1), (spread, mean, deviation)


def unstandardise(changed: Tensor, scale: Scale) -> tuple[Tensor, Tensor]:
    """Weight (classes, classes + 1) and bias (classes,) that act on raw logits and output."""
    spread, mean, deviation = scale
    num_classes = len(changed)
    of_logits = torch.eye(num_classes, dtype=changed.dtype) + changed[:, :num_classes] / spread
    of_output = changed[:, num_classes] / deviation
    return torch.cat([of_logits, of_output[:, None]], 1), changed[:, num_classes + 1] - of_output * mean


def change(directions: Tensor, parameters: Tensor) -> Tensor:
    """(classes, classes + 2): what the parameters (p,) add to the scores' dependence on the features."""
    return torch.einsum("p,pkf->kf", parameters, directions)


def fit(
    logits: Tensor, features: Tensor, labels: Tensor, directions: Tensor, ridge: float, start: Tensor | None = None
) -> Tensor:
    """The parameters (p,) of the least mean cross-entropy + ridge / 2 * squared norm: convex, so the only minimum."""
    parameters = torch.zeros(len(directions), dtype=torch.float64) if start is None else start.clone()
    parameters.requires_grad_()
    search = torch.optim.LBFGS(
        [parameters], max_iter=MAX_STEPS, tolerance_grad=1e-9, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        search.zero_grad()
        value = F.cross_entropy(logits + features @ change(directions, parameters).T, labels)
        value = value + ridge / 2 * parameters.square().sum()
        value.backward()
        return value

    search.step(loss)
    return parameters.detach()
