"""Which form of images a trained network was made for, where nobody says so: the usual ones are tried.

A checkpoint does not say how its images were normalised, or in which order its classes stand. With the wrong form a
network answers much worse, often near chance.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn

from dataset.labelled_images import IMAGENET, Images, Normalisation
from models.training import count_right, predict

USUAL = {
    "ImageNet's": IMAGENET,
    "CIFAR-10's": Normalisation((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)),
    "from -1 to 1": Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "from 0 to 1": Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
CLEARLY = 0.02  # of the images, by which another form must be better to be named
NEAR_CHANCE = 1.5  # times the share of the largest class


@dataclass(frozen=True)
class Trial:
    """A network's answers to images in one form."""

    words: str  # of the form
    settings: tuple[str, ...]  # NAME=VALUE that give it
    right: int
    logits: torch.Tensor  # (images, classes)


def try_forms(network: nn.Module, images: Images, device: torch.device) -> Iterator[Trial]:
    """The answers to the images as they are, then in the other usual forms."""
    forms = {"as it is": images.normalisation, **USUAL}
    tried = set()
    for words, normalisation in forms.items():
        if normalisation not in tried:
            tried.add(normalisation)
            logits = predict(network, replace(images, normalisation=normalisation), device)
            mean, std = (",".join(map(str, values)) for values in normalisation)
            yield Trial(words, (f"mean={mean}", f"std={std}"), count_right(logits, images.labels), logits)


def is_near_chance(right: int, labels: np.ndarray) -> bool:
    """Whether so many right answers say hardly more than the commonest class always."""
    return right <= NEAR_CHANCE * np.bincount(labels).max()


def class_order(logits: torch.Tensor, labels: np.ndarray) -> tuple[np.ndarray, int]:
    """The best one-to-one order of a network's logits, and how many answers are right then.

    Args:
        logits: (images, classes).
        labels: (images,) int64.

    Returns (classes,) int64, the logit that stands for each class, and the count.
    """
    classes = logits.shape[1]
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels, logits.argmax(1).numpy()), 1)
    rows, columns = linear_sum_assignment(-counts)
    return columns, int(counts[rows, columns].sum())
