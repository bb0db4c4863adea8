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

FORMS = ("few", "row", "vector")
FOLDS = 5
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # strength per image
MAX_STEPS = 200  # of L-BFGS

Array = np.ndarray | Tensor


@dataclass(frozen=True)
class LinearFit:
    """A fitted linear map, and how it was found."""

    weight: Tensor  # (classes, classes + 1) float32; the last column weighs the module's output
    bias: Tensor  # (classes,) float32
    form: str  # which parameters are free, and
    ridge: float  # how strongly they are held: both as cross-validation chose
    loss_before: float  # cross-entropy of the weak model's own logits on the validation images, nats per image
    loss_cross_validated: float  # the same of the rule, on folds that it was not fitted on


def free_directions(num_classes: int, form: str, with_module: bool) -> Tensor:
    """What a fit may change: (parameters, classes, classes + 2) float64, the last two columns module output and bias.

    Of the target class's score, its dependence on the weak model's own logit of it and on the module's output, and a
    bias, are always free; without the module, its column is left out: the control that only recalibrates the weak
    model. `few`: and one temperature for all other classes. `row`: and the target class's score may depend on all weak
    logits. `vector`: and each other class has a temperature and a bias of its own.
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
    directions = torch.zeros(len(entries), num_classes, num_classes + 2, dtype=torch.float64)
    for number, places in enumerate(entries):
        for row, column in places:
            directions[number, row, column] = 1
    return directions


def fit_linear_map(weak_logits: Array, module_output: Array | None, labels: Array, seed: int = 0) -> LinearFit:
    """The map with the least cross-entropy on validation images, its form and ridge chosen by cross-validation.

    Args:
        weak_logits: (images, classes) float; the last class is the target class.
        module_output: (images,) float, or None for the control without a module.
        labels: (images,) int64.
        seed: of the assignment of images to folds.
    """
    with_module, num_classes = module_output is not None, weak_logits.shape[1]
    output = torch.zeros(len(labels)) if module_output is None else torch.as_tensor(module_output)
    logits, target = torch.as_tensor(weak_logits).double(), torch.as_tensor(labels)
    features, scale = standardise(logits, output.double())
    folds = torch.as_tensor(fold_of_each(np.asarray(labels), seed))
    losses = {}
    for form in FORMS:
        directions = free_directions(num_classes, form, with_module)
        for ridge, loss in zip(RIDGES, held_out_losses(logits, features, target, directions, folds), strict=True):
            losses[form, ridge] = loss
    form, ridge = min(losses, key=lambda candidate: losses[candidate])
    directions = free_directions(num_classes, form, with_module)
    weight, bias = unstandardise(change(directions, fit(logits, features, target, directions, ridge)), scale)
    before = float(F.cross_entropy(logits, target))
    return LinearFit(weight.float(), bias.float(), form, ridge, before, losses[form, ridge])


def held_out_losses(logits: Tensor, features: Tensor, labels: Tensor, directions: Tensor, folds: Tensor) -> list[float]:
    """Per RIDGE the cross-entropy, nats per image, on the folds that a fit did not see."""
    losses = [0.0] * len(RIDGES)
    for fold in folds.unique():
        inside, outside = folds != fold, folds == fold
        parameters = None
        for number, ridge in reversed(list(enumerate(RIDGES))):  # from stiff to free, each from the last one's end
            parameters = fit(logits[inside], features[inside], labels[inside], directions, ridge, parameters)
            scores = logits[outside] + features[outside] @ change(directions, parameters).T
            losses[number] += float(F.cross_entropy(scores, labels[outside], reduction="sum")) / len(labels)
    return losses


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
    design = torch.einsum("pkf,nf->nkp", directions, features).flatten(0, 1)  # (images * classes, parameters)
    wanted = F.one_hot(labels, logits.shape[1])
    search = torch.optim.LBFGS(
        [parameters], max_iter=MAX_STEPS, tolerance_grad=1e-6, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        scores = logits + (design @ parameters).view_as(logits)
        # The gradient of cross-entropy by hand, several times faster than by autograd at this size.
        excess = (torch.softmax(scores, 1) - wanted) / len(labels)
        parameters.grad = design.T @ excess.flatten() + ridge * parameters
        return F.cross_entropy(scores, labels) + ridge / 2 * parameters.square().sum()

    search.step(loss)
    return parameters
