"""The report's section on patching, of models that were patched with and without a word on how sure it is."""

from types import SimpleNamespace

import numpy as np
import pytest

from configures.base import load
from patching.confidence import Change
from patching.report import NO_MODULE, PatchedWeakModel, method_entry
from patching.rules import RangeRule
from patching.weak_models import WeakKind
from report.answer import patching_answer, patching_tiles
from report.page import Note, Table
from report.sections import patch_blocks

CHANGE = Change((0.1, 0.3), (-0.2, 0.1), (0.02, 0.1), (0.0, 0.0), 1.0)


@pytest.mark.parametrize("change", [CHANGE, None])
def test_the_section_says_which_changes_hold(change):
    before, after = np.array([[8, 2], [5, 5]]), np.array([[9, 1], [2, 8]])
    methods = {"before": method_entry(before, None), "min_max": method_entry(after, RangeRule(0, 1), change)}
    model = PatchedWeakModel("simcnn_x", 0, ("a", "b"), "simcnn", "weak", 3, 8, 20, methods)
    data = SimpleNamespace(config=load("simcnn_x0_25", "digits_5"), patched=lambda kind: [model])
    tables = [block for block in patch_blocks(data, WeakKind.SIMPLE) if isinstance(block, Table)]
    assert len(tables) == (2 if change else 1)
    if change:
        (row,) = tables[1].rows
        assert row == (
            "b",
            "min_max",
            "unknown",
            "+10.0 to +30.0 (significant)",
            "-20.0 to +10.0 (not significant)",
            "+2.0 to +10.0 (significant)",
            "unchanged",
            "1",
        )


def model_of(name: str, confusions: dict[str, list[list[int]]], over: Change | None) -> PatchedWeakModel:
    methods = {method: method_entry(np.array(confusion), None, CHANGE) for method, confusion in confusions.items()}
    methods["learned"] |= {"rule": RangeRule(0, 1).to_json(), "over_no_module": over and over.to_json()}
    return PatchedWeakModel("simcnn_x", len(name), ("a", name), "simcnn", "weak", 3, 8, 20, methods)


def test_what_a_module_adds_is_counted_from_the_control_without_one():
    """The patch of a module that says nothing gains as much as the weak model does that is fitted again alone."""
    nothing = Change((0.0, 0.0), (0.0, 0.0), (-0.05, 0.05), (0.0, 0.0), 1.0)
    collapsed = {"before": [[9, 1], [10, 0]], "learned": [[8, 2], [4, 6]], NO_MODULE: [[8, 2], [4, 6]]}
    sound = {"before": [[9, 1], [10, 0]], "learned": [[10, 0], [0, 10]], NO_MODULE: [[8, 2], [4, 6]]}
    models = [model_of("mouse", collapsed, nothing), model_of("dog", sound, CHANGE)]
    data = SimpleNamespace(patched_kinds=[WeakKind.SIMPLE], patched=lambda kind: models, own_patches=[])
    table, note = patching_answer(data)
    assert isinstance(table, Table) and isinstance(note, Note)
    assert [[text.replace("\N{NO-BREAK SPACE}", " ") for text in row[:5]] for row in table.rows] == [
        ["overly simple: mouse", "0.0 %", "66.7 %", "66.7 %", "+0.0, -5.0 to +5.0 (not significant)"],
        ["overly simple: dog", "0.0 %", "100.0 %", "66.7 %", "+33.3, +2.0 to +10.0 (significant)"],
    ]
    assert "overly simple: mouse. Leave these modules out" in note.text and "dog" not in note.text
    (_, patched, words), (_, added, sure) = patching_tiles(data)
    assert patched.replace("\N{NO-BREAK SPACE}", " ") == "67 to 100 %" and added == "+0.0 to +33.3"
    assert "before 0.0 %; without any module 66.7 %. The other classes' accuracy changes by -10.0 to +10.0" in words
    assert "significantly more for 1 of 2, less for 0" in sure
    unknown = SimpleNamespace(**{**vars(data), "patched": lambda kind: [model_of("mouse", sound, None)]})
    assert "whether that is significant is not recorded: patch again" in patching_tiles(unknown)[1][2]
    assert len(list(patching_answer(unknown))) == 1
