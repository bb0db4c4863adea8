"""The first screen of a report: how well, how small, what the patches did, how sure; below it the tables behind it."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from patching.confidence import accuracy_change
from patching.report import BEFORE, common_calibrations, mean_metrics
from patching.tables import interval_in_words
from report.data import ReportData
from report.page import Block, Note, Paragraph, Section, Table, Tiles, section
from report.patches import Gains, all_gains
from report.words import METRIC_NAMES, duration, percent
from utils.errors import MissingFile, UserError

Tile = tuple[str, str, str]


def answer_section(data: ReportData) -> Section:
    """What was modularized, how well, how small, what patching did, how sure."""
    builders = (modularization_answer, patching_answer)
    found = section("answer", "The answer", *(partial(build, data) for build in builders))
    if found.absent:
        return replace(found, blocks=[Paragraph(f"There are no modules here yet: {found.absent[0]}")])
    return found


def modularization_answer(data: ReportData) -> Iterator[Block]:
    """The numbers that the search gave its modules, and what patching made of them."""
    result = data.modularization
    gains = all_gains(data)
    patched = [_patch_tile(gains)] if gains else []
    yield Tiles([_accuracy_tile(data), _size_tile(data), *patched, _sureness_tile(data, gains)])
    yield Paragraph(
        f"{data.config.model}, trained on {data.config.dataset}, was decomposed into {len(result.classes)} modules, "
        f"one for each of the classes {', '.join(data.classes)}, by a {_search_in_words(result.search)}."
    )
    if riders := [f"{data.classes[number]} ({result.valid_auc_modules[number]:.2f})" for number in result.free_riders]:
        yield Note(
            f"Modules that say little of their own class, with their AUC for it: {', '.join(riders)}. They leave the "
            "answer to the other modules, and are no patch; fine-tune them, or let modules keep more kernels."
        )
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


def _accuracy_tile(data: ReportData) -> Tile:
    result = data.modularization
    images, strong, composed = result.test_images, result.test_right_strong, result.test_right_composed
    words = (
        f"of the test images right by the composed model ({composed:,} of {images:,}); by the strong model "
        f"{percent(strong / images)} ({strong:,})"
    )
    return "How well", percent(composed / images), words


def _size_tile(data: ReportData) -> Tile:
    result = data.modularization
    kept = np.array(result.kernels_kept) / result.kernels
    words = f"of the kernels in a module on average, {percent(float(kept.min()))} to {percent(float(kept.max()))}"
    try:
        strong, modules = data.costs
        words += f"; {percent(modules[:, 1].mean() / strong[1])} of the FLOPs"
    except UserError:  # its own section says so
        pass
    return "How small", percent(float(kept.mean())), words


def _patch_tile(gains: list[Gains]) -> Tile:
    """F1 of the target classes before and after, of each kind of weak model."""
    first, *others = gains
    words = [f"mean F1 of the target classes of {first.models}"]
    words += [f"{each.models}: {each.in_words}" for each in others]
    return "What patching did", first.in_words, "; ".join(words)


def _sureness_tile(data: ReportData, gains: list[Gains]) -> Tile:
    """How many gains are more than chance, and between which numbers the composed model's loss is."""
    words = _composed_in_words(data)
    known = [change for each in gains for change in each.changes]
    if not known:
        return "How sure", f"{data.modularization.test_images:,}", f"test images: {words}"
    held = sum(change.holds("f1") and change.f1[0] > 0 for change in known)
    return "How sure", f"{held} of {len(known)}", f"gains in F1 are more than chance (95\N{NO-BREAK SPACE}%); {words}"


def _composed_in_words(data: ReportData) -> str:
    result = data.modularization
    points = _points(result.test_right_composed, result.test_right_strong, result.test_images)
    try:
        answers = data.answers
        before, after = answers.strong.argmax(1), answers.composed.argmax(1)
    except UserError:  # its own section says so
        return f"composed against strong {points} points"
    return f"composed against strong {interval_in_words(accuracy_change(answers.labels, before, after))} points"


def _search_in_words(search: dict[str, Any]) -> str:
    method, generation, generations, seconds = map(search.get, ("method", "generation", "generations", "seconds"))
    found = f"{method} search" if isinstance(method, str) else "search"
    took = f", {duration(seconds)}" if isinstance(seconds, int | float) else ""
    tuned = ", and fine-tuned" if "fine_tuned" in search else ""
    if isinstance(generation, int) and isinstance(generations, int):
        return f"{found} (generation {generation} of {generations - 1}{took}){tuned}"
    return found + took + tuned


def _points(right: int, other_right: int, images: int) -> str:
    return f"{100 * (right - other_right) / images:+.2f}"


def patching_answer(data: ReportData) -> Iterator[Block]:
    """The mean change by every calibration, of every kind of weak model that was patched."""
    rows: list[Sequence[Any]] = []
    unusable = []
    for kind in data.patched_kinds:
        try:
            models = data.patched(kind)
            methods = (BEFORE, *common_calibrations(models))
        except MissingFile:  # nobody asked for it
            continue
        except UserError as error:
            unusable.append(Note(f"Patches of {kind.words} models: {error}"))
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
    yield from unusable
