"""Patches as tables: for people on the screen and in Markdown, for machines in CSV."""

from dataclasses import asdict, fields
from typing import Any

from patching.confidence import Change, Interval
from patching.metrics import METRICS, TargetClassScores, metrics_of
from patching.report import BEFORE, PatchedWeakModel, mean_metrics

CELL = "precision / recall / F1 of the target class | accuracy of the others, in percent"

ADVICE = "leave the module out"


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


def sureness_lines(models: list[PatchedWeakModel]) -> list[str]:
    """For people: per calibration which changes of F1 and of the others' accuracy are more than chance."""
    lines = []
    for method in models[0].calibrations:
        changes = [model.change(method) for model in models if method in model.methods]
        known = [change for change in changes if change is not None]
        over = {model.classes[-1]: model.over_no_module(method) for model in models if method in model.methods}
        over = {name: change for name, change in over.items() if change is not None}
        if len(models) == 1 and known:
            lines.append(f"{method}: {in_words(known[0])}")
            advice = ADVICE if method == "learned" else f"take the rule learned, or {ADVICE}"
            lines += [line for change in over.values() for line in over_no_module_lines(method, change, advice)]
        elif known:
            f1, others = (_significant(known, metric) for metric in ("f1", "others_accuracy"))
            lines.append(f"{method}: significant, of {len(known)} changes: F1 {f1}; others' accuracy {others}")
            if over:
                f1 = _significant(list(over.values()), "f1")
                lines.append(f"{method}: significant compared with no module, of {len(over)}: F1 {f1}")
            if useless := [name for name, change in over.items() if change.f1[0] <= 0]:
                lines.append(f"{method}: no better than recalibrating the weak model alone: {', '.join(useless)}")
    return lines


def over_no_module_lines(name: str, change: Change, advice: str = ADVICE) -> list[str]:
    """For people: the change of F1 from the control without a module, and advice where the module adds nothing."""
    lines = [f"{name}: compared with no module, F1 changes by {interval_in_words(change.f1)} ({change.verdict('f1')})"]
    if change.f1[0] <= 0:
        lines.append(f"{name}: no better than recalibrating the weak model alone: {advice}")
    return lines


def in_words(change: Change) -> str:
    """The change of F1 and of the others' accuracy, in points with 95 % confidence, and whether they hold."""
    f1, others = (
        f"{interval_in_words(getattr(change, metric))} ({change.verdict(metric)})"
        for metric in ("f1", "others_accuracy")
    )
    return f"F1 changes by {f1}; others' accuracy by {others}, McNemar's p = {change.others_p:.2g}"


def interval_in_words(interval: Interval) -> str:
    """`-1.2 to +3.4` in points."""
    low, high = (f"{100 * value:+.1f}" for value in interval)
    return f"{low} to {high}"


def _significant(changes: list[Change], metric: str) -> str:
    lows = [getattr(change, metric)[0] for change in changes if change.is_significant(metric)]
    better = sum(low > 0 for low in lows)
    return f"{better} better, {len(lows) - better} worse"


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
    sure_names = [*(f"{metric}_change_{end}" for metric in METRICS for end in ("low", "high")), "others_p"]
    table: list[list[Any]] = []
    for model in models:
        for method in model.methods:
            scores = model.scores(method)
            values = [*_exact(metrics_of(scores)), *asdict(scores).values(), *_sureness(model.change(method))]
            table.append([model.target_class, model.classes[-1], model.epoch, method, *values])
    before, empty = mean_metrics(models, BEFORE), [""] * len(count_names + sure_names)
    for method in models[0].methods:
        mean = mean_metrics(models, method)
        table.append(["mean", "", "", method, *_exact(mean), *empty])
        table.append(["mean change", "", "", method, *_exact(mean - before), *empty])
    return ["target_class", "name", "epoch", "method", *METRICS, *count_names, *sure_names], table


def _sureness(change: Change | None) -> list[str]:
    if change is None:
        return [""] * (2 * len(METRICS) + 1)
    return [*_exact(end for metric in METRICS for end in getattr(change, metric)), f"{change.others_p:.6g}"]


def _exact(values: Any) -> list[str]:
    return [f"{value:.6f}" for value in values]
