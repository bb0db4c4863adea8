"""The first screen of a report: what the patches did, how sure; how well and how small the modules are."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from patching.confidence import accuracy_change, accuracy_p, is_significant
from patching.report import common_calibrations
from report.data import ReportData
from report.figures_of_patching import effects_figure
from report.page import Block, Note, Paragraph, Picture, Section, Table, Tiles, section
from report.patches import Outcome, patches_by_this_set
from report.words import Effect, counted, duration, percent, span
from utils.errors import MissingFile, UserError

Tile = tuple[str, str, str]


def answer_section(data: ReportData) -> Section:
    """Return what was modularized, what patching did, how sure; how well and how small the modules are."""
    found = section("answer", "Results", partial(summary, data), partial(patching_answer, data))
    if found.absent:
        return replace(found, blocks=[Paragraph(f"There are no modules here yet: {found.absent[0]}")])
    return found


def summary(data: ReportData) -> Iterator[Block]:
    """The few numbers that decide, patching first, and where the modules come from."""
    result = data.record
    yield Paragraph(
        f"{data.config.model}, trained on {data.config.dataset}, was decomposed into "
        f"{counted(len(data.targets), 'module')}, one for each of the classes {_some(data.targets)}, by a "
        f"{_search_in_words(result.search)}. This is module set {data.module_set.name}."
    )
    yield Tiles([*patching_tiles(data), _accuracy_tile(data), _size_tile(data)])
    if result.uninformative:
        yield Note(
            f"Uninformative modules: {result.aucs_in_words(result.uninformative)}. Before patching with them, "
            f"{result.advice}; compare a patch with the control without a module."
        )


def _some(names: Sequence[str], most: int = 12) -> str:
    return ", ".join(names) if len(names) <= most else f"{', '.join(names[:most])} and {len(names) - most} more"


def _accuracy_tile(data: ReportData) -> Tile:
    result, label = data.record, "Accuracy of the modules, composed"
    if not result.test_images:
        return label, "unknown", "an earlier version did not compose modules of one class"
    images, strong, composed = result.test_images, result.test_right_strong, result.test_right_composed
    words = (
        f"{composed:,} of {images:,} test images; strong model {percent(strong / images)}. "
        f"Percentage points gained: {_composed_effect(data) or f'{100 * (composed - strong) / images:+.2f}'}"
    )
    return label, percent(composed / images), words


def _composed_effect(data: ReportData) -> Effect | None:
    """Composed minus strong model on test images, with its interval; None where the networks cannot be run."""
    try:
        answers = data.answers
    except UserError:  # its own section says so
        return None
    strong, composed = answers.strong.argmax(1), answers.composed.argmax(1)
    low, high = accuracy_change(answers.labels, strong, composed)
    is_sure = is_significant((low, high), accuracy_p(answers.labels, strong, composed))
    difference = (composed == answers.labels).mean() - (strong == answers.labels).mean()
    return Effect(100 * float(difference), 100 * low, 100 * high, is_sure)


def _size_tile(data: ReportData) -> Tile:
    result = data.record
    kept = np.array(result.kernels_kept) / result.kernels
    words = f"of the kernels on average{'' if len(set(kept)) == 1 else f', {span(100 * kept)} %'}"
    with contextlib.suppress(UserError):  # its own section says so
        strong, modules = data.costs
        words += f"; {percent(modules[:, 1].mean() / strong[1])} of the FLOPs"
    return "Size of a module", percent(float(kept.mean())), words


def patching_tiles(data: ReportData) -> list[Tile]:
    """What the modules add, and what the patches did to the target classes and to the others; none without patches."""
    if not (outcomes := patches_by_this_set(data)):
        return []
    added = [outcome.added["f1"] for outcome in outcomes]
    others = [outcome.changes["others_accuracy"] for outcome in outcomes]
    gains, losses, lost = (
        sum(effect.kind == kind for effect in effects)
        for effects, kind in ((added, "gain"), (added, "loss"), (others, "loss"))
    )
    before, control, after = (
        [100 * getattr(outcome, when).f1 for outcome in outcomes] for when in ("before", "no_module", "after")
    )
    of_f1 = (
        "patches: F1 of the target class is significantly higher than without a module; lower for "
        f"{losses}. The module adds {span((effect.difference for effect in added), '+.1f')} percentage points"
    )
    of_others = f"percentage points, after minus before the patch; a significant loss for {lost} of {len(outcomes)}"
    return [
        ("The module helps", f"{gains} of {len(outcomes)}", of_f1),
        (
            "F1 of the target class, patched",
            f"{span(after, '.0f')}\N{NO-BREAK SPACE}%",
            f"before {span(before)} %; without a module {span(control)} %",
        ),
        ("Accuracy of the other classes", span((effect.difference for effect in others), "+.1f"), of_others),
    ]


def _search_in_words(search: dict[str, Any]) -> str:
    method, generation, generations, seconds = map(search.get, ("method", "generation", "generations", "seconds"))
    found = f"{method} search" if isinstance(method, str) else "search"
    took = f", {duration(seconds)}" if isinstance(seconds, int | float) else ""
    tuned = ", and fine-tuned" if "fine_tuned" in search else ""
    if isinstance(generation, int) and isinstance(generations, int):
        return f"{found} (generation {generation} of {generations - 1}{took}){tuned}"
    return found + took + tuned


def patching_answer(data: ReportData) -> Iterator[Block]:
    """Every patch before, without and with its module, and what it cost the other classes."""
    if outcomes := patches_by_this_set(data):
        yield Picture(
            "patch_effects",
            effects_figure(
                {outcome.name: outcome.added for outcome in outcomes},
                f"{data.config.name}: patched minus control without a module, test images",
            ),
            "Each mark is the weak model with the module, minus the weak model fitted again on the same images without "
            "one; the line is the 95 % interval of a paired bootstrap. What lies right of 0 is owed to the module.",
        )
        yield Table(
            "Test images; differences in percentage points with 95 % intervals. Without a module: the weak model "
            "fitted again on the same images. An effect is significant where its interval excludes 0 and a "
            "test agrees: randomisation, or McNemar's of the other classes' accuracy.",
            (
                *("weak model: target class", "F1 before", "F1 without module", "F1 with module"),
                *("module adds to F1", "module adds to others' accuracy", "others' accuracy, before"),
                "with module minus before",
            ),
            [_row(outcome) for outcome in outcomes],
        )
    if useless := [outcome.name for outcome in outcomes if outcome.added["f1"].kind != "gain"]:
        yield Note(
            f"Not significantly better than the control without a module: {_some(useless)}. Leave these modules "
            "out, since the control costs no FLOPs, or judge them by more test images."
        )
    for kind in data.patched_kinds:
        try:
            common_calibrations(data.patched(kind))
        except MissingFile:  # nobody asked for it
            continue
        except UserError as error:
            yield Note(f"Patches of {kind.words} models: {error}")


def _row(outcome: Outcome) -> Sequence[Any]:
    return (
        outcome.name,
        *(percent(scores.f1) for scores in (outcome.before, outcome.no_module, outcome.after)),
        outcome.added["f1"],
        outcome.added["others_accuracy"],
        percent(outcome.before.others_accuracy),
        outcome.changes["others_accuracy"],
    )
