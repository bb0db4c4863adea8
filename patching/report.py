"""Patches as tables: for people on the screen and in Markdown, for machines in CSV and JSON."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from patching.metrics import TargetClassScores, scores_of_target_class

METRICS = ("precision", "recall", "f1", "others_accuracy")
CELL = "precision / recall / F1 of the target class | accuracy of the others, in percent"


@dataclass(frozen=True)
class PatchRow:
    """One weak model by one method."""

    target_class: int
    name: str  # of the target class
    epoch: int  # of the weak model
    method: str
    scores: TargetClassScores


def metrics_of(scores: TargetClassScores) -> list[float]:
    """The values of METRICS, shares from 0 to 1."""
    return [getattr(scores, name) for name in METRICS]


def patch_rows(
    target_class: int, classes: tuple[str, ...], epoch: int, confusions: dict[str, np.ndarray]
) -> list[PatchRow]:
    """One row per method from the confusion matrices of the test images; the target class is the last class."""
    last = len(classes) - 1
    return [
        PatchRow(target_class, classes[-1], epoch, method, scores_of_target_class(confusion, last))
        for method, confusion in confusions.items()
    ]


def mean_metrics(rows: list[PatchRow], method: str) -> np.ndarray:
    """(METRICS,) float64: the mean of a method over the target classes."""
    return np.mean([metrics_of(row.scores) for row in rows if row.method == method], axis=0)


def single_table(rows: list[PatchRow]) -> tuple[list[str], list[list[Any]]]:
    """Headings and rows, one per method of one weak model, with the counts behind the shares."""
    headings = ["", "precision", "recall", "F1", "others' accuracy", "TP", "FP", "FN", "others right"]
    table = []
    for row in rows:
        scores = row.scores
        counts = [scores.true_positives, scores.false_positives, scores.false_negatives]
        right = f"{scores.others_right} of {scores.others}"
        table.append([row.method, *(f"{100 * value:.2f}" for value in metrics_of(scores)), *counts, right])
    return headings, table


def overview_table(rows: list[PatchRow]) -> tuple[list[str], list[list[Any]]]:
    """Headings and rows, one per target class with a cell per method, then the mean and the mean change."""
    methods = list(dict.fromkeys(row.method for row in rows))
    by_class: dict[int, dict[str, PatchRow]] = {}
    for row in rows:
        by_class.setdefault(row.target_class, {})[row.method] = row
    table: list[list[Any]] = []
    for target_class, found in by_class.items():
        first = next(iter(found.values()))
        cells = [_cell(metrics_of(found[method].scores)) for method in methods]
        table.append([target_class, first.name, first.epoch, *cells])
    means = {method: mean_metrics(rows, method) for method in methods}
    table.append(["", "mean", "", *(_cell(means[method]) for method in methods)])
    changes = [_cell(means[method] - means[methods[0]], signed=True) for method in methods[1:]]
    table.append(["", "mean change", "", "", *changes])
    return ["class", "name", "epoch", *methods], table


def _cell(values: Any, *, signed: bool = False) -> str:
    texts = [f"{100 * value:+.1f}" if signed else f"{100 * value:.1f}" for value in values]
    return f"{' / '.join(texts[:3])} | {texts[3]}"


def exact_table(rows: list[PatchRow]) -> tuple[list[str], list[list[Any]]]:
    """Headings and rows, one per target class and method, then the means and the mean changes over the classes."""
    count_names = list(asdict(rows[0].scores))
    table: list[list[Any]] = []
    for row in rows:
        shares = [f"{value:.6f}" for value in metrics_of(row.scores)]
        counts = asdict(row.scores).values()
        table.append([row.target_class, row.name, row.epoch, row.method, *shares, *counts])
    methods = list(dict.fromkeys(row.method for row in rows))
    before = mean_metrics(rows, methods[0])
    for method in methods:
        mean = mean_metrics(rows, method)
        empty = [""] * len(count_names)
        table.append(["mean", "", "", method, *(f"{value:.6f}" for value in mean), *empty])
        table.append(["mean change", "", "", method, *(f"{value:.6f}" for value in mean - before), *empty])
    return ["target_class", "name", "epoch", "method", *METRICS, *count_names], table
