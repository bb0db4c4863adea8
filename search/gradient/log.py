"""What a gradient search remembers of its rounds: one row each, with what it found as it is after the round."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from modules.own_class import MOST_BELOW
from utils.errors import UserError
from utils.tables import fitted

LEAST_EXPLAINED = 0.8  # of the strong logit's variance, by the smallest module for a patch that is taken unasked


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
    auc_mean: float = math.nan  # of the modules for their own classes; NaN where an earlier version wrote the row
    auc_below: float = math.nan  # how far the one that falls most below the strong model's is below it

    def __post_init__(self) -> None:
        if self.images < 1:
            raise ValueError(f"round {self.number}: expected one image or more")

    @property
    def points_lost(self) -> float:
        """The composed model's accuracy below the strong model's, in percentage points."""
        return 100 * (self.right_strong - self.right_composed) / self.images


def describe(row: Round) -> str:
    """A round in two lines."""
    return fitted(
        (
            f"round {row.number:2d}",
            f"to keep {100 * row.keep:g}%",
            f"kept {row.kernels_kept:.1%}",
            f"accuracy {row.right_composed / row.images:.2%} ({-row.points_lost:+.2f} points)",
            f"distance {row.distance:.4f}",
            f"AUC {row.auc_mean:.4f}, at most {row.auc_below:.4f} below the strong model's",
            f"{row.seconds:.1f} s",
        )
    )


def asked_for(rounds: Sequence[Round], number: int) -> str:
    """What a round was to keep, in words."""
    settled = number > 0 and rounds[number].keep == rounds[number - 1].keep
    return f"keep {100 * rounds[number].keep:g}%" + (", settled" if settled else "")


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


@dataclass(frozen=True)
class RoundForPatch:
    """One round's module of one class, judged on all validation images."""

    number: int
    keep: float  # the share of kernels that it was to keep at the most
    kernels_kept: float  # the share
    flops: float  # of the module, as a share of the strong model's
    images: int
    auc_strong: float  # of the class's logit
    auc_module: float
    explained: float  # the share of the strong logit's variance that the module's logit explains
    steps: int  # since the start of the search
    seconds: float  # of the round; of its last run, where it was interrupted


def describe_for_patch(row: RoundForPatch) -> str:
    """A round in two lines."""
    return fitted(
        (
            f"round {row.number:2d}",
            f"to keep {100 * row.keep:g}%",
            f"kept {row.kernels_kept:.1%}",
            f"FLOPs {row.flops:.1%}",
            f"AUC {row.auc_module:.4f} (strong model {row.auc_strong:.4f})",
            f"logit explained {row.explained:.1%}",
            f"{row.seconds:.1f} s",
        )
    )


def smallest_that_knows(rounds: Sequence[RoundForPatch]) -> RoundForPatch:
    """The round that keeps the fewest kernels and says of its class nearly what the strong model says.

    That is with an AUC at most MOST_BELOW below, and LEAST_EXPLAINED of the logit's variance explained, since a weak
    model's images may be of classes that the strong model never saw. Where none does, the one that explains the most.
    """
    knowing = [
        row for row in rounds if row.auc_module >= row.auc_strong - MOST_BELOW and row.explained >= LEAST_EXPLAINED
    ]
    return min(knowing, key=lambda row: row.kernels_kept) if knowing else max(rounds, key=lambda row: row.explained)
