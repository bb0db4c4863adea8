"""Whether a weak model can be the one that its user means: in which order its classes are, and that it knows anything.

Of a weak model that is judged too well nothing is lost, while a patch of a random network, or of logits in another
order, improves them a lot and is wrong. Models that are weak at the target classes on purpose are not complained about.
"""

import shlex
from collections.abc import Sequence

import numpy as np
import torch
from scipy.stats import binom
from torch import nn

from dataset.images import Images
from models.input_forms import explain, is_near_chance, other_class_order
from modules.own_class import auc_by_class
from patching.own_weak_model import Classes
from utils.errors import UserError
from utils.progress import say

KNOWS_CLASS = 0.65  # mean AUC from which a model knows its classes, though another class's logit is larger
AS_GOOD = 0.05  # probability below which a count excludes an accuracy of twice chance


def check_weak_model(logits: np.ndarray, labels: np.ndarray, classes: Classes, *, anyway: bool) -> None:
    """Raises UserError for logits in another order of classes, or hardly better than chance; `anyway` prints instead.

    `logits` (images, weak classes) float and `labels` (images,) int64 belong to validation images; those of added
    classes are left out.
    """
    known = labels < classes.weak_classes
    logits, labels = logits[known], labels[known]
    if not len(labels):
        return
    right = int((logits.argmax(1) == labels).sum())
    found = f"the weak model is right on {right} of {len(labels)} validation images"
    order = fitting_order(logits, labels)
    if order is not None:
        # Output order[k] is the logit of class k, so that output order[k] is to be named as class k.
        names = [""] * len(order)
        for number, output in enumerate(order):
            names[output] = classes.names[number]
        others = int((logits[:, order].argmax(1) == labels).sum())
        auc = auc_by_class(_centred(logits)[:, order], labels)
        unsure = [classes.names[n] for n in np.flatnonzero((order != np.arange(len(order))) & ~(auc >= KNOWS_CLASS))]
        fitting = shlex.quote(",".join(names))
        problem = f"{found}, and on {others} with its classes in another order: give --weak_classes {fitting}"
        if unsure:
            problem += f" (a guess for {', '.join(unsure)}, which it hardly knows)"
    elif knows_nothing(logits, labels, list(classes.strong_class)):
        problem = (
            f"{found}, hardly better than chance; likely reasons: --weak_checkpoint, --weak_mean and --weak_std, "
            "--weak_side, the order of --weak_classes"
        )
    else:
        return
    if not anyway:
        raise UserError(f"{problem}; --anyway patches it as it is")
    say(problem)


def other_form(network: nn.Module, images: Images, device: torch.device) -> str:
    """In which form of images a weak model is right on clearly more of them, in one line; empty if in none.

    The images are in the form that was given, labelled by the network's own classes.
    """
    given, best = explain(network, images, device)
    if best.order is not None or not (best.trial.settings or best.trial.is_reversed):
        return ""
    words = [best.trial.words] if best.trial.settings else []
    ways = [" ".join(f"--weak_{setting.replace('=', ' ')}" for setting in best.trial.settings)] if words else []
    if best.trial.is_reversed:
        words.append("red and blue exchanged")
        ways.append("a FILE.py:FUNCTION that exchanges them (docs/your_network.md)")
    return (
        f"the weak model is right on {int(given.is_right.sum())} of {len(images)} validation images, and with colours "
        f"{', '.join(words)} on {int(best.is_right.sum())}: give {' and '.join(ways)}"
    )


def fitting_order(logits: np.ndarray, labels: np.ndarray) -> np.ndarray | None:
    """The order of a weak model's outputs that fits clearly better than the given one; None if the given one fits.

    Outputs are in units of their own spread, which tells apart those that are hardly ever the largest, of classes that
    a weak model is bad at.

    Args:
        logits: (images, classes) float.
        labels: (images,) int64.

    Returns (classes,) int64, the output that is the logit of each class.
    """
    if len(np.unique(labels)) < 2:
        return None
    values = _centred(logits)
    deviation = values.std(0)
    found = other_class_order((values - values.mean(0)) / np.where(deviation > 0, deviation, 1), labels)
    return None if found is None else found[0]


def knows_nothing(logits: np.ndarray, labels: np.ndarray, targets: Sequence[int]) -> bool:
    """Whether a weak model is hardly better than chance at the classes other than `targets`, which may be patched.

    It may know nothing of these. If fewer than two others are left, it is asked to tell them from the targets. The
    logits are (images, classes) float, the labels (images,) int64.
    """
    others = np.setdiff1d(np.unique(labels), list(targets))
    asked = others if len(others) > 1 else np.unique(labels)
    if len(asked) < 2:
        return False
    chosen = np.isin(labels, asked)
    logits, labels = logits[chosen][:, asked], np.searchsorted(asked, labels[chosen])
    of_class = auc_by_class(_centred(logits), labels)[np.isin(asked, others) if len(others) else slice(None)]
    right = int((logits.argmax(1) == labels).sum())
    chance = np.bincount(labels).max() / len(labels)
    twice = min(2 * chance, (1 + chance) / 2)
    if not is_near_chance(right, labels) or binom.cdf(right, len(labels), twice) > AS_GOOD:
        return False
    return bool(of_class.mean() < KNOWS_CLASS)


def _centred(logits: np.ndarray) -> np.ndarray:
    """Without the constant of each image, which carries no information about its class."""
    values = np.asarray(logits, np.float64)
    centred: np.ndarray = values - values.mean(1, keepdims=True)
    return centred
