"""The log of a gradient search: one row per round, and how a round is chosen."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from modules.own_class import MOST_BELOW
from search.judging import Judged

LEAST_EXPLAINED = 0.8  # of the strong logit's variance, by modules that are chosen to patch weak models with


@dataclass(frozen=True)
class Round(Judged):
    """The modules of one round, evaluated on all validation images.

    The composed model answers with the strong model's logits, those of the searched classes replaced by the modules'.
    """

    number: int
    keep: float  # the largest share that a module may keep
    kernels_kept: float  # the mean share over modules
    distance: float  # mean pairwise Jaccard distance
    images: int
    right_strong: int  # images that are classified correctly
    right_composed: int
    steps: int  # since the start of the search
    seconds: float  # of the round; of its last run, where it was interrupted
    # An earlier version wrote no values of these.
    auc_mean: float = math.nan  # of the modules for their own classes
    auc_below: float = math.nan  # the largest difference of a module's AUC below the strong model's
    explained_least: float = math.nan  # the smallest share of a strong logit's variance that its module explains
    flops: float = math.nan  # the modules' mean, as a share of the strong model's
    budget: str = "kernels"  # what `keep` is a share of: "kernels" or "flops"

    def asked_for(self, rows: Sequence["Round"]) -> str:
        """See `Judged`."""
        return words(self.keep, self.budget)


def words(keep: float, budget: str) -> str:
    """What a round was to keep."""
    return f"keep {100 * keep:g}%" + (" of the FLOPs" if budget == "flops" else "")


def knows(row: Round) -> bool:
    """Whether each module says nearly what the strong model says of its class.

    A weak model's images may be of classes that the strong model never saw. So the logit itself has to be right: an AUC
    of at most MOST_BELOW below the strong model's, and LEAST_EXPLAINED of the logit's variance explained.
    """
    return row.auc_below <= MOST_BELOW and row.explained_least >= LEAST_EXPLAINED


def smallest_that_knows(rounds: Sequence[Round]) -> Round:
    """The round that keeps the fewest kernels and `knows`; if none does, the one that explains the most."""
    knowing = list(filter(knows, rounds))
    return (
        min(knowing, key=lambda row: row.kernels_kept) if knowing else max(rounds, key=lambda row: row.explained_least)
    )
