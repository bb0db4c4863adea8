"""Tables of patches: the mean change, and that screen, CSV and Markdown say the same."""

import numpy as np
import pytest

from patching.confidence import Change
from patching.report import PatchedWeakModel, mean_metrics, method_entry
from patching.rules import Learned, RangeRule
from patching.tables import exact_table, overview_table, single_table, sureness_lines

BEFORE = np.array([[8, 2], [5, 5]])  # precision 5/7, recall 5/10, others 8/10
AFTER = np.array([[9, 1], [2, 8]])  # precision 8/9, recall 8/10, others 9/10


def patched(target_class: int, name: str, epoch: int, before: np.ndarray) -> PatchedWeakModel:
    methods = {"before": method_entry(before, None), "min_max": method_entry(AFTER, RangeRule(0, 1))}
    return PatchedWeakModel("simcnn_x", target_class, ("a", name), "simcnn", "weak", epoch, 8, 20, methods)


MODELS = [patched(0, "x", 3, BEFORE), patched(1, "y", 4, AFTER)]


@pytest.mark.parametrize("classes", [2, 4])
def test_a_rule_of_another_number_of_classes_is_refused(classes):
    confusion = np.eye(3, dtype=np.int64)
    entry = method_entry(confusion, Learned(np.zeros((classes, 4)), np.zeros(classes)))
    model = PatchedWeakModel("simcnn_x", 0, ("a", "b", "x"), "simcnn", "weak", 3, 3, 3, {"learned": entry})
    with pytest.raises(ValueError, match="the rule of learned is not one of 3 classes"):
        model.rule("learned")


def test_mean_change():
    change = mean_metrics(MODELS, "min_max") - mean_metrics(MODELS, "before")
    np.testing.assert_allclose(change[[0, 1, 3]], [(8 / 9 - 5 / 7) / 2, 0.15, 0.05])
    headings, table = overview_table(MODELS)
    assert headings == ["class", "name", "epoch", "before", "min_max"]
    assert table[0] == [0, "x", 3, "71.4 / 50.0 / 58.8 | 80.0", "88.9 / 80.0 / 84.2 | 90.0"]
    assert table[-1][-1] == "+8.7 / +15.0 / +12.7 | +5.0"


def test_csv_holds_every_class_method_and_mean():
    headings, table = exact_table(MODELS)
    lines = [dict(zip(headings, row, strict=True)) for row in table]
    assert [(line["target_class"], line["method"]) for line in lines] == [
        (0, "before"),
        (0, "min_max"),
        (1, "before"),
        (1, "min_max"),
        ("mean", "before"),
        ("mean change", "before"),
        ("mean", "min_max"),
        ("mean change", "min_max"),
    ]
    assert float(lines[1]["recall"]) == 0.8 and lines[1]["true_positives"] == 8 and lines[1]["others"] == 10
    assert float(lines[-1]["recall"]) == pytest.approx(0.15)
    assert {lines[5][name] for name in ("precision", "recall", "f1", "others_accuracy")} == {"0.000000"}


def test_single_table_shows_the_counts():
    headings, table = single_table(MODELS[0])
    assert dict(zip(headings, table[1], strict=True))["FP"] == 1
    assert table[1][-1] == "9 of 10"


def test_which_gains_hold():
    changes = [
        Change((0, 0), (0, 0), (0.02, 0.1), (-0.01, 0.01), 0.5),
        Change((0, 0), (0, 0), (-0.02, 0.1), (-0.03, -0.01), 0.001),
    ]
    models = [patched(number, "x", 3, BEFORE) for number in range(2)]
    for model, change in zip(models, changes, strict=True):
        model.methods["min_max"] = method_entry(AFTER, RangeRule(0, 1), change)
    assert models[0].change("min_max") == changes[0] and models[0].change("before") is None
    assert sureness_lines(models) == [
        "min_max: significant, of 2 changes: F1 1 better, 0 worse; others' accuracy 0 better, 1 worse"
    ]
    (line,) = sureness_lines(models[:1])
    assert line == (
        "min_max: F1 changes by +2.0 to +10.0 (significant); others' accuracy by -1.0 to +1.0 (not significant), "
        "McNemar's p = 0.5"
    )
    headings, table = exact_table(models)
    assert dict(zip(headings, table[1], strict=True))["f1_change_low"] == "0.020000"


def test_reports_without_intervals_load():
    entry = method_entry(AFTER, RangeRule(0, 1))
    del entry["change"], entry["over_no_module"]
    model = PatchedWeakModel("simcnn_x", 0, ("a", "x"), "simcnn", "weak", 3, 8, 20, {"min_max": entry})
    assert model.change("min_max") is None and model.over_no_module("min_max") is None and sureness_lines([model]) == []


def test_compared_with_no_module():
    """The interval of what the module is worth, and advice where that may be nothing."""
    change = Change((0, 0), (0, 0), (0.1, 0.2), (0, 0), 1.0)
    over = [Change((0, 0), (0, 0), f1, (0, 0), 1.0) for f1 in ((0.02, 0.1), (-0.01, 0.1), (-0.2, -0.1))]
    models = [patched(number, name, 3, BEFORE) for number, name in enumerate("xyz")]
    for model, each in zip(models, over, strict=True):
        model.methods["min_max"] = method_entry(AFTER, RangeRule(0, 1), change, each)
        assert model.over_no_module("min_max") == each and model.over_no_module("before") is None
    assert sureness_lines(models[:1])[1:] == [
        "min_max: compared with no module, F1 changes by +2.0 to +10.0 (significant)"
    ]
    assert sureness_lines(models[1:2])[1:] == [
        "min_max: compared with no module, F1 changes by -1.0 to +10.0 (not significant)",
        "min_max: no better than recalibrating the weak model alone: take the rule learned, or leave the module out",
    ]
    assert sureness_lines(models)[1:] == [
        "min_max: significant compared with no module, of 3: F1 1 better, 1 worse",
        "min_max: no better than recalibrating the weak model alone: y, z",
    ]
