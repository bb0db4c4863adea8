"""How a trained network's images and classes were arranged, where nothing says so: the usual ways are tried.

A checkpoint does not say how its images were normalised, or in which order its classes are. In the wrong form a network
answers much worse, often near chance.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.special import bdtrc
from torch import Tensor, nn

from dataset.images import IMAGENET, Images, Normalisation
from models.evaluation import count_right, predict
from utils.estimate import estimated
from utils.progress import progress

BYTE = 0.0039216  # 1/255: dividing by it gives pixel values from 0 to 255
USUAL = {
    "ImageNet's": IMAGENET,
    "CIFAR-10's": Normalisation((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)),
    "from -1 to 1": Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "from 0 to 1": Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "from 0 to 255": Normalisation((0.0, 0.0, 0.0), (BYTE, BYTE, BYTE)),
    "from 0 to 255 less ImageNet's mean": Normalisation(IMAGENET.mean, (BYTE, BYTE, BYTE)),
}
CLEARLY = 0.02  # of the images, by which another way must be better to be named or taken
P_VALUE = 0.001  # the p-value below which it counts as better; a dozen ways are compared
SIGNIFICANT = 0.01  # the p-value below which a model counts as better than chance
LEAST_KAPPA = 0.1  # of a model that is more than hardly better than chance


def can_tell_from_chance(labels: np.ndarray) -> bool:
    """Whether these images are enough to tell a perfect model from chance.

    Args:
        labels: (images,) int64.

    Returns False where even all images correct would not be significant: 6 images of two classes, for example.
    """
    shares = np.bincount(labels) / len(labels)
    return len(labels) * np.log((shares**2).sum()) < np.log(SIGNIFICANT)


def is_near_chance(right: int, labels: np.ndarray, predicted: np.ndarray | None = None) -> bool:
    """Whether a model is hardly better than one that gives the same answers, but whatever the image.

    Chance classifies e = sum_c p_c q_c of the images correctly, where p_c is the share of class c among the labels and
    q_c that among the answers (Cohen, "A coefficient of agreement for nominal scales", 1960). A model is near chance if
    it is not significantly better (one-sided binomial test with probability e; answers that are permuted at random vary
    less than that). With many images a difference of no use is significant, too: a model is also near chance if it is
    right on less than twice as many images as chance, and its kappa, (right / n - e) / (1 - e), is below 0.1.

    Args:
        right: how many images the model classifies correctly.
        labels: (images,) int64.
        predicted: (images,) int64, its answers. Without them e is the share of the most frequent class, which is the
            most that chance reaches: a model that knows rare classes can then count as near chance.

    Returns False for a model that is right on all images. Where the images are too few, no other can be significantly
    better: ask `can_tell_from_chance` first.
    """
    n, count_of = len(labels), np.bincount(labels)
    if predicted is None:
        by_chance = count_of.max() / n
    else:  # the sum over classes is one over answers
        by_chance = count_of[predicted[predicted < len(count_of)]].sum() / n**2
    gained = right - n * by_chance
    is_significant = bdtrc(right - 1, n, by_chance) < SIGNIFICANT
    is_hardly_better = gained < n * min(by_chance, LEAST_KAPPA * (1 - by_chance))
    return right < n and (is_hardly_better or not is_significant)


def class_order(logits: Tensor | np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, int]:
    """The best one-to-one order of a network's outputs, whether or not it is better than theirs by more than chance.

    Args:
        logits: (images, classes).
        labels: (images,) int64.

    Returns (classes,) int64, the output that stands for each class, and how many answers are right then. Of equally
    good orders it is one that leaves most outputs where they are.
    """
    classes = logits.shape[1]
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels, np.asarray(logits).argmax(1)), 1)
    rows, columns = linear_sum_assignment(counts * (classes + 1) + np.eye(classes, dtype=np.int64), maximize=True)
    return columns, int(counts[rows, columns].sum())


def other_class_order(logits: Tensor | np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The order of outputs, as `class_order`, where it differs significantly from that of the classes; else None.

    The best order of some images is better on these by chance alone. So it is judged on others: the order that one half
    of the images gives, on the other half. There it must be right on clearly more images. Of the images of the classes
    that it moves it must be right on half, and on twice as many as before: an untrained network, which tells classes
    apart in some other way, has such orders of less use. And it must be better for most of these classes: where a
    network takes one class for another, a class that gains an output takes it from one that loses it.

    Args:
        logits: (images, classes).
        labels: (images,) int64.

    Returns the order, and which images (images,) bool are right by the order that the other half gives.
    """
    logits = np.asarray(logits)
    predicted, classes, half = logits.argmax(1), logits.shape[1], np.empty(len(labels), np.int64)
    half[np.argsort(labels, kind="stable")] = np.arange(len(labels)) % 2  # of every class
    was_right, is_right = predicted == labels, np.empty(len(labels), bool)
    for mine in (half == 0, half == 1):
        order, _ = class_order(logits[~mine], labels[~mine])
        is_right[mine] = order[labels[mine]] == predicted[mine]
    order, _ = class_order(logits, labels)
    moved = order != np.arange(classes)
    of_moved = moved[labels]
    gained = np.bincount(labels, is_right.astype(int) - was_right, classes) > 0
    is_other = (
        of_moved.any()
        and is_clearly_better(is_right, was_right)
        and is_right[of_moved].mean() >= max(0.5, 2 * was_right[of_moved].mean())
        and gained[moved].mean() > 0.5
    )
    return (order, is_right) if is_other else None


def is_clearly_better(is_right: np.ndarray, was_right: np.ndarray) -> bool:
    """Whether answers are right on clearly and significantly more of the same images than others (sign test).

    Args:
        is_right, was_right: (images,) bool.
    """
    won, lost = int((is_right & ~was_right).sum()), int((was_right & ~is_right).sum())
    return won - lost >= max(1, CLEARLY * len(is_right)) and bdtrc(won - 1, won + lost, 0.5) < P_VALUE


@dataclass(frozen=True, eq=False)
class Trial:
    """A network's answers to images in one form."""

    words: str  # of the form
    normalisation: Normalisation | None
    logits: Tensor  # (images, classes)
    is_given: bool = False
    is_reversed: bool = False  # blue, green, red

    @property
    def settings(self) -> tuple[str, ...]:
        """The settings, NAME=VALUE, that give the form."""
        if self.is_given or self.normalisation is None:
            return ()
        mean, std = (",".join(map(str, values)) for values in self.normalisation)
        return f"mean={mean}", f"std={std}"


@dataclass(frozen=True, eq=False)
class Explanation:
    """A form of images and an order of classes that a network may have been trained with."""

    trial: Trial
    order: np.ndarray | None  # (classes,) int64, the output that stands for each class; None = as they are
    predicted: np.ndarray  # (images,) int64, the classes that it answers then
    is_right: np.ndarray  # (images,) bool; with an order, by the order that the other half of the images gives

    @property
    def changes(self) -> int:
        """How many things are other than they were given."""
        return (not self.trial.is_given) + self.trial.is_reversed + (self.order is not None)


def explain(
    network: nn.Module, images: Images, device: torch.device, *, orders: bool = True
) -> tuple[Explanation, Explanation]:
    """What a network answers to images as they are given, and in the way in which it was most likely trained.

    Forms of images and orders of classes are tried together, since one hides the other. Among ways that are not clearly
    worse than the best, the one with the fewest changes is taken: the given one where nothing is clearly better. A way
    that is near chance itself explains nothing.

    Args:
        network: images (n, 3, side, side) -> logits (n, classes), on the device.
        images: in the form that was given, with labels.
        device: where the network is.
        orders: whether the classes may be in another order, too.

    Raises UserError where the logits for the given form are NaN or infinite.
    """
    forms, what = 2 + sum(each != images.normalisation for each in USUAL.values()), "trying forms of images"
    trials = list(progress(estimated(_trials(network, images, device), what, forms), what, forms))
    given, best = _likeliest(trials, images.labels, orders)
    reversed_images = _reversed(images, best.trial.normalisation)
    if (logits := predict(network, reversed_images, device)).isfinite().all():
        given, best = _likeliest([*trials, replace(best.trial, logits=logits, is_reversed=True)], images.labels, orders)
    return given, best


def _trials(network: nn.Module, images: Images, device: torch.device) -> Iterator[Trial]:
    """The answers to the images as they are, then in the other usual forms that give finite ones."""
    logits = predict(network, images, device)
    count_right(logits, images.labels)  # refuses what is not finite
    yield Trial("as they are", images.normalisation, logits, is_given=True)
    for words, normalisation in USUAL.items():
        if normalisation != images.normalisation:
            logits = predict(network, replace(images, normalisation=normalisation), device)
            if logits.isfinite().all():
                yield Trial(words, normalisation, logits)


def _reversed(images: Images, normalisation: Normalisation | None) -> Images:
    """The images, normalised as red, green and blue, and then given as blue, green and red."""
    if normalisation is not None:
        normalisation = Normalisation(normalisation.mean[::-1], normalisation.std[::-1])
    return replace(images, pixels=np.ascontiguousarray(images.pixels[..., ::-1]), normalisation=normalisation)


def _likeliest(trials: Sequence[Trial], labels: np.ndarray, orders: bool) -> tuple[Explanation, Explanation]:
    """The first trial as it is, and the likeliest way; see `explain`."""
    ways = []
    for trial in trials:
        predicted = trial.logits.argmax(1).numpy()
        ways.append(Explanation(trial, None, predicted, predicted == labels))
        if orders and (found := other_class_order(trial.logits, labels)):
            ways.append(Explanation(trial, found[0], np.argsort(found[0])[predicted], found[1]))
    given, *others = ways
    others = [way for way in others if not is_near_chance(int(way.is_right.sum()), labels, way.predicted)]
    best = max([given, *others], key=lambda way: way.is_right.sum())
    close = [way for way in [given, *others] if not is_clearly_better(best.is_right, way.is_right)]
    return given, min(close, key=lambda way: (way.changes, -way.is_right.sum()))
