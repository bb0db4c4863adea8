"""What a composed classifier is compared with: the whole strong models, in the usual ways of joining them."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.model_selection import PredefinedSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from patching.learned import fold_of_each, one_blas_thread
from utils.seeds import generator

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of stacking's ridge, per image
MOST_STACKED = 5000  # images that stacking is fitted on: it has a weight for every pair of a class and a logit


@dataclass(frozen=True)
class Whole:
    """The outputs of a whole strong model."""

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
        found: np.ndarray = log_softmax(self.logits.astype(np.float64), 1)[:, list(self.numbers)]
        return found


def restricted(strong: Whole) -> np.ndarray:
    """The answers (images,) of a strong model that may answer with the composed classes alone."""
    answers: np.ndarray = np.array(strong.places)[strong.of_classes.argmax(1)]
    return answers


def largest_softmax(models: Sequence[Whole], num_classes: int) -> np.ndarray:
    """The answers (images,): the class with the largest probability that any strong model gives it."""
    best = np.full((len(models[0].logits), num_classes), -np.inf)
    for model in models:
        places = list(model.places)
        best[:, places] = np.maximum(best[:, places], model.log_probabilities)
    answers: np.ndarray = best.argmax(1)
    return answers


def mean_softmax(models: Sequence[Whole]) -> np.ndarray:
    """The answers (images,) by the mean of all models' probabilities; every model knows all composed classes."""
    total = np.zeros((len(models[0].logits), len(models[0].places)))
    for model in models:
        total[:, list(model.places)] += np.exp(model.log_probabilities)
    answers: np.ndarray = total.argmax(1)
    return answers


@one_blas_thread
def stacked(logits: np.ndarray, labels: np.ndarray, test_logits: np.ndarray, seed: int = 0) -> np.ndarray:
    """The answers (images,) of a multinomial logistic regression on all logits (images, logits), standardised.

    Its ridge is chosen by cross-validation, the middle one if a class has too few images for that; of many images it
    is fitted on MOST_STACKED.
    """
    some = generator(seed, "stacked").permutation(len(labels))[:MOST_STACKED]
    inverses = [1 / (strength * len(some)) for strength in STRENGTHS]
    folds = PredefinedSplit(fold_of_each(labels[some], seed))
    model = LogisticRegressionCV(Cs=inverses, cv=folds, scoring="neg_log_loss")
    if np.bincount(labels[some]).min() < folds.get_n_splits():
        model = LogisticRegression(C=inverses[len(inverses) // 2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nearly there is good enough; and of defaults only today's count
        answers: np.ndarray = (
            make_pipeline(StandardScaler(), model).fit(logits[some], labels[some]).predict(test_logits)
        )
    return answers
