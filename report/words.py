"""How a report says things: shares, times, lists, and the names of metrics."""

from collections.abc import Iterable, Sequence

from utils.progress import time_in_words

METRIC_NAMES = ("precision", "recall", "F1", "others' accuracy")


def percent(share: float) -> str:
    """A share as people read it; number and sign stay on one line."""
    return f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def listed(words: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


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
