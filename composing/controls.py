"""What a composed classifier is compared with: the whole strong models, in the usual ways of joining them."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from patching.learned import fold_of_each, one_blas_thread

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of stacking's ridge, per image
MOST_STACKED = 5000  # images that stacking is fitted on: it has a weight for every pair of a class and a logit


@dataclass(frozen=True)
class Whole:
    """What a whole strong model says."""

    logits: np.ndarray  # (images, its classes) float
    places: tuple[int, ...]  # the composed classes that it knows
    numbers: tuple[int, ...]  # its own numbers of them

    @property
    def of_classes(self) -> np.ndarray:
        """Its logits (images, places) of the composed classes."""
        return self.logits[:, list(self.numbers)]

    @property
    def log_probabilities(self) -> np.ndarray:
        """(images, places) of its softmax over all its classes."""
        return log_softmax(self.logits.astype(np.float64), 1)[:, list(self.numbers)]


def restricted(strong: Whole) -> np.ndarray:
    """The answers (images,) of a strong model that may answer with the composed classes alone."""
    return np.array(strong.places)[strong.of_classes.argmax(1)]


def largest_softmax(models: Sequence[Whole], num_classes: int) -> np.ndarray:
    """The answers (images,): the class with the largest probability that any strong model gives it."""
    best = np.full((len(models[0].logits), num_classes), -np.inf)
    for model in models:
        places = list(model.places)
        best[:, places] = np.maximum(best[:, places], model.log_probabilities)
    return best.argmax(1)


def mean_softmax(models: Sequence[Whole]) -> np.ndarray:
    """The answers (images,) by the mean of all models' probabilities; every model knows all composed classes."""
    total = np.zeros((len(models[0].logits), len(models[0].places)))
    for model in models:
        total[:, list(model.places)] += np.exp(model.log_probabilities)
    return total.argmax(1)


@one_blas_thread
def stacked(logits: np.ndarray, labels: np.ndarray, test_logits: np.ndarray, seed: int = 0) -> np.ndarray:
    """The answers (images,) of a multinomial logistic regression on all logits (images, logits), standardised.

    Its ridge is chosen by cross-validation; of many images it is fitted on MOST_STACKED.
    """
    some = np.linspace(0, len(labels) - 1, min(len(labels), MOST_STACKED)).astype(np.int64)
    values, wanted = logits[some].astype(np.float64), labels[some]
    mean, deviation = values.mean(0), values.std(0)
    deviation[deviation == 0] = 1
    values, given = (values - mean) / deviation, (test_logits - mean) / deviation
    folds = fold_of_each(wanted, seed)

    def fitted(strength: float, chosen: np.ndarray) -> LogisticRegression:
        return LogisticRegression(C=1 / (strength * len(wanted[chosen]))).fit(values[chosen], wanted[chosen])

    def loss(strength: float) -> float:
        total = 0.0
        for fold in np.unique(folds):
            outside = folds == fold
            model = fitted(strength, ~outside)
            columns = np.searchsorted(model.classes_, wanted[outside]).clip(max=len(model.classes_) - 1)
            is_known = model.classes_[columns] == wanted[outside]
            likelihoods = model.predict_log_proba(values[outside])[np.arange(outside.sum()), columns]
            total -= likelihoods[is_known].sum()
        return total

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # nearly there is good enough for a control
        best = min(STRENGTHS, key=loss)
        return fitted(best, np.ones(len(wanted), bool)).predict(given)
