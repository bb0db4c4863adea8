"""How sure a change is: intervals by a paired bootstrap over the test images, and McNemar's exact test.

The same images are drawn before and after, so that what both models answer alike cancels (Efron and Tibshirani, An
Introduction to the Bootstrap, 1993, chapter 13). An image counts only by its outcome, of which there are few kinds, so
a draw of n images is one draw of a multinomial distribution.
"""

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import bdtr

from patching.metrics import METRICS
from utils.seeds import generator

DRAWS = 1000
LEVEL = 0.95
MARGIN = 50 * (1 - LEVEL)  # percent of the draws beyond either end

Interval = tuple[float, float]


def interval_in_words(interval: Interval) -> str:
    """`-1.2 to +3.4` in percentage points."""
    low, high = (f"{100 * value:+.1f}" for value in interval)
    return f"{low} to {high}"


TAKEN, RIGHT, WRONG = range(3)  # outcomes: taken for the target class; else right; else wrong
TARGET, PATCHED, OTHER = range(3)  # kinds of images: of the target class, of another patched one, of none


@dataclass(frozen=True)
class Change:
    """What a patch changed in the scores of one target class, by the test images that it was tried on."""

    precision: Interval  # the change, with 95 % confidence
    recall: Interval
    f1: Interval
    others_accuracy: Interval
    others_p: float  # McNemar's exact test: that the others' answers changed for the better and the worse by chance

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Change":
        """Raises KeyError, TypeError or ValueError for values of no change."""
        intervals = {name: (float(low), float(high)) for name in METRICS for low, high in [values[name]]}
        return cls(**intervals, others_p=float(values["others_p"]))

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def is_significant(self, metric: str) -> bool:
        """Whether a metric of METRICS changed by more than chance: its interval leaves out 0.

        Of the others' accuracy McNemar's test must say so, too: of a handful of answers that changed, all for the
        worse, the bootstrap is too sure.
        """
        low, high = getattr(self, metric)
        return (low > 0 or high < 0) and (metric != "others_accuracy" or self.others_p < 1 - LEVEL)

    def in_words(self, metric: str) -> str:
        """The interval of a metric's change, in percentage points, and whether it is significant."""
        return f"{interval_in_words(getattr(self, metric))} ({self.verdict(metric)})"

    def verdict(self, metric: str) -> str:
        """Whether a change is significant, in words."""
        if getattr(self, metric) == (0, 0):
            return "unchanged"
        return "significant" if self.is_significant(metric) else "not significant"


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
    kinds = np.full(len(labels), OTHER)
    kinds[np.isin(labels, list(patched_classes))] = PATCHED
    kinds[labels == target_class] = TARGET
    outcomes = [_outcomes(labels, answers, target_class) for answers in (before, after)]
    cells = (kinds * 3 + outcomes[0]) * 3 + outcomes[1]
    counts = np.bincount(cells, minlength=27)
    drawn = generator(seed, "bootstrap", target_class).multinomial(len(labels), counts / len(labels), DRAWS)
    drawn = drawn.reshape(DRAWS, 3, 3, 3)  # draw, kind, outcome before, outcome after
    changes = _metrics(drawn.sum(2)) - _metrics(drawn.sum(3))
    lows, highs = np.percentile(changes, (MARGIN, 100 - MARGIN), axis=0)
    others = counts.reshape(3, 3, 3)[OTHER]
    won, lost = others[[TAKEN, WRONG], RIGHT].sum(), others[RIGHT, [TAKEN, WRONG]].sum()
    intervals = zip(lows.tolist(), highs.tolist(), strict=True)
    return Change(**dict(zip(METRICS, intervals, strict=True)), others_p=mcnemar_p(int(won), int(lost)))


def accuracy_change(labels: np.ndarray, before: np.ndarray, after: np.ndarray, seed: int = 0) -> Interval:
    """The change of accuracy between two sequences of answers (images,), with 95 % confidence."""
    differences = (after == labels).astype(int) - (before == labels)
    counts = np.bincount(differences + 1, minlength=3)  # lost, alike, won
    drawn = generator(seed, "bootstrap of accuracy").multinomial(len(labels), counts / len(labels), DRAWS)
    low, high = np.percentile((drawn[:, 2] - drawn[:, 0]) / len(labels), (MARGIN, 100 - MARGIN))
    return float(low), float(high)


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
