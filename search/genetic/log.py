"""What the recorder remembers of a search: one row a generation, and how the search ended.

The log is the recorder's only memory, so numbers stand in it exactly (repr of a float64).
"""

import math
from dataclasses import dataclass

from utils.tables import fitted


@dataclass(frozen=True)
class Generation:
    """One generation's best ensemble, and how the generation went."""

    generation: int
    accuracy: float  # of the best ensemble, on the search's images
    distance: float  # its mean pairwise Jaccard distance
    fitness: float  # alpha * accuracy + (1 - alpha) * distance (+ own_class * AUC), with the same alpha in all of them
    kernels_kept: float  # the mean share over its modules
    mean_fitness: float  # over all chromosomes, as the explorers select by
    final_ensembles: int  # over all classes, after the last pruning
    ensembles_scored: int
    ensemble: tuple[int, ...]  # one chromosome index per class
    seconds: float  # since the last generation, or the recorder's start
    auc_mean: float = math.nan  # of its modules for their own classes; NaN if an earlier version wrote the row
    auc_least: float = math.nan  # of the module that knows its class least


def best_generation(rows: list[Generation]) -> Generation:
    """The row of the highest fitness, the earliest of equal ones."""
    return max(rows, key=lambda row: (row.fitness, -row.generation))


def is_over(rows: list[Generation], generations: int, patience: int | None) -> bool:
    """Whether generation `generations` is scored or, with a patience, so many generations brought nothing better."""
    if len(rows) > generations:
        return True
    return patience is not None and bool(rows) and rows[-1].generation - best_generation(rows).generation >= patience


def until_over(rows: list[Generation], generations: int, patience: int | None) -> list[Generation]:
    """The rows up to the first one with which the search is over; all of them if it is not over. See `is_over`.

    An earlier command may have scored further generations.
    """
    ends = (end for end in range(1, len(rows)) if is_over(rows[:end], generations, patience))
    return rows[: next(ends, len(rows))]


def describe(row: Generation, *more: str) -> str:
    """A generation in one or two lines, with `more` to say behind it."""
    return fitted(
        (
            f"generation {row.generation:3d}",
            f"accuracy {row.accuracy:.2%}",
            f"distance {row.distance:.4f}",
            f"kept {row.kernels_kept:.1%}",
            f"fitness {row.fitness:.4f}",
            f"AUC {row.auc_mean:.4f}, at least {row.auc_least:.4f}",
            f"{row.seconds:.1f} s",
            *more,
        )
    )


@dataclass(frozen=True)
class SearchEnd:
    """That a search is over."""

    generation: int  # the last one
    generations: int  # that were asked for
    early_stop: bool  # whether it ended for want of improvement
