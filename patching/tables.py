"""Patches as tables: for people on the screen and in Markdown, for machines in CSV."""

from dataclasses import asdict, fields
from typing import Any

from patching.metrics import METRICS, TargetClassScores, metrics_of
from patching.report import BEFORE, PatchedWeakModel, mean_metrics

CELL = "precision / recall / F1 of the target class | accuracy of the others, in percent"


def single_table(model: PatchedWeakModel) -> tuple[list[str], list[list[Any]]]:
    """Headings and rows, one per method of one weak model, with the counts behind the shares."""
    headings = ["", "precision", "recall", "F1", "others' accuracy", "TP", "FP", "FN", "others right"]
    table = []
    for method in model.methods:
        scores = model.scores(method)
        counts = [scores.true_positives, scores.false_positives, scores.false_negatives]
        right = f"{scores.others_right} of {scores.others}"
        table.append([method, *(f"{100 * value:.2f}" for value in metrics_of(scores)), *counts, right])
    return headings, table


def overview_table(models: list[PatchedWeakModel]) -> tuple[list[str], list[list[Any]]]:
    """Headings and rows, one per target class with a cell per method, then the mean and the mean change."""
    methods = list(models[0].methods)
    table: list[list[Any]] = []
    for model in models:
        cells = [_cell(metrics_of(model.scores(method))) for method in methods]
        table.append([model.target_class, model.classes[-1], model.epoch, *cells])
    before, *after = means = [mean_metrics(models, method) for method in methods]
    table.append(["", "mean", "", *map(_cell, means)])
    table.append(["", "mean change", "", "", *(_cell(mean - before, signed=True) for mean in after)])
    return ["class", "name", "epoch", *methods], table


def _cell(values: Any, *, signed: bool = False) -> str:
    texts = [f"{100 * value:+.1f}" if signed else f"{100 * value:.1f}" for value in values]
    return f"{' / '.join(texts[:3])} | {texts[3]}"


def exact_table(models: list[PatchedWeakModel]) -> tuple[list[str], list[list[Any]]]:
    """Headings and rows, one per target class and method, then the means and the mean changes over the classes."""
    count_names = [field.name for field in fields(TargetClassScores)]
    table: list[list[Any]] = []
    for model in models:
        for method in model.methods:
            scores = model.scores(method)
            values = [*_exact(metrics_of(scores)), *asdict(scores).values()]
            table.append([model.target_class, model.classes[-1], model.epoch, method, *values])
    before, empty = mean_metrics(models, BEFORE), [""] * len(count_names)
    for method in models[0].methods:
        mean = mean_metrics(models, method)
        table.append(["mean", "", "", method, *_exact(mean), *empty])
        table.append(["mean change", "", "", method, *_exact(mean - before), *empty])
    return ["target_class", "name", "epoch", "method", *METRICS, *count_names], table


def _exact(values: Any) -> list[str]:
    return [f"{value:.6f}" for value in values]
