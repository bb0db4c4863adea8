"""The first lines of a report: what was modularized, how well, how small, and what patching did."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from patching.report import BEFORE, common_calibrations, mean_metrics
from patching.weak_models import WeakKind
from report.data import ReportData
from report.page import Block, Note, Paragraph, Section, Table, Tiles, section
from report.words import METRIC_NAMES, duration, percent
from utils.errors import UserError


def answer_section(data: ReportData) -> Section:
    """What was modularized, how well, how small, and what patching did."""
    builders = (modularization_answer, patching_answer)
    return section("answer", "The answer", *(partial(build, data) for build in builders))


def modularization_answer(data: ReportData) -> Iterator[Block]:
    """The numbers that the search gave its modules, and what they cost."""
    result = data.modularization
    yield Paragraph(
        f"{data.config.model}, trained on {data.config.dataset}, was decomposed into {len(result.classes)} modules, "
        f"one for each of the classes {', '.join(data.classes)}, by a {_search_in_words(result.search)}."
    )
    kept = np.array(result.kernels_kept) / result.kernels
    points = _points(result.test_right_composed, result.test_right_strong, result.test_images)
    tiles = [
        (
            "How well",
            percent(result.test_right_composed / result.test_images),
            f"of {result.test_images:,} test images right by the composed model; {points} points against the strong "
            "model",
        ),
        (
            "How small",
            percent(float(kept.mean())),
            f"of the kernels in a module on average, {percent(float(kept.min()))} to {percent(float(kept.max()))}",
        ),
    ]
    try:
        strong, modules = data.costs
        flops, parameters = 100 * modules[:, 1:].mean(0) / strong[1:]
        words = f"of the strong model's FLOPs, {parameters:.1f} % of its parameters"
        tiles.append(("What a module costs", f"{flops:.1f} %", words))
    except UserError:  # its own section says so
        pass
    words = "mean Jaccard distance of two modules' kernels: 0 = the same, 1 = none shared"
    yield Tiles([*tiles, ("How different", f"{result.jaccard_distance:.3f}", words)])
    rows = []
    for part, name in (("valid", "validation"), ("test", "test")):
        images, strong, composed = (
            getattr(result, f"{part}_{key}") for key in ("images", "right_strong", "right_composed")
        )
        shares = percent(strong / images), percent(composed / images)
        rows.append((name, images, shares[0], strong, shares[1], composed, _points(composed, strong, images)))
    yield Table(
        "Accuracy of the strong and the composed model. The search chose on validation images.",
        ("images", "count", "strong model", "right", "composed model", "right", "difference in points"),
        rows,
    )


def _search_in_words(search: dict[str, Any]) -> str:
    method, generation, generations, seconds = map(search.get, ("method", "generation", "generations", "seconds"))
    found = f"{method} search" if isinstance(method, str) else "search"
    took = f", {duration(seconds)}" if isinstance(seconds, int | float) else ""
    if isinstance(generation, int) and isinstance(generations, int):
        return f"{found} (generation {generation} of {generations - 1}{took})"
    return found + took


def _points(right: int, other_right: int, images: int) -> str:
    return f"{100 * (right - other_right) / images:+.2f}"


def patching_answer(data: ReportData) -> Iterator[Block]:
    """The mean change by every calibration, of every kind of weak model that was patched."""
    rows: list[Sequence[Any]] = []
    absent = []
    for kind in WeakKind if data.config.weak_classes else ():
        try:
            models = data.patched(kind)
            methods = (BEFORE, *common_calibrations(models))
        except UserError as error:
            absent.append(Note(f"No {kind.words} model was patched here: {error}"))
            continue
        before = mean_metrics(models, BEFORE)
        for method in methods:
            cells = [
                percent(value) + (f" ({100 * (value - old):+.1f})" if method != BEFORE else "")
                for value, old in zip(mean_metrics(models, method), before, strict=True)
            ]
            rows.append((f"{kind.words}, {method}", len(models), *cells))
    caption = (
        "What patching did: means over the weak models, on test images, and in brackets the change in points. "
        "Precision, recall and F1 are those of the target class."
    )
    yield from [Table(caption, ("weak models, method", "models", *METRIC_NAMES), rows)] if rows else []
    yield from absent
