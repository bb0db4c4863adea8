"""Tables of patches: the mean change, several target classes, and that screen, CSV and Markdown say the same."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from patching.confidence import Change
from patching.metrics import TargetClassScores
from patching.on_disk import load_report
from patching.report import NO_MODULE, WHOLE_MODEL, PatchedWeakModel, mean_metrics, method_entry, methods_of
from patching.rules import Learned, RangeRule
from patching.tables import exact_table, f1_table, overview_table, single_table, sureness_lines
from utils.artifacts import RecordFile
from utils.errors import UserError

BEFORE = np.array([[8, 2], [5, 5]])  # precision 5/7, recall 5/10, others 8/10
AFTER = np.array([[9, 1], [2, 8]])  # precision 8/9, recall 8/10, others 9/10
NO_CHANGE = Change((0, 0), (0, 0), (0, 0), (0, 0), (0.001, 0.001, 0.001, 1.0))
NAME = "simcnn_x"


def patched(
    target_class: int, name: str, epoch: int, before: np.ndarray, change: Change = NO_CHANGE, over: Change | None = None
) -> PatchedWeakModel:
    entry = method_entry(AFTER, RangeRule(0, 1), [change], over and [over])
    methods = {"before": method_entry(before), "min_max": entry}
    return PatchedWeakModel(("a", name), (1,), 20, methods, NAME, (target_class,), "SET", "", "simcnn", "weak", epoch)


MODELS = [patched(0, "x", 3, BEFORE), patched(1, "y", 4, AFTER)]


def several() -> PatchedWeakModel:
    """Two target classes of four; the last one is added."""
    random = np.random.default_rng(0)
    labels, methods = random.integers(4, size=400), ("before", "learned", WHOLE_MODEL.format("learned"), NO_MODULE)
    answers = {each: np.where(random.random(400) < 0.2 * n, labels, 0) for n, each in enumerate(methods, 1)}
    rule = Learned(np.zeros((4, 5)), np.zeros(4))
    entries = methods_of(labels, answers, dict.fromkeys(methods[1:], rule), "abcd", (1, 3))
    return PatchedWeakModel(tuple("abcd"), (1, 3), 400, entries, NAME, (7, 8), "SET", details={"added": ["d"]})


@pytest.mark.parametrize("model", [MODELS[0], several()])
def test_a_file_gives_the_record_back(tmp_path, model):
    file = RecordFile(tmp_path / "report.json", "python make.py", PatchedWeakModel)
    file.save(model)
    found = load_report(file)
    assert found.methods == json.loads(json.dumps(model.methods)) and found.lines(found.calibrations[0])
    assert {**asdict(found), "methods": 0} == {**asdict(model), "methods": 0}
    file.path.unlink()
    with pytest.raises(UserError, match="missing"):
        load_report(file)


@pytest.mark.parametrize("classes", [2, 4])
def test_a_rule_of_another_number_of_classes_is_refused(classes):
    entry = method_entry(np.eye(3, dtype=np.int64), Learned(np.zeros((classes, 4)), np.zeros(classes)))
    model = PatchedWeakModel(("a", "b", "x"), (2,), 3, {"learned": entry})
    with pytest.raises(ValueError, match="the rule of learned is not one of 3 classes"):
        model.rule("learned")


def test_the_others_are_the_classes_that_are_no_targets():
    model = several()
    for method in model.methods:
        confusion = model.confusion(method)
        of_targets = [model.scores(method, number) for number in range(2)]
        others = int(confusion[[0, 2]].sum())
        assert [(each.others, each.others_right) for each in of_targets] == 2 * [
            (others, int(confusion[2, 2] + confusion[0, 0]))
        ]
        assert of_targets[1].true_positives == confusion[3, 3]
        assert {**asdict(of_targets[0])}.items() <= model.methods[method]["targets"][0].items()
    lines = model.lines("learned")
    assert [line.partition(":")[0] for line in lines[1:-1] if "no better" not in line] == ["b", "b", "d", "d"]
    headings, rows = f1_table(model)
    assert headings == ["F1", *model.methods] and [row[0] for row in rows] == ["b", "d", "others' accuracy"]
    assert len(single_table(model)[1]) == 2 * len(model.methods)
    gained = [model.scores("learned", n).f1 - model.scores(NO_MODULE, n).f1 for n in range(2)]
    assert model.f1_over_no_module("learned") == pytest.approx(sum(gained))


def test_mean_change():
    change = mean_metrics(MODELS, "min_max") - mean_metrics(MODELS, "before")
    np.testing.assert_allclose(change[[0, 1, 3]], [(8 / 9 - 5 / 7) / 2, 0.15, 0.05])
    headings, table = overview_table(MODELS)
    assert headings == ["class", "name", "epoch", "before", "min_max"]
    assert table[0] == [0, "x", 3, "58.8 | 80.0", "84.2 | 90.0"]
    assert table[-1][-1] == "+12.7 | +5.0"


def test_csv_holds_every_class_method_and_mean():
    change = Change((0, 0), (0, 0), (0.02, 0.1), (0, 0), (0.001, 0.001, 0.001, 1.0))
    headings, table = exact_table([patched(0, "x", 3, BEFORE, change), MODELS[1]])
    lines = [dict(zip(headings, row, strict=True)) for row in table]
    assert [(line["target_class"], line["method"]) for line in lines] == [
        *[(target_class, method) for target_class in (0, 1) for method in ("before", "min_max")],
        *[(mean, method) for method in ("before", "min_max") for mean in ("mean", "mean change")],
    ]
    assert float(lines[1]["recall"]) == 0.8 and lines[1]["true_positives"] == 8 and lines[1]["others"] == 10
    assert lines[1]["f1_change_low"] == "0.020000" and lines[0]["f1_change_low"] == ""
    assert float(lines[-1]["recall"]) == pytest.approx(0.15)
    assert {lines[5][name] for name in ("precision", "recall", "f1", "others_accuracy")} == {"0.000000"}


def test_single_table_is_in_percent():
    assert MODELS[0].scores("min_max") == TargetClassScores(8, 1, 2, 9, 10)
    headings, table = single_table(MODELS[0])
    assert headings == ["", "precision", "recall", "F1", "others' accuracy"]
    assert table[1] == ["min_max", "88.89", "80.00", "84.21", "90.00"]  # 8 of 9, 8 of 10, and 9 of 10


def test_which_changes_are_significant():
    changes = [
        Change((0, 0), (0, 0), (0.02, 0.1), (-0.01, 0.01), (0.001, 0.001, 0.001, 0.5)),
        Change((0, 0), (0, 0), (-0.02, 0.1), (-0.03, -0.01), (0.001, 0.001, 0.001, 0.001)),
    ]
    models = [patched(number, "x", 3, BEFORE, change) for number, change in enumerate(changes)]
    assert models[0].change("min_max") == changes[0] and models[0].change("before") is None
    assert sureness_lines(models) == [
        "min_max: significant, of 2 changes: F1 1 better, 0 worse; others' accuracy 0 better, 1 worse"
    ]
    assert str(models[0]).splitlines() == [
        "accuracy 65.00 % -> 85.00 %",
        "x: precision 71.4 -> 88.9, recall 50.0 -> 80.0, F1 58.8 -> 84.2; F1 changes by +2.0 to +10.0 (significant)",
        "accuracy of the other classes 80.0 -> 90.0; it changes by -1.0 to +1.0 (not significant), McNemar's p = 0.5",
    ]


def test_compared_with_no_module():
    """The interval of what the module is worth, and advice where that may be nothing."""
    change = Change((0, 0), (0, 0), (0.1, 0.2), (0, 0), (0.001, 0.001, 0.001, 1.0))
    over = [replace(change, f1=f1) for f1 in ((0.02, 0.1), (-0.01, 0.1), (-0.2, -0.1))]
    models = [patched(n, name, 3, BEFORE, change, each) for n, (name, each) in enumerate(zip("xyz", over, strict=True))]
    assert models[0].over_no_module("min_max") == over[0] and models[0].over_no_module("before") is None
    assert models[0].lines("min_max")[2:-1] == ["x: compared with no module, F1 changes by +2.0 to +10.0 (significant)"]
    assert models[1].lines("min_max")[2:-1] == [
        "y: compared with no module, F1 changes by -1.0 to +10.0 (not significant)",
        "y: no better than recalibrating the weak model alone: take the rule learned, or leave the module out",
    ]
    assert sureness_lines(models)[1:] == [
        "min_max: significant compared with no module, of 3: F1 1 better, 1 worse",
        "min_max: no better than recalibrating the weak model alone: y, z",
    ]
