"""The tables of the published experiments: what each shows, and how they come into a document."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from result_figures import figures_of
from result_records import DONE, Place, Record
from result_rows import (
    PATCHED,
    Cells,
    Done,
    heuristic_rows,
    literature_rows,
    module_rows,
    patch_rows,
    patch_size_rows,
    patching_rows,
    seed_rows,
)
from result_stages import Stage

import global_configure  # noqa: F401  (finds our packages before others of their names)
from report.figures import save_drawing
from utils.files import read_text, save_text
from utils.tables import csv_table, markdown_table

MADE_BY = ("seed", "seconds", "commit")  # the last columns of a row of one stage


@dataclass(frozen=True)
class Table:
    """What one table is made of."""

    title: str
    stages: tuple[str, ...]  # the kinds that it shows
    columns: tuple[str, ...]
    rows: Callable[[Done], Iterator[Cells]]
    # Which rows stand in the document, too; the others are written as CSV alone. None: none of them.
    is_shown: Callable[[Cells], bool] | None = lambda _: True


def write_tables(place: Place, stages: Sequence[Stage], folder: Path) -> None:
    """Write tables/NAME.csv and figures/ below a folder, and every table between its marks in the folder's README.md.

    Where there is no README.md, one is made of the tables alone.
    """
    records = {stage.name: place.record(stage.name).load() for stage in stages if place.state(stage) == DONE}
    done, texts = Done(place, records, stages), {}
    for name, table in TABLES.items():
        rows = list(table.rows(done))
        if rows:
            save_text(folder / "tables" / f"{name}.csv", csv_table(table.columns, rows))
        if table.is_shown is not None:
            texts[name] = markdown(done, table, list(filter(table.is_shown, rows)))
    for name, drawing in figures_of(done):
        save_drawing(drawing, folder / "figures" / name)
    readme = folder / "README.md"
    text = read_text(readme, place.command) if readme.exists() else "\n".join(f"{mark(n)}\n{END}\n" for n in texts)
    save_text(readme, filled(text, texts))
    print(f"{len(records)} of {len(stages)} stages are done; tables in {folder / 'tables'} and {readme}")


END = "<!-- end -->"


def mark(name: str) -> str:
    """The line of a document behind which a table stands, up to END."""
    return f"<!-- table: {name} -->"


def filled(document: str, texts: dict[str, str]) -> str:
    """A document with every table in its place; a table that has no place is left out."""
    for name, text in texts.items():
        place = re.compile(f"({re.escape(mark(name))}\n).*?({re.escape(END)})", re.DOTALL)
        document = place.sub(lambda found, text=text: f"{found[1]}{text}{found[2]}", document)
    return document


def markdown(done: Done, table: Table, rows: list[Cells]) -> str:
    """A table with what it was made with above, and what it lacks below."""
    lacking = done.lacking(*table.stages)
    left_out = f"Not done, and so left out: {', '.join(lacking)}.\n" if lacking else ""
    if not rows:
        return f"**{table.title}** Nothing to show yet.\n\n{left_out}"
    made = provenance([record for _, record in done.of(*table.stages)])
    heading = f"**{table.title}** `{done.place.command}`{made}\n\n"
    return "\n".join([heading + markdown_table(table.columns, rows), left_out])


def provenance(records: Sequence[Record]) -> str:
    """Machines, versions and precisions of some records, each named once."""
    return "".join(f"; {line}" for line in dict.fromkeys(map(_provenance, records)))


def _provenance(record: Record) -> str:
    machine = record.machine
    gpu = f"{machine['gpu']} beside " if "gpu" in machine else ""
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    return f"{gpu}{machine['processor']} ({machine['flags']}), {machine['cores']} cores, {versions}, {record.precision}"


METRIC_COLUMNS = ("precision", "recall", "F1", "others' accuracy")
TABLES = {
    "modules": Table(
        "How well modules do, on test images (FLOPs and kernels: mean over modules, % of the strong model's). Other "
        "seeds than 0: modules.csv.",
        ("trade_off", "fine_tuned", "strong", "gradient"),
        (
            *("network", "modules", "kernels %", "FLOPs %", "strong right", "composed right", "images"),
            *("points lost", "distance", "AUC mean", "AUC least", *MADE_BY),
        ),
        module_rows,
        is_shown=lambda cells: cells[-len(MADE_BY)] == 0,
    ),
    "seeds": Table(
        "The same over seeds: mean (lowest to highest).",
        ("trade_off", "fine_tuned", "strong", "gradient"),
        ("network", "modules", "seeds", "kernels %", "strong accuracy %", "points lost"),
        seed_rows,
    ),
    "patching": Table(
        "What patching does, on test images: means over the target classes in %, changes in points; in how many F1 "
        "rose and fell, all / by more than chance (95 %). The other rules: patching.csv; every patch, and the controls "
        "of every rule: patches.csv.",
        tuple(PATCHED),
        (
            *("network", "weak models", "method", "target classes", "images", *METRIC_COLUMNS),
            *("F1 better", "F1 worse", *MADE_BY),
        ),
        patching_rows,
        is_shown=lambda cells: cells[2] not in ("percentile", "outlier", "norm"),
    ),
    "patches": Table(
        "Every patch, with its counts and the interval (95 %) of F1's change in points.",
        tuple(PATCHED),
        (
            *("network", "weak models", "target class", "name", "epoch", "method", *METRIC_COLUMNS),
            *("TP", "FP", "FN", "others right", "others", "F1 change low", "F1 change high", *MADE_BY),
        ),
        patch_rows,
        is_shown=None,
    ),
    "patch_sizes": Table(
        "How small a module may be before its patch loses, on test images: overly simple weak models, the learned "
        "rule, means over the target classes in %; in how many F1 is below that before, and that without a module.",
        ("patch_sizes", "fine_tuned_patches"),
        (
            *("network", "patched by", "target classes", "kernels %", "FLOPs %", "F1", "others' accuracy"),
            *("F1 above no module", "below before", "below no module", *MADE_BY),
        ),
        patch_size_rows,
    ),
    "heuristics": Table(
        "What the heuristics of the genetic search are worth: best fitness after the first generation, a quarter, half "
        "and all of them, on the search's validation images.",
        ("genetic",),
        (
            *("network", "without", "generations", "chromosomes", "ensembles", "fitness, first", "quarter", "half"),
            *("all", "accuracy %", "kernels %", "distance", *MADE_BY),
        ),
        heuristic_rows,
    ),
    "literature": Table(
        "Beside the others. The scale differs: published figures, and two of ours, are of full-width networks on a "
        "GPU, the rest of ours of quarter-width ones and of ResNet-20, with other weak models; so compare signs and "
        "orders of magnitude there. Accuracies, kept parts and patches in % and points.",
        ("trade_off", "gradient", "patch_weak"),
        (
            *("method", "what", "points lost", "kept %", "kept of", "FLOPs %", "distance %", *METRIC_COLUMNS),
            *("source", "remark"),
        ),
        literature_rows,
    ),
}
