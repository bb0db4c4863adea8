"""The learned calibration: a linear map of log-probabilities and modules' outputs, fitted on validation data.

One module for one target class, or several at once, each for another target class. The weak model's logits get one
temperature first (`patching.calibration`), which makes them log-probabilities, whatever their scale. Then a multinomial
logistic regression (convex) on the weak model's own validation images. Its free parameters are few, and a ridge pulls
them towards the weak model with that temperature, so that a module which knows nothing changes no answer. Vector
scaling: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits
from torch import Tensor

from patching.calibration import fitted_scale, log_probabilities, logits_of, probability_floor
from utils.errors import UserError
from utils.seeds import generator

FORMS = ("few", "row", "vector")
FOLDS = 5
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # strength per image
MAX_STEPS = 200  # of L-BFGS
BEYOND = "expected differences of float32's size, between 1e-30 and 1e30; give them times a factor"
OUTLIERS = 1.0  # times the distance of a module's 1st and 99th percentile: outputs that far beyond them are cut off

Array = np.ndarray | Tensor
Function = TypeVar("Function", bound=Callable[..., Any])

# The matrices of a fit are small: BLAS's threads wait for each other for several times as long as they multiply.
one_blas_thread: Callable[[Function], Function] = threadpool_limits.wrap(limits=1, user_api="blas")


@dataclass(frozen=True)
class LinearFit:
    """A fitted map and how it was found. `patching.rules.Learned` applies it."""

    weight: Tensor  # (classes, weak classes + modules) float32; the last columns weigh the modules' outputs
    bias: Tensor  # (classes,) float32
    scale: float  # of the weak model's logits: 1 / temperature
    low: Tensor  # (modules,) float32: outputs below it count as this one, and are counted from it
    high: Tensor  # (modules,) float32: outputs above it count as this one
    probability_floor: float | None  # of the weak model's probabilities; None if it gives logits
    form: str  # which parameters are free, and
    ridge: float  # how strongly they are held: both as cross-validation chose
    loss_before: float  # cross-entropy of the weak model with its temperature on the validation images, nats per image
    loss_cross_validated: float  # the same of the rule, on folds that it was not fitted on


@dataclass(frozen=True)
class Prepared:
    """Validation data as a fit sees it."""

    logits: Tensor  # (images, classes) float64, log-probabilities; of an added class the same for all images
    features: Tensor  # (images, classes + modules + 1) float64, see `standardise`
    labels: Tensor  # (images,) int64
    folds: Tensor  # (images,) int64
    varying: list[int]  # the modules whose outputs vary
    scale: "Scale"
    calibration: dict[str, Any]  # the fields scale, low, high and probability_floor of a `LinearFit`


def _checked(values: Tensor) -> Tensor:
    """Numbers of a module in float32. Raises UserError for what is beyond it."""
    stored = values.float()
    if not stored.isfinite().all():
        raise UserError(f"a module's outputs: {BEYOND}")
    return stored


def prepared(weak_logits: Array, module_outputs: Array, labels: Array, targets: Sequence[int], seed: int) -> Prepared:
    """The data of a fit; the arguments are those of `fit_linear_map`."""
    target = torch.as_tensor(labels).long()
    scores = torch.as_tensor(weak_logits).double()
    floor = probability_floor(scores.numpy())
    scale = fitted_scale(logits_of(scores, floor).numpy(), target.numpy())
    if not float(np.finfo(np.float32).tiny) <= scale < np.inf:
        raise UserError(f"the weak model's logits: {BEYOND}")
    known = log_probabilities(scores, scale, floor)
    num_added = max(0, max(targets, default=0) + 1 - known.shape[1])
    # An added class starts with its share of the images: its logit is against 0, the logarithm of the known ones' sum.
    counts = target.bincount(minlength=known.shape[1] + num_added).double()
    starts = (counts[known.shape[1] :] / counts[: known.shape[1]].sum()).log()
    starts = torch.where(starts.isfinite(), starts, 0)  # no images
    logits = torch.cat([known, starts.expand(len(known), num_added)], 1)
    outputs = torch.as_tensor(module_outputs).double()
    low, high = map(_checked, output_limits(outputs))
    features, of_features = standardise(logits, limited(outputs, low, high))
    folds = torch.as_tensor(fold_of_each(target.numpy(), seed))
    calibration = {"scale": scale, "low": low, "high": high, "probability_floor": floor}
    varying = (outputs != outputs[0]).any(0).nonzero().flatten().tolist()
    return Prepared(logits, features, target, folds, varying, of_features, calibration)


def output_limits(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """The lowest and the highest output (modules,) float32 that is no outlier, of outputs (images, modules)."""
    quantiles = np.percentile(outputs.numpy(), (0, 1, 99, 100), axis=0).reshape(4, -1)
    least, first, last, most = quantiles
    reach = OUTLIERS * (last - first)
    with np.errstate(over="ignore"):  # an infinite limit is refused where it is used
        low = np.where(reach > 0, np.maximum(least, first - reach), least).astype(np.float32)
        high = np.where(reach > 0, np.minimum(most, last + reach), most).astype(np.float32)
    varies = most > least  # then rounding must not cut off what is no outlier
    low = np.where(varies, np.nextafter(low, np.float32(-np.inf)), low)
    high = np.where(varies, np.nextafter(high, np.float32(np.inf)), high)
    return torch.from_numpy(low), torch.from_numpy(high)


def limited(outputs: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Outputs (images, modules) within their limits, counted from the lower one."""
    return torch.minimum(torch.maximum(outputs, low), high) - low


def free_directions(
    num_classes: int, form: str, targets: Sequence[int], modules: Sequence[int] | None = None
) -> Tensor:
    """What a fit may change: (parameters, classes, classes + modules + 1) float64, the last column the bias.

    Of each target class's score, its dependence on the weak model's own logit of it and on its module's output, and a
    bias, are always free. `few`: and one temperature for all other classes. `row`: and the target classes' scores may
    depend on all weak logits. `vector`: and each other class has a temperature and a bias of its own.

    Args:
        num_classes: of the weak model.
        form: one of FORMS.
        targets: the target class of each module, in the order of their columns.
        modules: whose columns are free; None = of all.
    """
    bias = num_classes + len(targets)
    others = [k for k in range(num_classes) if k not in targets]
    entries: list[list[tuple[int, int]]] = [[(target, target)] for target in targets]
    entries += [[(target, bias)] for target in targets]
    entries += [[(targets[m], num_classes + m)] for m in (range(len(targets)) if modules is None else modules)]
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
    module_outputs: Array,
    labels: Array,
    targets: Sequence[int],
    seed: int = 0,
    forms: Sequence[str] = FORMS,
) -> LinearFit:
    """The map with the least cross-entropy on validation images, its form and ridge chosen by cross-validation.

    Args:
        weak_logits: (images, weak classes) float: logits of any scale, or probabilities.
        module_outputs: (images, modules) float. The weight of one that does not vary is 0: if all are 0, the fit
            only recalibrates the weak model.
        labels: (images,) int64.
        targets: the target class of each module: a column of the weak logits, or one of the next numbers, which is a
            class to add.
        seed: of the assignment of images to folds.
        forms: to choose from.
    """
    data = prepared(weak_logits, module_outputs, labels, targets, seed)
    num_classes, weak_classes = data.logits.shape[1], np.shape(weak_logits)[1]

    def directions_of(form: str) -> Tensor:
        return free_directions(num_classes, form, targets, data.varying)

    losses = {}
    for form in forms:
        of_form = held_out_losses(data, directions_of(form))
        losses.update({(form, ridge): loss for ridge, loss in zip(RIDGES, of_form, strict=True)})
    form, ridge = min(losses, key=lambda candidate: losses[candidate])
    parameters = fit(data.logits, data.features, data.labels, directions_of(form), ridge)
    weight, bias = unstandardise(change(directions_of(form), parameters), data.scale)
    # An added class's logit is the same for all images, so it goes into the bias.
    bias = bias + weight[:, weak_classes:num_classes] @ data.logits[0, weak_classes:]
    weight = torch.cat([weight[:, :weak_classes], weight[:, num_classes:]], 1)
    before = float(F.cross_entropy(data.logits, data.labels))
    return LinearFit(
        weight=_checked(weight),
        bias=_checked(bias),
        **data.calibration,
        form=form,
        ridge=ridge,
        loss_before=before,
        loss_cross_validated=losses[form, ridge],
    )


def held_out_losses(data: Prepared, directions: Tensor) -> list[float]:
    """Per RIDGE the cross-entropy, nats per image, on the folds that a fit did not see."""
    losses = [0.0] * len(RIDGES)
    for number, outside, scores in held_out_scores(data, directions):
        losses[number] += float(F.cross_entropy(scores, data.labels[outside], reduction="sum")) / len(data.labels)
    return losses


def held_out_scores(data: Prepared, directions: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """For each fold and each RIDGE's number, which images are in the fold (images,), and their scores (n, classes)."""
    logits, features, labels = data.logits, data.features, data.labels
    for fold in data.folds.unique():
        inside, outside = data.folds != fold, data.folds == fold
        parameters = None
        for number, ridge in reversed(list(enumerate(RIDGES))):  # from stiff to free, each from the last one's end
            parameters = fit(logits[inside], features[inside], labels[inside], directions, ridge, parameters)
            yield number, outside, logits[outside] + features[outside] @ change(directions, parameters).T


@one_blas_thread
def held_out_answers(weak_logits: Array, module_outputs: Array, labels: Array, targets: Sequence[int]) -> np.ndarray:
    """The classes (images,) int64 that the map gives images of folds that it was not fitted on.

    Form and ridge are those that `fit_linear_map` chooses on all images, and the weak model's temperature is fitted on
    all images; the arguments are the same.
    """
    found = fit_linear_map(weak_logits, module_outputs, labels, targets)
    data = prepared(weak_logits, module_outputs, labels, targets, seed=0)
    directions = free_directions(data.logits.shape[1], found.form, targets, data.varying)
    answers = np.empty(len(data.labels), np.int64)
    for number, outside, scores in held_out_scores(data, directions):
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


class Scale(NamedTuple):
    """What features are counted from and in which units."""

    spread: Tensor  # the logits' standard deviation
    mean: Tensor  # (modules,) of each output
    deviation: Tensor  # (modules,) its standard deviation
    centre: Tensor  # the logits' mean


def standardise(logits: Tensor, outputs: Tensor) -> tuple[Tensor, Scale]:
    """Features (images, classes + modules + 1): logits and outputs less their mean, in units of their spread; ones.

    One strength of ridge then means the same for all of them. What does not vary is 0. `outputs` is (images, modules).
    """
    spread, deviation = (
        torch.where(found > least, found, torch.inf) for found, least in ((logits.std(), 1e-9), (outputs.std(0), 0))
    )
    scale = Scale(spread, outputs.mean(0), deviation, logits.mean())
    ones = torch.ones(len(outputs), 1, dtype=logits.dtype)
    return torch.cat([(logits - scale.centre) / spread, (outputs - scale.mean) / deviation, ones], 1), scale


def unstandardise(changed: Tensor, scale: Scale) -> tuple[Tensor, Tensor]:
    """Weight (classes, classes + modules) and bias (classes,) that act on the logits and outputs themselves."""
    num_classes = len(changed)
    of_logits = changed[:, :num_classes] / scale.spread
    of_outputs = changed[:, num_classes:-1] / scale.deviation
    bias = changed[:, -1] - of_logits.sum(1) * scale.centre - (of_outputs * scale.mean).sum(1)
    return torch.cat([torch.eye(num_classes, dtype=changed.dtype) + of_logits, of_outputs], 1), bias


def change(directions: Tensor, parameters: Tensor) -> Tensor:
    """(classes, classes + modules + 1): what the parameters (p,) add to the scores' dependence on the features."""
    return torch.einsum("p,pkf->kf", parameters, directions)


def fit(
    logits: Tensor, features: Tensor, labels: Tensor, directions: Tensor, ridge: float, start: Tensor | None = None
) -> Tensor:
    """The parameters (p,) of the least mean cross-entropy + ridge / 2 * squared norm: convex, so the only minimum."""
    design = torch.einsum("pkf,nf->nkp", directions, features).flatten(0, 1).numpy()  # (images * classes, parameters)
    given = logits.numpy()
    first = np.zeros(len(directions)) if start is None else start.numpy()
    found = least_loss(
        lambda parameters: given + (design @ parameters).reshape(given.shape),
        lambda of_scores: of_scores.ravel() @ design,
        labels.numpy(),
        ridge,
        first,
    )
    return torch.from_numpy(found)


def least_loss(
    scores_of: Callable[[np.ndarray], np.ndarray],
    gradient_of: Callable[[np.ndarray], np.ndarray],
    labels: np.ndarray,
    ridge: float,
    first: np.ndarray,
) -> np.ndarray:
    """The parameters (p,) of the least mean cross-entropy + ridge / 2 * squared norm.

    Args:
        scores_of: parameters (p,) -> scores (images, classes) float64, a linear function.
        gradient_of: a gradient with respect to the scores -> that with respect to the parameters (p,).
        labels: (images,) int64.
        ridge: the strength per image.
        first: (p,) where the search starts.
    """
    images = np.arange(len(labels))

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        """Of these parameters, and its gradient, by hand: at this size calls of torch cost more than their work."""
        scores = scores_of(parameters)
        scores = scores - scores.max(1, keepdims=True)
        likelihoods = np.exp(scores)
        totals = likelihoods.sum(1, keepdims=True)
        cross_entropy = (np.log(totals).sum() - scores[images, labels].sum()) / len(labels)
        excess = likelihoods / totals
        excess[images, labels] -= 1
        return (
            cross_entropy + ridge / 2 * (parameters @ parameters),
            gradient_of(excess / len(labels)) + ridge * parameters,
        )

    options = {"maxiter": MAX_STEPS, "gtol": 1e-6, "ftol": 0}
    found: np.ndarray = minimize(loss, first, jac=True, method="L-BFGS-B", options=options).x
    return found
