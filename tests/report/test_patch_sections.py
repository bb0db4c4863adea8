"""The report's section on patching, of models that were patched with and without a word on how sure it is."""

from types import SimpleNamespace

import numpy as np
import pytest

from configures.base import load
from patching.confidence import Change
from patching.report import PatchedWeakModel, method_entry
from patching.rules import RangeRule
from patching.weak_models import WeakKind
from report.page import Table
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
