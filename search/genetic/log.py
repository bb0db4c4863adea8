"""What the recorder remembers of a search: one row a generation, and how the search ended.

The log is the recorder's only memory, so numbers stand in it exactly (repr of a float64).
"""

import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from utils.checked_text import load_json, load_table, save_json, save_table
from utils.files import damaged


@dataclass(frozen=True)
class Generation:
    """One generation's best ensemble, and how the generation went."""

    generation: int
    accuracy: float  # of the best ensemble, on the search's images
    distance: float  # its mean pairwise Jaccard distance
    fitness: float  # alpha * accuracy + (1 - alpha) * distance, with the same alpha in every generation
    kernels_kept: float  # the mean share over its modules
    mean_fitness: float  # over all chromosomes, as the explorers select by
    final_ensembles: int  # over all classes, after the last pruning
    ensembles_scored: int
    ensemble: tuple[int, ...]  # one chromosome index per class
    seconds: float  # since the last generation, or the recorder's start


COLUMNS = tuple(field.name for field in fields(Generation))


def save_log(path: Path, rows: list[Generation]) -> None:
    """Write search_log.csv whole."""
    save_table(path, COLUMNS, [{**asdict(row), "ensemble": " ".join(map(str, row.ensemble))} for row in rows])


def load_log(path: Path, made_by: str) -> list[Generation]:
    """The rows of search_log.csv, generation by generation. Raises UserError where it is not such a file."""
    rows = []
    try:
        for number, row in enumerate(load_table(path, COLUMNS, made_by)):
            ensemble = tuple(int(index) for index in row["ensemble"].split())
            values = {
                field.name: field.type(row[field.name]) for field in fields(Generation) if field.name != "ensemble"
            }
            if not all(map(math.isfinite, values.values())):
                raise ValueError(f"row {number} holds NaN or infinity")
            rows.append(Generation(ensemble=ensemble, **values))
            if rows[-1].generation != number:
                raise ValueError(f"row {number} is of generation {rows[-1].generation}")
    except (ValueError, OverflowError) as error:
        raise damaged(path, made_by, f"not a search log: {error}") from None
    return rows


def best_generation(rows: list[Generation]) -> Generation:
    """The row of the highest fitness, the earliest of equal ones."""
    return max(rows, key=lambda row: (row.fitness, -row.generation))


def is_over(rows: list[Generation], generations: int, patience: int | None) -> bool:
    """Whether generation `generations` is scored or, with a patience, so many generations brought nothing better."""
    if len(rows) > generations:
        return True
    return patience is not None and bool(rows) and rows[-1].generation - best_generation(rows).generation >= patience


def describe(row: Generation) -> str:
    """One line on a generation."""
    return (
        f"generation {row.generation:3d}  accuracy {row.accuracy:.2%}  distance {row.distance:.4f}  "
        f"kept {row.kernels_kept:.1%}  fitness {row.fitness:.4f}  {row.seconds:.1f} s"
    )


@dataclass(frozen=True)
class SearchEnd:
    """That a search is over."""

    generation: int  # the last one
    generations: int  # that were asked for
    early_stop: bool  # whether it ended for want of improvement


def save_end(path: Path, end: SearchEnd) -> None:
    """Tell the explorers that there is nothing left to do."""
    save_json(path, asdict(end))


def load_end(path: Path, made_by: str) -> SearchEnd | None:
    """How the search ended, or None while it goes on."""
    if not path.exists():
        return None
    try:
        end = SearchEnd(**load_json(path, made_by))
        if not all(type(getattr(end, field.name)) is field.type for field in fields(SearchEnd)):
            raise ValueError(f"not the end of a search: {end}")
        return end
    except (ValueError, TypeError) as error:
        raise damaged(path, made_by, str(error)) from None
