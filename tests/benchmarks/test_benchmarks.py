"""The benchmark: each row runs, tiny, and both of its sides compute the same. Nothing is timed."""

import json

import compare
import pytest
import torch

pytestmark = pytest.mark.slow
COMMAND = "benchmarks/compare.py"
CHOSEN = ("--model", "simcnn_x0_25", "--dataset", "digits", "--quick", "--threads", 1)
TINY = ("--set", "sensitivity_ratios=0.5,1")


@pytest.mark.parametrize(
    ("name", "units"),
    [
        ("evaluation", [(1, 2)]),
        ("scoring", None),
        ("importance", [(30, 60)]),
        ("sensitivity", [(1, 26)]),
        pytest.param("training", [(2, 2)], marks=pytest.mark.long),
    ],
)
def test_both_sides_compute_the_same(run_main, strong_root, name, units):
    rows = rows_of(run_main(COMMAND, name, *CHOSEN, *TINY, root=strong_root), strong_root, name)
    assert units is None or {(row["naive units"], row["fast units"]) for row in rows} == set(units)  # bfloat16: twice


def test_untrained_with_other_colours(run_main, root_dir):
    halves = ("--untrained", "--set", "mean=0.5,0.5,0.5", "--set", "std=0.5,0.5,0.5")  # both sides take the images' own
    run = run_main(COMMAND, "evaluation", *CHOSEN, *halves, "--bfloat16", root=root_dir)
    ways = [row["what"] for row in rows_of(run, root_dir, "evaluation")]
    assert ways == ["evaluation, float32", "evaluation, bfloat16"]


def rows_of(run, root, name):
    assert run.exit_code == 0, run
    path = root / "data" / "benchmark" / "simcnn_x0_25_digits" / f"{name}.json"
    assert f"saved {path}" in run.stdout
    record = json.loads(path.read_text())
    assert record["machine"]["threads"] == 1 and record["machine"]["commit"]
    for row in record["comparison"]:
        assert row["ratio"] == pytest.approx(row["naive ms"] / row["fast ms"])
    return record["comparison"]


@pytest.mark.parametrize("option", [("--images", "0"), ("--images", "many"), ("--threads", "-1"), ("growth",)])
def test_wrong_options_are_refused(run_main, root_dir, option):
    run_main(COMMAND, *CHOSEN, *option, root=root_dir).refused(option[0])


def test_turns_are_taken_and_sides_must_agree():
    order = []
    slow, fast = (compare.Work(lambda name=name: order.append(name), units) for name, units in (("a", 2), ("b", 1)))
    rows = compare.measured(compare.Comparison("x", "y", slow, {"z": fast}, lambda *_: True), 2, torch.device("cpu"))
    assert [(row["what"], row["naive units"], row["fast units"]) for row in rows] == [("x, z", 2, 1)]
    assert order == ["a", "b"] * 3  # the first turn warms up
    with pytest.raises(RuntimeError, match="disagree: x"):
        list(compare.measured(compare.Comparison("x", "y", slow, {}, lambda *_: False), 1, torch.device("cpu")))
