"""How a report says things: shares, times, lists, and the names of metrics."""

from collections.abc import Iterable
from dataclasses import dataclass

from patching.confidence import Change
from utils.progress import time_in_words

METRIC_NAMES = ("precision", "recall", "F1", "others' accuracy")


def percent(share: float) -> str:
    """A share as people read it; number and sign stay on one line."""
    return f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def counted(number: int, thing: str, things: str = "") -> str:
    """`1 model`, `2 models`, `2 patches`."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {things or f'{thing}s'}"


def duration(seconds: float | None) -> str:
    """A time as people say it."""
    if seconds is None:
        return "not recorded"
    if not 0 <= seconds < 1e9:
        return "unknown"
    return time_in_words(seconds)


def span(values: Iterable[float], form: str = ".1f") -> str:
    """From the least to the largest of some numbers: `1.5 to 20.0`; a single one where both read alike."""
    known = list(values)
    texts = [format(value, form) for value in (min(known), max(known))]
    return texts[0] if texts[0] == texts[1] else " to ".join(texts)


@dataclass(frozen=True)
class Effect:
    """A difference in percentage points with its 95 % interval, and whether it is significant."""

    difference: float
    low: float
    high: float
    is_significant: bool

    @classmethod
    def of(cls, change: Change, metric: str, difference: float) -> "Effect":
        """The effect on a metric of METRICS; `difference` is a share."""
        low, high = getattr(change, metric)
        return cls(100 * difference, 100 * low, 100 * high, change.is_significant(metric))

    @property
    def kind(self) -> str:
        """`gain` or `loss` where it is significant, else nothing."""
        return ("gain" if self.low > 0 else "loss") if self.is_significant else ""

    def __str__(self) -> str:
        if self.low == self.high == self.difference == 0:
            return "unchanged"
        verdict = f"significant {self.kind}" if self.kind else "not significant"
        return f"{self.difference:+.1f} [{self.low:+.1f}, {self.high:+.1f}], {verdict}"
