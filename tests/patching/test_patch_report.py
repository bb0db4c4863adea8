"""Tables of patches: the mean change, and that screen, CSV and Markdown say the same."""

import numpy as np
import pytest

from patching.report import exact_table, mean_metrics, overview_table, patch_rows, single_table

BEFORE = np.array([[8, 2], [5, 5]])  # precision 5/7, recall 5/10, others 8/10
AFTER = np.array([[9, 1], [2, 8]])  # precision 8/9, recall 8/10, others 9/10


@pytest.fixture
def rows():
    first = patch_rows(0, ("a", "x"), 3, {"before": BEFORE, "min_max": AFTER})
    return first + patch_rows(1, ("a", "y"), 4, {"before": AFTER, "min_max": AFTER})


def test_mean_change(rows):
    change = mean_metrics(rows, "min_max") - mean_metrics(rows, "before")
    np.testing.assert_allclose(change[[0, 1, 3]], [(8 / 9 - 5 / 7) / 2, 0.15, 0.05])
    headings, table = overview_table(rows)
    assert headings == ["class", "name", "epoch", "before", "min_max"]
    assert table[0] == [0, "x", 3, "71.4 / 50.0 / 58.8 | 80.0", "88.9 / 80.0 / 84.2 | 90.0"]
    assert table[-1][-1] == "+8.7 / +15.0 / +12.7 | +5.0"


def test_csv_holds_every_class_method_and_mean(rows):
    headings, table = exact_table(rows)
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


def test_single_table_shows_the_counts(rows):
    headings, table = single_table(rows[:2])
    assert dict(zip(headings, table[1], strict=True))["FP"] == 1
    assert table[1][-1] == "9 of 10"
