"""The learned calibration: a linear map of the weak model's logits and modules' outputs, fitted on validation data.

One module for one target class, or several at once, each for a target class of its own. A multinomial logistic
regression (convex) on the weak model's own validation images. Its free parameters are few, and a ridge pulls them
towards the weak model as it is, so that a module which knows nothing changes nothing. Temperature and vector scaling:
Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits
from torch import Tensor

from utils.seeds import generator

FORMS = ("few", "row", "vector")
FOLDS = 5
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # strength per image
MAX_STEPS = 200  # of L-BFGS

Array = np.ndarray | Tensor

# The matrices of a fit are small: BLAS's threads wait for each other for several times as long as they multiply.
one_blas_thread = threadpool_limits.wrap(limits=1, user_api="blas")


@dataclass(frozen=True)
class LinearFit:
    """A fitted linear map, and how it was found."""

    weight: Tensor  # (classes, classes + modules) float32; the last columns weigh the modules' outputs
    bias: Tensor  # (classes,) float32
    form: str  # which parameters are free, and
    ridge: float  # how strongly they are held: both as cross-validation chose
    loss_before: float  # cross-entropy of the weak model's own logits on the validation images, nats per image
    loss_cross_validated: float  # the same of the rule, on folds that it was not fitted on


def free_directions(num_classes: int, form: str, targets: Sequence[int], *, with_modules: bool = True) -> Tensor:
    """What a fit may change: (parameters, classes, classes + modules + 1) float64, the last column the bias.

    Of each target class's score, its dependence on the weak model's own logit of it and on its module's output, and a
    bias, are always free; without modules, their columns are left out: the control that only recalibrates the weak
    model. `few`: and one temperature for all other classes. `row`: and the target classes' scores may depend on all
    weak logits. `vector`: and each other class has a temperature and a bias of its own.

    Args:
        num_classes: of the weak model.
        form: one of FORMS.
        targets: the target class of each module, in the order of their columns.
        with_modules: whether the modules' columns are free.
    """
    bias = num_classes + len(targets)
    others = [k for k in range(num_classes) if k not in targets]
    entries: list[list[tuple[int, int]]] = [[(target, target)] for target in targets]
    entries += [[(target, bias)] for target in targets]
    if with_modules:
        entries += [[(target, num_classes + number)] for number, target in enumerate(targets)]
    if form in ("row", "vector"):
        entries += [[(target, column)] for target in targets for column in range(num_classes) if column != target]
    if form in ("few", "row") and others:
        entries.append([(k, k) for k in others])
    if form == "vector":
        entries += [[(k, k)] for k in others] + [[(k, bias)] for k in others]
    directions = torch.zeros(len(entries), num_classes, bias + 1, dtype=torch.float64)
    for number, places in enumerate(entries):
        for row, column in places:
            directions[number, row, column] = 1
    return directions


@one_blas_thread
def fit_linear_map(
    weak_logits: Array,
    module_outputs: Array | None,
    labels: Array,
    targets: Sequence[int],
    seed: int = 0,
    forms: Sequence[str] = FORMS,
) -> LinearFit:
    """The map with the least cross-entropy on validation images, its form and ridge chosen by cross-validation.

    Args:
        weak_logits: (images, classes) float.
        module_outputs: (images, modules) float, or None for the control without modules.
        labels: (images,) int64.
        targets: the target class of each module, one column of the weak logits each.
        seed: of the assignment of images to folds.
        forms: to choose from.
    """
    outputs = torch.zeros(len(labels), len(targets)) if module_outputs is None else torch.as_tensor(module_outputs)
    logits, target = torch.as_tensor(weak_logits).double(), torch.as_tensor(labels)
    features, scale = standardise(logits, outputs.double())
    folds = torch.as_tensor(fold_of_each(np.asarray(labels), seed))

    def directions_of(form: str) -> Tensor:
        return free_directions(logits.shape[1], form, targets, with_modules=module_outputs is not None)

    losses = {}
    for form in forms:
        of_form = held_out_losses(logits, features, target, directions_of(form), folds)
        losses.update({(form, ridge): loss for ridge, loss in zip(RIDGES, of_form, strict=True)})
    form, ridge = min(losses, key=lambda candidate: losses[candidate])
    parameters = fit(logits, features, target, directions_of(form), ridge)
    weight, bias = unstandardise(change(directions_of(form), parameters), scale)
    before = float(F.cross_entropy(logits, target))
    return LinearFit(weight.float(), bias.float(), form, ridge, before, losses[form, ridge])


def held_out_losses(logits: Tensor, features: Tensor, labels: Tensor, directions: Tensor, folds: Tensor) -> list[float]:
    """Per RIDGE the cross-entropy, nats per image, on the folds that a fit did not see."""
    losses = [0.0] * len(RIDGES)
    for number, outside, scores in held_out_scores(logits, features, labels, directions, folds):
        losses[number] += float(F.cross_entropy(scores, labels[outside], reduction="sum")) / len(labels)
    return losses


def held_out_scores(
    logits: Tensor, features: Tensor, labels: Tensor, directions: Tensor, folds: Tensor
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """For each fold and each RIDGE's number, which images are in the fold (images,), and their scores (n, classes)."""
    for fold in folds.unique():
        inside, outside = folds != fold, folds == fold
        parameters = None
        for number, ridge in reversed(list(enumerate(RIDGES))):  # from stiff to free, each from the last one's end
            parameters = fit(logits[inside], features[inside], labels[inside], directions, ridge, parameters)
            yield number, outside, logits[outside] + features[outside] @ change(directions, parameters).T


@one_blas_thread
def held_out_answers(
    weak_logits: Array, module_outputs: Array | None, labels: Array, targets: Sequence[int], seed: int = 0
) -> np.ndarray:
    """The classes (images,) int64 that the map gives images of folds that it was not fitted on.

    Form and ridge are those that `fit_linear_map` chooses on all images; its arguments are the same.
    """
    found = fit_linear_map(weak_logits, module_outputs, labels, targets, seed)
    outputs = torch.zeros(len(labels), len(targets)) if module_outputs is None else torch.as_tensor(module_outputs)
    logits, target = torch.as_tensor(weak_logits).double(), torch.as_tensor(labels)
    features, _ = standardise(logits, outputs.double())
    folds = torch.as_tensor(fold_of_each(np.asarray(labels), seed))
    directions = free_directions(logits.shape[1], found.form, targets, with_modules=module_outputs is not None)
    answers = np.empty(len(labels), np.int64)
    for number, outside, scores in held_out_scores(logits, features, target, directions, folds):
        if RIDGES[number] == found.ridge:
            answers[outside.numpy()] = scores.argmax(1).numpy()
    return answers


def fold_of_each(labels: np.ndarray, seed: int) -> np.ndarray:
    """(images,) int: the fold of each image; every class is spread evenly over the folds."""
    order = generator(seed, "folds").permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    folds = np.empty(len(labels), np.int64)
    folds[by_class] = np.arange(len(labels)) % FOLDS
    return folds


Scale = tuple[Tensor, Tensor, Tensor]  # the logits' spread; each output's mean and standard deviation (modules,)


def standardise(logits: Tensor, outputs: Tensor) -> tuple[Tensor, Scale]:
    """Features (images, classes + modules + 1): logits in units of their spread, standardised outputs, ones; the scale.

    One strength of ridge then means the same for all of them. `outputs` is (images, modules).
    """
    spread = logits.std().clamp_min(1e-12)
    mean = torch.stack([output.mean() for output in outputs.T])
    deviation = torch.stack([output.std() for output in outputs.T]).clamp_min(1e-12)
    ones = torch.ones(len(outputs), 1, dtype=logits.dtype)
    return torch.cat([logits / spread, (outputs - mean) / deviation, ones], 1), (spread, mean, deviation)


def unstandardise(changed: Tensor, scale: Scale) -> tuple[Tensor, Tensor]:
    """Weight (classes, classes + modules) and bias (classes,) that act on raw logits and outputs."""
    spread, mean, deviation = scale
    num_classes = len(changed)
    of_logits = torch.eye(num_classes, dtype=changed.dtype) + changed[:, :num_classes] / spread
    of_outputs = changed[:, num_classes:-1] / deviation
    return torch.cat([of_logits, of_outputs], 1), changed[:, -1] - (of_outputs * mean).sum(1)


def change(directions: Tensor, parameters: Tensor) -> Tensor:
    """(classes, classes + modules + 1): what the parameters (p,) add to the scores' dependence on the features."""
    return torch.einsum("p,pkf->kf", parameters, directions)


def fit(
    logits: Tensor, features: Tensor, labels: Tensor, directions: Tensor, ridge: float, start: Tensor | None = None
) -> Tensor:
    """The parameters (p,) of the least mean cross-entropy + ridge / 2 * squared norm: convex, so the only minimum."""
    design = torch.einsum("pkf,nf->nkp", directions, features).flatten(0, 1).numpy()  # (images * classes, parameters)
    given, wanted = logits.numpy(), F.one_hot(labels, logits.shape[1]).bool().numpy()

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        """Of these parameters, and its gradient, by hand: at this size calls of torch cost more than their work."""
        scores = given + (design @ parameters).reshape(given.shape)
        scores -= scores.max(1, keepdims=True)
        likelihoods = np.exp(scores)
        totals = likelihoods.sum(1, keepdims=True)
        cross_entropy = (np.log(totals).sum() - scores[wanted].sum()) / len(given)
        excess = (likelihoods / totals - wanted) / len(given)
        return cross_entropy + ridge / 2 * (parameters @ parameters), excess.ravel() @ design + ridge * parameters

    first = np.zeros(len(directions)) if start is None else start.numpy()
    options = {"maxiter": MAX_STEPS, "gtol": 1e-6, "ftol": 0}
    return torch.from_numpy(minimize(loss, first, jac=True, method="L-BFGS-B", options=options).x)
