"""Patches as tables: for people on the screen and in Markdown, for machines in CSV."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from typing import Any

from patching.confidence import Change, better_and_worse
from patching.metrics import METRICS, TargetClassScores, metrics_of
from patching.report import BEFORE, PatchedWeakModel, mean_metrics

CELL = "F1 of the target class | accuracy of the others, in percent"

Table = tuple[list[str], list[list[Any]]]  # headings and rows


def single_table(model: PatchedWeakModel) -> Table:
    """A row per method and target of one weak model, in percent."""
    headings = ["", "precision", "recall", "F1", "others' accuracy"]
    table = []
    for number, name in enumerate(model.target_names):
        for method in model.methods:
            label = method if len(model.targets) == 1 else f"{name}: {method}"
            table.append([label, *(f"{100 * value:.2f}" for value in metrics_of(model.scores(method, number)))])
    return headings, table


def f1_table(model: PatchedWeakModel) -> Table:
    """F1 of each target of one weak model, and the others' accuracy, in percent; a column per method."""
    rows = [
        [name, *(f"{100 * model.scores(method, number).f1:.1f}" for method in model.methods)]
        for number, name in enumerate(model.target_names)
    ]
    others = [model.scores(method) for method in model.methods]
    if others[0].others:
        rows.append(["others' accuracy", *(f"{100 * scores.others_accuracy:.1f}" for scores in others)])
    return ["F1", *model.methods], rows


def sureness_lines(models: Sequence[PatchedWeakModel]) -> list[str]:
    """For people: per calibration how many changes of several weak models are significant."""
    lines = []
    for method in models[0].calibrations:
        places = [(model, number) for model, number in _targets(models) if method in model.methods]
        changes = [model.change(method, number) for model, number in places]
        known = [change for change in changes if change is not None]
        f1, others = (_significant(known, metric) for metric in ("f1", "others_accuracy"))
        lines.append(f"{method}: significant, of {len(known)} changes: F1 {f1}; others' accuracy {others}")
        over = [(model.target_names[number], model.over_no_module(method, number)) for model, number in places]
        if compared := [(name, change) for name, change in over if change is not None]:
            f1 = _significant([change for _, change in compared], "f1")
            lines.append(f"{method}: significant compared with no module, of {len(compared)}: F1 {f1}")
        if useless := [name for name, change in compared if not change.is_better("f1")]:
            lines.append(f"{method}: no better than recalibrating the weak model alone: {', '.join(useless)}")
    return lines


def _targets(models: Sequence[PatchedWeakModel]) -> Iterator[tuple[PatchedWeakModel, int]]:
    for model in models:
        for number in range(len(model.targets)):
            yield model, number


def _significant(changes: Sequence[Change], metric: str) -> str:
    better, worse = better_and_worse(changes, metric)
    return f"{better} better, {worse} worse"


def overview_table(models: Sequence[PatchedWeakModel]) -> Table:
    """A row per target class with a cell per method, then the mean and the mean change."""
    methods = list(models[0].methods)
    table: list[list[Any]] = []
    for model, number in _targets(models):
        cells = [_cell(metrics_of(model.scores(method, number))) for method in methods]
        table.append([model.target_classes[number], model.target_names[number], model.epoch, *cells])
    before, *after = means = [mean_metrics(models, method) for method in methods]
    table.append(["", "mean", "", *map(_cell, means)])
    table.append(["", "mean change", "", "", *(_cell(mean - before, signed=True) for mean in after)])
    return ["class", "name", "epoch", *methods], table


def _cell(values: Any, *, signed: bool = False) -> str:
    texts = [f"{100 * value:+.1f}" if signed else f"{100 * value:.1f}" for value in values]
    return f"{texts[2]} | {texts[3]}"


def exact_table(models: Sequence[PatchedWeakModel]) -> Table:
    """A row per target class and method, then the means and the mean changes over the classes."""
    count_names = [field.name for field in fields(TargetClassScores)]
    sure_names = [*(f"{metric}_change_{end}" for metric in METRICS for end in ("low", "high", "p"))]
    table: list[list[Any]] = []
    for model, number in _targets(models):
        for method in model.methods:
            scores, change = model.scores(method, number), model.change(method, number)
            sure = [""] * len(sure_names)
            if change is not None:
                of_metrics = zip((getattr(change, metric) for metric in METRICS), change.p, strict=True)
                sure = [cell for interval, p in of_metrics for cell in (*_exact(interval), f"{p:.6g}")]
            values = [*_exact(metrics_of(scores)), *asdict(scores).values(), *sure]
            name = model.target_names[number]
            table.append([model.target_classes[number], name, model.epoch, method, *values])
    before, empty = mean_metrics(models, BEFORE), [""] * len(count_names + sure_names)
    for method in models[0].methods:
        mean = mean_metrics(models, method)
        table.append(["mean", "", "", method, *_exact(mean), *empty])
        table.append(["mean change", "", "", method, *_exact(mean - before), *empty])
    return ["target_class", "name", "epoch", "method", *METRICS, *count_names, *sure_names], table


def _exact(values: Any) -> list[str]:
    return [f"{value:.6f}" for value in values]
