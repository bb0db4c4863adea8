"""What the gradient search remembers of its rounds: one row each, with the composed model as it is after the round."""

import math
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path

from utils.checked_text import load_table, save_table
from utils.errors import UserError
from utils.files import damaged


@dataclass(frozen=True)
class Round:
    """One round's modules; accuracies are counts over all validation images."""

    number: int
    keep: float  # the share of kernels that it was to keep at the most
    kernels_kept: float  # the mean share over modules
    distance: float  # mean pairwise Jaccard distance
    images: int
    right_strong: int
    right_composed: int
    steps: int  # since the start of the search
    seconds: float  # of the round; of its last run, where it was interrupted

    @property
    def points_lost(self) -> float:
        """The composed model's accuracy below the strong model's, in percentage points."""
        return 100 * (self.right_strong - self.right_composed) / self.images


COLUMNS = tuple(field.name for field in fields(Round))


def save_rounds(path: Path, rounds: Sequence[Round]) -> None:
    """Write search_log.csv whole."""
    save_table(path, COLUMNS, list(map(asdict, rounds)))


def load_rounds(path: Path, made_by: str) -> list[Round]:
    """The rows of search_log.csv, round by round; none where it is not there yet. Raises UserError for another file."""
    if not path.exists():
        return []
    try:
        table = load_table(path, COLUMNS, made_by)
        rounds = [Round(**{field.name: field.type(row[field.name]) for field in fields(Round)}) for row in table]
        if not all(math.isfinite(value) for row in rounds for value in astuple(row)):
            raise ValueError("it holds NaN or infinity")
        if [row.number for row in rounds] != list(range(len(rounds))) or any(row.images < 1 for row in rounds):
            raise ValueError("expected rounds 0, 1, 2 ... on one image or more")
    except (ValueError, OverflowError) as error:
        raise damaged(path, made_by, f"not a log of rounds: {error}") from None
    return rounds


def describe(row: Round) -> str:
    """One line on a round."""
    return (
        f"round {row.number:2d}  to keep {100 * row.keep:g}%  kept {row.kernels_kept:.1%}  "
        f"accuracy {row.right_composed / row.images:.2%} ({-row.points_lost:+.2f} points)  "
        f"distance {row.distance:.4f}  {row.seconds:.1f} s"
    )


def rounds_to_do(keeps: Sequence[float], keep: float | None) -> list[float]:
    """The shares that the rounds go down to: the configuration's, or only those above `keep`, and `keep` itself twice.

    A round that keeps what the one before kept lets the masks settle.
    """
    if keep is None:
        return list(keeps)
    return [*(share for share in keeps if share > keep), keep, keep]


def smallest_within(rounds: Sequence[Round], max_loss: float) -> Round:
    """The round that keeps the fewest kernels and loses at most `max_loss` points. Raises UserError if none does."""
    within = [row for row in rounds if row.points_lost <= max_loss]
    if not within:
        nearest = min(rounds, key=lambda row: row.points_lost)
        raise UserError(
            f"--max_loss {max_loss:g}: no round stays within; with {nearest.kernels_kept:.1%} of the kernels "
            f"{nearest.points_lost:.2f} points are lost: expected at least that"
        )
    return min(within, key=lambda row: (row.kernels_kept, row.points_lost))
