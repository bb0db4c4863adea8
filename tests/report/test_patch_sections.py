"""The report on patches of one target class and of several, trained here or the user's own, in the same blocks."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from configures.base import load
from patching.confidence import Change
from patching.report import NO_MODULE, PatchedWeakModel, method_entry, methods_of
from patching.rules import Learned, RangeRule
from patching.weak_models import WeakKind
from report.answer import patching_answer, patching_tiles
from report.page import Note, Paragraph, Picture, Table
from report.patches import label_of, patches_by_this_set
from report.sections import output_blocks, patch_blocks
from utils.artifacts import Artifacts

CHANGE = Change((0.1, 0.3), (-0.2, 0.1), (0.02, 0.1), (0.0, 0.0), (0.001, 0.001, 0.001, 1.0))
BEFORE, AFTER = [[8, 2], [5, 5]], [[9, 1], [2, 8]]


def model_of(name: str, method: str, after: list, over: Change, before: list = BEFORE) -> PatchedWeakModel:
    rule = RangeRule(0, 1)
    methods = {
        "before": method_entry(np.array(before)),
        method: method_entry(np.array(after), rule, [CHANGE], [over]),
        NO_MODULE: method_entry(np.array([[8, 2], [4, 6]]), None, [CHANGE]),
    }
    return PatchedWeakModel(("a", name), (1,), 20, methods, target_classes=(len(name),), modules="SET", epoch=3)


def data_of(models: list[PatchedWeakModel], **own: PatchedWeakModel) -> SimpleNamespace:
    artifacts, config = Artifacts(Path("none"), "simcnn_x0_25", "digits_5"), load("simcnn_x0_25", "digits_5")
    kinds = [WeakKind.SIMPLE] if models else []
    return SimpleNamespace(
        config=config,
        artifacts=artifacts,
        patched_kinds=kinds,
        patched=lambda kind: models,
        own_patches=own,
        module_set=SimpleNamespace(name="SET"),
    )


def own_model(targets: tuple[int, ...]) -> PatchedWeakModel:
    labels = np.arange(60) % 3
    answers = {"before": 0 * labels}
    if targets:
        answers |= {"learned": labels, NO_MODULE: np.where(np.arange(60) < 40, labels, 0)}
    methods = methods_of(labels, answers, {"learned": Learned(np.zeros((3, 5)), np.zeros(3))}, "abc", targets)
    return PatchedWeakModel(("a", "b", "c"), targets, 60, methods, modules="SET", kind="own")


def test_the_section_says_which_changes_are_significant():
    data = data_of([model_of("b", "min_max", AFTER, CHANGE)])
    picture, means, changes = patch_blocks(data, WeakKind.SIMPLE)
    assert isinstance(picture, Picture) and "Module sets: SET." in picture.reading and isinstance(means, Table)
    (row,) = changes.rows
    assert [str(cell) for cell in row] == [
        "b",
        "min_max",
        "+17.5 [+2.0, +10.0], significant gain",
        "+17.5 [+10.0, +30.0], significant gain",
        "+30.0 [-20.0, +10.0], not significant",
        "+25.4 [+2.0, +10.0], significant gain",
        "+10.0 [+0.0, +0.0], not significant",
        "1",
    ]


def test_the_figure_names_the_network_that_was_patched():
    """Which `--set weak_model` gave to the patching alone."""
    data = data_of([replace(model_of("b", "learned", AFTER, CHANGE), weak_model="rescnn_weak")])
    picture, *_ = patch_blocks(data, WeakKind.SIMPLE)
    assert isinstance(picture, Picture) and "(rescnn_weak)" in picture.drawing.figure.get_suptitle()
    assert data.config.weak_model != "rescnn_weak"


def test_what_a_module_adds_is_counted_from_the_control_without_one():
    """The patch of a module that says nothing gains as much as the weak model does that is fitted again alone."""
    nothing = Change((0.0, 0.0), (0.0, 0.0), (-0.05, 0.05), (0.0, 0.0), (0.001, 0.001, 0.001, 1.0))
    before = [[9, 1], [10, 0]]
    models = [
        model_of("mouse", "learned", [[8, 2], [4, 6]], nothing, before),
        model_of("dog", "learned", [[10, 0], [0, 10]], CHANGE, before),
    ]
    data = data_of(models)
    picture, table, note = patching_answer(data)
    assert isinstance(picture, Picture) and isinstance(table, Table) and isinstance(note, Note)
    assert "F1 of the target class: significant gain in 1 of 2, significant loss in 0." in picture.drawing.finding
    assert [[str(cell).replace("\N{NO-BREAK SPACE}", " ") for cell in row[:5]] for row in table.rows] == [
        ["overly simple: mouse", "0.0 %", "66.7 %", "66.7 %", "+0.0 [-5.0, +5.0], not significant"],
        ["overly simple: dog", "0.0 %", "66.7 %", "100.0 %", "+33.3 [+2.0, +10.0], significant gain"],
    ]
    assert [getattr(row[4], "kind", None) for row in table.rows] == ["", "gain"]
    assert "overly simple: mouse. Leave these modules out" in note.text and "dog" not in note.text
    (_, helps, sure), (_, patched, words), (_, changed, others) = patching_tiles(data)
    assert helps == "1 of 2" and "lower for 0. The module adds +0.0 to +33.3 percentage points" in sure
    assert patched.replace("\N{NO-BREAK SPACE}", " ") == "67 to 100 %"
    assert words == "before 0.0 %; without a module 66.7 %"
    assert changed == "-10.0 to +10.0" and "a significant loss for 0 of 2" in others


def test_patches_by_another_set_are_not_credited_to_the_pages_set():
    """They stand in their own section, which names their set."""
    models = [model_of("mouse", "learned", AFTER, CHANGE), model_of("dog", "learned", AFTER, CHANGE)]
    data = data_of([replace(models[0], modules="OTHER"), models[1]])
    (_, helps, _), *_ = patching_tiles(data)
    _, table, *_ = patching_answer(data)
    assert helps == "1 of 1" and [row[0] for row in table.rows] == ["overly simple: dog, SET"]
    assert not patching_tiles(data_of([replace(models[0], modules="OTHER")]))


@pytest.mark.parametrize("targets", [(2,), (1, 2)])
def test_the_users_own_models_have_the_same_blocks(targets: tuple[int, ...]) -> None:
    data = data_of([], mine=own_model(targets), other=own_model(()))
    picture, _, changes, sentence = patch_blocks(data, None)
    labels = [f"mine: {'abc'[target]}" for target in targets]
    assert isinstance(picture, Picture) and [row[0] for row in changes.rows] == labels
    assert isinstance(sentence, Paragraph) and sentence.text == "No module helped, so nothing was changed: other."
    outcomes = patches_by_this_set(data)
    assert [each.name for each in outcomes] == labels
    assert all(each.after.f1 == 1 and each.added["f1"].kind == "gain" for each in outcomes)


def test_modules_whose_test_images_are_all_of_one_kind_have_no_distributions():
    answers = SimpleNamespace(labels=np.zeros(4, int), modules=np.zeros((4, 2)))
    assert not list(output_blocks(SimpleNamespace(answers=answers, target_classes=(0, 1), classes="ab")))


def test_patches_by_several_sets_and_of_several_epochs_are_told_apart():
    models = [model_of("dog", "learned", AFTER, CHANGE) for _ in range(3)]
    assert [label_of(model, models) for model in models] == 3 * ["dog"]
    for model, name, value in ((models[1], "epoch", 7), (models[2], "modules", "OTHER")):
        object.__setattr__(model, name, value)
    assert [label_of(model, models) for model in models] == [
        "dog, epoch 3, SET",
        "dog, epoch 7, SET",
        "dog, epoch 3, OTHER",
    ]
