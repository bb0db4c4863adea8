"""The tables of the published experiments: what each shows, and how they come into a document."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from result_figures import figures_of
from result_log import Results
from result_rows import (
    Cells,
    heuristic_rows,
    literature_rows,
    module_rows,
    patch_rows,
    patch_size_rows,
    patching_rows,
    seed_rows,
)

import global_configure  # noqa: F401  (finds our packages before others of their names)
from report.figures import save_drawing
from utils.files import read_text, save_text
from utils.tables import csv_table, markdown_table

MADE_BY = ("seed", "seconds", "commit")  # the last columns of a row of one stage


@dataclass(frozen=True)
class ResultTable:
    """What one table is made of."""

    title: str
    of: tuple[str, ...]  # the lists of commands that it is made of
    columns: tuple[str, ...]
    rows: Callable[[Results], Iterator[Cells]]
    # Which rows stand in the document, too; the others are written as CSV alone. None: none of them.
    is_shown: Callable[[Cells], bool] | None = lambda _: True


def write_tables(results: Results, folder: Path) -> None:
    """Write tables/NAME.csv and figures/ below a folder, and every table between its marks in the folder's README.md.

    Where there is no README.md, one is made of the tables alone.
    """
    texts = {}
    for name, table in TABLES.items():
        rows = list(table.rows(results))
        if rows:
            save_text(folder / "tables" / f"{name}.csv", csv_table(table.columns, rows))
        if table.is_shown is not None:
            texts[name] = markdown(results, table, list(filter(table.is_shown, rows)))
    for name, drawing in figures_of(results):
        save_drawing(drawing, folder / "figures" / name)
    readme, ran = folder / "README.md", results.ran
    text = read_text(readme, results.made_by) if readme.exists() else "\n".join(f"{mark(n)}\n{END}\n" for n in texts)
    save_text(readme, filled(text, texts))
    count = sum(command.line in ran for command in results.commands)
    print(f"{count} of {len(results.commands)} commands have succeeded; tables in {folder / 'tables'} and {readme}")


END = "<!-- end -->"


def mark(name: str) -> str:
    """The line of a document behind which a table stands, up to END."""
    return f"<!-- table: {name} -->"


def filled(document: str, texts: dict[str, str]) -> str:
    """A document with every table in its place; a table that has no place is left out."""
    for name, text in texts.items():
        before, found, behind = document.partition(f"{mark(name)}\n")
        _, end, after = behind.partition(END)
        if end:
            document = f"{before}{found}{text}{end}{after}"
    return document


def markdown(results: Results, table: ResultTable, rows: list[Cells]) -> str:
    """A table, with the command and the machines that made it above, and what it lacks below."""
    lines, ran = [command.line for command in results.commands if command.table in table.of], results.ran
    made = dict.fromkeys(f"; {ran[line].machine}" for line in lines if line in ran)
    lacking = sum(line not in ran for line in lines)
    left_out = f"Left out: {lacking} commands that have not succeeded yet (--list shows them).\n" if lacking else ""
    if not rows:
        return f"**{table.title}** Nothing to show yet.\n\n{left_out}"
    heading = f"**{table.title}** `{results.made_by}`{''.join(made)}\n\n"
    return "\n".join([heading + markdown_table(table.columns, rows), left_out])


METRIC_COLUMNS = ("precision", "recall", "F1", "others' accuracy")
TABLES = {
    "modules": ResultTable(
        "How well modules do, on test images (FLOPs and kernels: mean over modules, % of the strong model's). Other "
        "seeds than 0: modules.csv.",
        ("modules",),
        (
            *("network", "modules", "kernels %", "FLOPs %", "strong right", "composed right", "images"),
            *("points lost", "distance", "AUC mean", "AUC least", *MADE_BY),
        ),
        module_rows,
        is_shown=lambda cells: cells[-len(MADE_BY)] == 0,
    ),
    "seeds": ResultTable(
        "The same over seeds: mean (lowest to highest).",
        ("modules",),
        ("network", "modules", "seeds", "kernels %", "strong accuracy %", "points lost"),
        seed_rows,
    ),
    "patching": ResultTable(
        "What patching does, on test images: means over the target classes in %, changes in points; in how many F1 "
        "rose and fell, all / by more than chance (95 %). The other rules: patching.csv; every patch, and the controls "
        "of every rule: patches.csv.",
        ("patching",),
        (
            *("network", "weak models", "method", "target classes", "images", *METRIC_COLUMNS),
            *("F1 better", "F1 worse", *MADE_BY),
        ),
        patching_rows,
        is_shown=lambda cells: cells[2] not in ("percentile", "outlier", "norm"),
    ),
    "patches": ResultTable(
        "Every patch, with its counts and the interval (95 %) of F1's change in points.",
        ("patching",),
        (
            *("network", "weak models", "target class", "name", "epoch", "method", *METRIC_COLUMNS),
            *("TP", "FP", "FN", "others right", "others", "F1 change low", "F1 change high", *MADE_BY),
        ),
        patch_rows,
        is_shown=None,
    ),
    "patch_sizes": ResultTable(
        "How small a module may be before its patch loses, on test images: overly simple weak models, the learned "
        "rule, means over the target classes in %; in how many F1 is below that before, and that without a module.",
        ("patch_sizes",),
        (
            *("network", "patched by", "target classes", "kernels %", "FLOPs %", "F1", "others' accuracy"),
            *("F1 above no module", "below before", "below no module", *MADE_BY),
        ),
        patch_size_rows,
    ),
    "heuristics": ResultTable(
        "What the heuristics of the genetic search are worth: best fitness after the first generation, a quarter, half "
        "and all of them, on the search's validation images.",
        ("heuristics",),
        (
            *("network", "without", "generations", "chromosomes", "ensembles", "fitness, first", "quarter", "half"),
            *("all", "accuracy %", "kernels %", "distance", *MADE_BY),
        ),
        heuristic_rows,
    ),
    "literature": ResultTable(
        "Beside the others. The scale differs: published figures, and two of ours, are of full-width networks on a "
        "GPU, the rest of ours of quarter-width ones and of ResNet-20, with other weak models; so compare signs and "
        "orders of magnitude there. Accuracies, kept parts and patches in % and points.",
        ("modules", "patching"),
        (
            *("method", "what", "points lost", "kept %", "kept of", "FLOPs %", "distance %", *METRIC_COLUMNS),
            *("source", "remark"),
        ),
        literature_rows,
    ),
}
