"""How sure a change is: intervals by a paired bootstrap over the test images, and tests that hold for few images, too.

The same images are drawn before and after, so that what both models answer alike cancels (Efron and Tibshirani, An
Introduction to the Bootstrap, 1993, chapter 13). An image counts only by its outcome, of which there are few kinds, so
a draw of n images is one draw of a multinomial distribution.

Where few answers changed, all for the better, every draw finds a gain, and the bootstrap is too sure. So a change is
significant only if a test agrees: McNemar's exact one for accuracies, and for the scores of a class approximate
randomisation (Yeh, "More accurate tests for the statistical significance of result differences", COLING 2000).
"""

import math
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import bdtr

from patching.metrics import METRICS
from utils.seeds import generator

DRAWS = 1000
SWAPS = 9999  # of the randomisation
SIGNIFICANT = 0.05  # a test's p below this
MARGIN = 50 * SIGNIFICANT  # percent of the draws beyond either end

Interval = tuple[float, float]


def interval_in_words(interval: Interval) -> str:
    """`-1.2 to +3.4` in percentage points."""
    low, high = (f"{100 * value:+.1f}" for value in interval)
    return f"{low} to {high}"


def is_significant(interval: Interval, p: float) -> bool:
    """Whether a change is more than chance: its interval leaves out 0, and the test's p is below 0.05.

    If p is NaN, the interval decides alone.
    """
    low, high = interval
    return (low > 0 or high < 0) and (math.isnan(p) or p < SIGNIFICANT)


TAKEN, RIGHT, WRONG = range(3)  # outcomes: taken for the target class; else right; else wrong
TARGET, PATCHED, OTHER = range(3)  # kinds of images: of the target class, of another patched one, of none


@dataclass(frozen=True)
class Change:
    """What a patch changed in the scores of one target class, by the test images that it was tried on."""

    precision: Interval  # the change, with 95 % confidence
    recall: Interval
    f1: Interval
    others_accuracy: Interval
    p: tuple[float, ...]  # of METRICS: that a change as large comes about if each image's answers are swapped by chance

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Change":
        """Raises KeyError, TypeError or ValueError for values of no change."""
        intervals = {name: (float(low), float(high)) for name in METRICS for low, high in [values[name]]}
        given = values["p"] if "p" in values else (math.nan, math.nan, math.nan, values["others_p"])  # of version 1.0
        return cls(**intervals, p=tuple(float(p) for _, p in zip(METRICS, given, strict=True)))

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def is_significant(self, metric: str) -> bool:
        """Whether a metric of METRICS changed by more than chance: its interval leaves out 0, and its p is small."""
        return is_significant(getattr(self, metric), self.p[METRICS.index(metric)])

    def is_better(self, metric: str) -> bool:
        """Whether a metric of METRICS rose by more than chance."""
        return self.is_significant(metric) and getattr(self, metric)[0] > 0

    @property
    def others_p(self) -> float:
        """McNemar's p of the others' accuracy."""
        return self.p[METRICS.index("others_accuracy")]

    def in_words(self, metric: str) -> str:
        """The interval of a metric's change, in percentage points, and whether it is significant."""
        return f"{interval_in_words(getattr(self, metric))} ({self.verdict(metric)})"

    def verdict(self, metric: str) -> str:
        """Whether a change is significant, in words."""
        if getattr(self, metric) == (0, 0):
            return "unchanged"
        return "significant" if self.is_significant(metric) else "not significant"


def better_and_worse(changes: Iterable[Change | None], metric: str) -> tuple[int, int]:
    """How many of some changes are significant, for the better and for the worse."""
    significant = [change for change in changes if change and change.is_significant(metric)]
    better = sum(change.is_better(metric) for change in significant)
    return better, len(significant) - better


def change_of(
    labels: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    target_class: int,
    patched_classes: Collection[int] = (),
    seed: int = 0,
) -> Change:
    """How sure the changes of a target class's scores are.

    Args:
        labels: (images,) int64.
        before: (images,) int64, the weak model's answers.
        after: (images,) int64, the patched model's answers.
        target_class: whose precision, recall and F1 change.
        patched_classes: further classes that the same patch is for: they are none of the others.
        seed: of the draws.
    """
    patched = sorted({target_class, *patched_classes})
    counts = _counts(labels, before, after, target_class, patched)
    changes = _drawn_changes(counts, seed, target_class)
    if (first := patched[0]) != target_class:
        # The others are the same images for each of the patched classes: so is the interval of their accuracy
        of_first = _drawn_changes(_counts(labels, before, after, first, patched), seed, first)
        changes[:, METRICS.index("others_accuracy")] = of_first[:, METRICS.index("others_accuracy")]
    lows, highs = np.percentile(changes, (MARGIN, 100 - MARGIN), axis=0)
    intervals = zip(lows.tolist(), highs.tolist(), strict=True)
    won, lost = counts[OTHER, [TAKEN, WRONG], RIGHT].sum(), counts[OTHER, RIGHT, [TAKEN, WRONG]].sum()
    p = (*_swapped_p(counts, generator(seed, "randomisation", target_class))[:-1], mcnemar_p(int(won), int(lost)))
    return Change(**dict(zip(METRICS, intervals, strict=True)), p=p)


def _counts(
    labels: np.ndarray, before: np.ndarray, after: np.ndarray, target_class: int, patched_classes: Collection[int]
) -> np.ndarray:
    """Images (kind, outcome before, outcome after)."""
    kinds = np.full(len(labels), OTHER)
    kinds[np.isin(labels, list(patched_classes))] = PATCHED
    kinds[labels == target_class] = TARGET
    outcomes = [_outcomes(labels, answers, target_class) for answers in (before, after)]
    cells = (kinds * 3 + outcomes[0]) * 3 + outcomes[1]
    return np.bincount(cells, minlength=27).reshape(3, 3, 3)


def _drawn_changes(counts: np.ndarray, seed: int, target_class: int) -> np.ndarray:
    """(DRAWS, METRICS) of as many images, drawn with replacement, as there are in the counts of `_counts`."""
    shares = counts.ravel() / counts.sum()
    drawn = generator(seed, "bootstrap", target_class).multinomial(counts.sum(), shares, DRAWS)
    return _changes(drawn.reshape(DRAWS, 3, 3, 3))


def _changes(counts: np.ndarray) -> np.ndarray:
    """(draws, METRICS) of counts (draws, kind, outcome before, outcome after)."""
    changes: np.ndarray = _metrics(counts.sum(2)) - _metrics(counts.sum(3))
    return changes


def _swapped_p(counts: np.ndarray, random: np.random.Generator) -> list[float]:
    """Of each of METRICS how often it changes as much if the two answers of each image are swapped by chance.

    `counts` (kind, outcome before, outcome after): of the images of two different outcomes each is before or after.
    """
    changed = np.triu(counts + counts.swapaxes(1, 2), 1)
    swapped = random.binomial(changed, 0.5, (SWAPS, *counts.shape))
    unchanged = counts * np.eye(3, dtype=int)
    found = _changes(unchanged + swapped + (changed - swapped).swapaxes(2, 3))
    as_much = np.abs(found) >= np.abs(_changes(counts[None])) - 1e-12  # rounding
    p: list[float] = ((1 + as_much.sum(0)) / (1 + SWAPS)).tolist()
    return p


def accuracy_change(labels: np.ndarray, before: np.ndarray, after: np.ndarray, seed: int = 0) -> Interval:
    """The change of accuracy between two sequences of answers (images,), with 95 % confidence."""
    differences = (after == labels).astype(int) - (before == labels)
    counts = np.bincount(differences + 1, minlength=3)  # lost, alike, won
    drawn = generator(seed, "bootstrap of accuracy").multinomial(len(labels), counts / len(labels), DRAWS)
    low, high = np.percentile((drawn[:, 2] - drawn[:, 0]) / len(labels), (MARGIN, 100 - MARGIN))
    return float(low), float(high)


def accuracy_p(labels: np.ndarray, before: np.ndarray, after: np.ndarray) -> float:
    """McNemar's p of the change of accuracy between two sequences of answers (images,)."""
    differences = (after == labels).astype(int) - (before == labels)
    return mcnemar_p(int((differences > 0).sum()), int((differences < 0).sum()))


def mcnemar_p(won: int, lost: int) -> float:
    """The probability of a split at least as uneven of the images that changed, if each went either way by chance.

    Of McNemar's exact test (Psychometrika 12, 1947): `won` images are right only after, `lost` only before.
    """
    return min(1.0, 2 * float(bdtr(min(won, lost), won + lost, 0.5)))


def _outcomes(labels: np.ndarray, answers: np.ndarray, target_class: int) -> np.ndarray:
    return np.select([answers == target_class, answers == labels], [TAKEN, RIGHT], WRONG)


def _metrics(counts: np.ndarray) -> np.ndarray:
    """(draws, METRICS) of counts (draws, kind, outcome)."""
    taken = counts[:, TARGET, TAKEN]
    taken_wrongly = counts[:, PATCHED, TAKEN] + counts[:, OTHER, TAKEN]
    of_class = counts[:, TARGET].sum(1)
    pairs = [
        (taken, taken + taken_wrongly),
        (taken, of_class),
        (2 * taken, taken + taken_wrongly + of_class),
        (counts[:, OTHER, RIGHT], counts[:, OTHER].sum(1)),
    ]
    return np.stack([count / np.maximum(total, 1) for count, total in pairs], 1)
