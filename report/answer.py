"""The first screen of a report: how well, how small, what the patches did, how sure; below it the tables behind it."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from patching.confidence import accuracy_change, interval_in_words
from patching.report import common_calibrations
from report.data import ReportData
from report.page import Block, Note, Paragraph, Section, Table, Tiles, section
from report.patches import Outcome, all_patches, in_words
from report.words import counted, duration, percent, span
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
    result = data.record
    yield Tiles([_accuracy_tile(data), _size_tile(data), *patching_tiles(data)])
    yield Paragraph(
        f"{data.config.model}, trained on {data.config.dataset}, was decomposed into "
        f"{counted(len(data.targets), 'module')}, one for each of the classes {', '.join(data.targets)}, by a "
        f"{_search_in_words(result.search)}. This is module set {data.module_set.name}."
    )
    aucs = dict(zip(data.target_classes, result.valid_auc_modules, strict=False))  # an earlier version wrote none
    if unsure := [f"{data.classes[number]} ({aucs[number]:.2f})" for number in result.uninformative]:
        yield Note(
            f"Modules that say little of their own class, with their AUC for it: {', '.join(unsure)}. They leave the "
            "answer to the other modules, and are no patch; fine-tune them, or let modules keep more kernels."
        )
    rows = []
    for part, name in (("valid", "validation"), ("test", "test")):
        images, strong, composed = (
            getattr(result, f"{part}_{key}") for key in ("images", "right_strong", "right_composed")
        )
        if not images:  # an earlier version's set of one class
            continue
        shares = percent(strong / images), percent(composed / images)
        points = f"{100 * (composed - strong) / images:+.2f}"
        rows.append((name, images, shares[0], strong, shares[1], composed, points))
    yield Table(
        "Accuracy of the strong and the composed model. The search chose on validation images.",
        ("images", "count", "strong model", "right", "composed model", "right", "difference in points"),
        rows,
    )


def _accuracy_tile(data: ReportData) -> Tile:
    result = data.record
    if not result.test_images:
        return "How well", "unknown", "an earlier version did not compose modules of one class"
    images, strong, composed = result.test_images, result.test_right_strong, result.test_right_composed
    words = (
        f"of the test images right by the composed model ({composed:,} of {images:,}); by the strong model "
        f"{percent(strong / images)} ({strong:,}). {_composed_in_words(data)}"
    )
    return "How well", percent(composed / images), words


def _size_tile(data: ReportData) -> Tile:
    result = data.record
    kept = np.array(result.kernels_kept) / result.kernels
    words = f"of the kernels in a module on average, {percent(float(kept.min()))} to {percent(float(kept.max()))}"
    try:
        strong, modules = data.costs
        words += f"; {percent(modules[:, 1].mean() / strong[1])} of the FLOPs"
    except UserError:  # its own section says so
        pass
    return "How small", percent(float(kept.mean())), words


def patching_tiles(data: ReportData) -> list[Tile]:
    """What the patches did, and what of it is owed to the modules; none where nothing was patched."""
    outcomes = [outcome for each in all_patches(data) for outcome in each.outcomes]
    return [_patch_tile(outcomes), _module_tile(outcomes)] if outcomes else []


def _patch_tile(outcomes: Sequence[Outcome]) -> Tile:
    """F1 of the target classes before, after and by the control, and what the other classes lost."""
    before, after, control = (
        [100 * getattr(outcome, when).f1 for outcome in outcomes] for when in ("before", "after", "no_module")
    )
    words = (
        f"F1 of the target class with its module, over {counted(len(outcomes), 'patch', 'patches')}; before "
        f"{span(before)} %; without any module {span(control)} %. The other classes' accuracy changes by "
        f"{span((outcome.others_changed for outcome in outcomes), '+.1f')} points"
    )
    return "What patching did", f"{span(after, '.0f')}\N{NO-BREAK SPACE}%", words


def _module_tile(outcomes: Sequence[Outcome]) -> Tile:
    """What is owed to the modules: how far F1 is above that of the same fit without a module."""
    intervals = [outcome.over_no_module.f1 for outcome in outcomes]
    better, worse = sum(low > 0 for low, _ in intervals), sum(high < 0 for _, high in intervals)
    words = (
        "points of F1 above the same fit without a module; "
        f"significantly more for {better} of {len(intervals)}, less for {worse} (95 % intervals)"
    )
    return "What the modules add", span((outcome.added for outcome in outcomes), "+.1f"), words


def _composed_in_words(data: ReportData) -> str:
    """The difference of the two with its interval, where the networks can be run."""
    try:
        answers = data.answers
    except UserError:  # its own section says so
        return ""
    interval = accuracy_change(answers.labels, answers.strong.argmax(1), answers.composed.argmax(1))
    return f"Difference: {interval_in_words(interval)} points (95 % interval)"


def _search_in_words(search: dict[str, Any]) -> str:
    method, generation, generations, seconds = map(search.get, ("method", "generation", "generations", "seconds"))
    found = f"{method} search" if isinstance(method, str) else "search"
    took = f", {duration(seconds)}" if isinstance(seconds, int | float) else ""
    tuned = ", and fine-tuned" if "fine_tuned" in search else ""
    if isinstance(generation, int) and isinstance(generations, int):
        return f"{found} (generation {generation} of {generations - 1}{took}){tuned}"
    return found + took + tuned


def patching_answer(data: ReportData) -> Iterator[Block]:
    """Every patch before, after and without module, and what it cost the other classes."""
    found = all_patches(data)
    outcomes = [outcome for each in found for outcome in each.outcomes]
    if outcomes:
        yield Table(
            "What each patch did on test images. The control is the weak model fitted again on the same images without "
            "a module: only what lies above it is owed to the module. In brackets: whether the 95 % interval excludes "
            "0 and, of the others' accuracy, McNemar's test agrees. Patched: "
            f"{'; '.join(each.models for each in found)}.",
            (
                *("weak model: target class", "F1 before", "F1 with module", "F1 without module"),
                *("module adds, points", "others' accuracy before", "its change, points"),
            ),
            [_row(outcome) for outcome in outcomes],
        )
    if useless := [outcome.name for outcome in outcomes if not outcome.helps]:
        yield Note(
            f"Not significantly better than the control without a module: {'; '.join(useless)}. Leave these modules "
            "out, since the control costs no FLOPs, or judge them by more test images."
        )
    for kind in data.patched_kinds:
        try:
            common_calibrations(data.patched(kind))
        except MissingFile:  # nobody asked for it
            continue
        except UserError as error:
            yield Note(f"Patches of {kind.words} models: {error}")


def _row(outcome: Outcome) -> Sequence[str]:
    return (
        outcome.name,
        *(percent(scores.f1) for scores in (outcome.before, outcome.after, outcome.no_module)),
        outcome.added_in_words,
        percent(outcome.before.others_accuracy),
        f"{outcome.others_changed:+.1f}, {in_words(outcome.change, 'others_accuracy')}",
    )
