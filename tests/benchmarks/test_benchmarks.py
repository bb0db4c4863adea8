"""The benchmarks: each runs, tiny, and both of its sides compute the same. Nothing is timed."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cluster_speed_up
import measuring
import numpy as np
import pytest
import torch
from conftest import Run, run_here, run_script

from modules.fast.compiled import compiler

pytestmark = pytest.mark.slow
COMMAND = "benchmarks/compare.py"
CHOSEN = ("--model", "simcnn_x0_25", "--dataset", "digits", "--quick", "--bfloat16", "--threads", 1)
TINY_SEARCH = [
    word
    for assignment in ("population=4", "parents=2", "elites=2", "generations=1", "search_images=30")
    for word in ("--set", assignment)
]


@pytest.fixture(scope="module")
def measured_root(strong_roots, tmp_path_factory):
    """A root_dir with a strong model and its kernels' importance: else every benchmark measures that first."""
    root = shutil.copytree(strong_roots("simcnn_x0_25", "digits"), tmp_path_factory.mktemp("measured") / "root")
    assert run_here("preprocess/kernel_importance_analyzer.py", *CHOSEN[:4], root=root).exit_code == 0
    return root


@pytest.fixture
def strong_root(measured_root, tmp_path):
    """The test's own copy of it."""
    return shutil.copytree(measured_root, tmp_path / "strong_root")


def result_of(run: Run, root: Path, name: str, threads: int = 1) -> dict:
    assert run.exit_code == 0, run.stderr
    path = root / "data" / "benchmark" / "simcnn_x0_25_digits" / f"{name}.json"
    assert f"saved {path}" in run.stdout
    result = json.loads(path.read_text())
    assert result["machine"]["threads"] == threads
    assert result["machine"]["torch"] == torch.__version__
    assert result["repetitions"] == 1
    for row in result.get("comparison", []):
        assert row["ratio"] == pytest.approx(row["naive ms"] / row["fast ms"])
        assert row["lowest"] <= row["ratio"] * (1 + 1e-9)
    return result


def test_evaluation(run_main, strong_root):
    result = result_of(run_main(COMMAND, "evaluation", *CHOSEN, root=strong_root), strong_root, "evaluation")
    ways = [f"evaluation, {count} {precision}" for precision in ("float32", "bfloat16") for count in ("one", "all")]
    assert [row["what"] for row in result["comparison"]] == ways
    (effect,) = result["effect_of_bfloat16"]
    assert 1e-4 < effect["max"] < 1
    assert abs(effect["right, float32"] - effect["right, bfloat16"]) <= effect["decisions changed"]


def test_importance_and_sensitivity(run_main, strong_root):
    few = ("--images", 40, "--set", "sensitivity_ratios=0.5,1.0")
    run = run_main(COMMAND, "importance", "sensitivity", *CHOSEN, *few, root=strong_root)
    (row,) = result_of(run, strong_root, "importance")["comparison"]
    assert (row["naive units"], row["fast units"]) == (30, 40)
    rows = result_of(run, strong_root, "sensitivity")["comparison"]
    assert [row["fast units"] for row in rows] == [26, 26]


@pytest.mark.long
def test_training(run_main, strong_root):
    run = run_main(COMMAND, "training", "training_accuracy", *CHOSEN, root=strong_root)
    rows = result_of(run, strong_root, "training")["comparison"]
    assert [row["what"] for row in rows] == ["training, float32", "training, bfloat16"]
    assert 0 < rows[0]["loss"] < 10
    rows = result_of(run, strong_root, "training_accuracy")["accuracy"]
    assert [row["what"] for row in rows] == ["naive", "float32", "bfloat16"]
    for row in rows:
        assert row["mean %"] == pytest.approx(100 * (row["seed 0"] + row["seed 1"]) / 2 / row["test images"])


@pytest.mark.long
def test_gradient(run_main, root_dir):
    halves = ("--set", "mean=0.5,0.5,0.5", "--set", "std=0.5,0.5,0.5")  # both sides take them from the images
    run = run_main(COMMAND, "gradient", *CHOSEN, "--untrained", *halves, root=root_dir)
    rows = result_of(run, root_dir, "gradient")["comparison"]
    assert [row["what"].split()[-1] for row in rows] == ["float32", "bfloat16"]


def test_convolution(run_main, root_dir):
    rows = result_of(run_main(COMMAND, "convolution", *CHOSEN, root=root_dir), root_dir, "convolution")["layers"]
    assert [row["side"] for row in rows] == [32, 32, 16, 16, 8, 8, 8, 4, 4, 4, 2, 2, 2] * 2
    assert [row["banded us"] != "" for row in rows] == [row["side"] <= 4 for row in rows]
    can_compile = compiler() is not None
    assert [row["compiled us"] != "" for row in rows] == [can_compile and row["precision"] == "float32" for row in rows]


@pytest.mark.long
def test_scoring(strong_root):
    result = result_of(run_script(COMMAND, "scoring", *CHOSEN, root=strong_root), strong_root, "scoring")
    (alone,) = result["alone"]
    assert alone["peak GiB"] > 0.1 and alone["survivors"] == 500


@pytest.mark.long
def test_cores(strong_root):
    run = run_script(COMMAND, "cores", *CHOSEN[:-1], 2, root=strong_root)
    rows = result_of(run, strong_root, "cores", threads=2)["arrangements"]
    of_each = [(processes, threads) for processes, threads in ((2, 1), (1, 2), (2, 2)) for _ in range(2)]
    assert [(row["processes"], row["threads each"]) for row in rows] == of_each


@pytest.mark.long
def test_generation(run_main, strong_root):
    missing = run_main(COMMAND, "generation", *CHOSEN, *TINY_SEARCH, root=strong_root)
    missing.refused("expected a search of two generations", "run python scripts/run_module_search.py")
    for generations in ("generations=0", "generations=1"):  # one after the other, so that nobody waits
        search = (*CHOSEN[:4], *TINY_SEARCH, "--set", generations)
        for script, more in (("module_explorer.py", ("--target_class", *range(10))), ("module_recorder.py", ())):
            part = run_main(script, *search, *more, root=strong_root)
            assert part.exit_code == 0, part.stderr
    run = run_main(COMMAND, "generation", *CHOSEN, *TINY_SEARCH, root=strong_root)
    (life,) = result_of(run, strong_root, "generation")["generation"]
    assert life["as recorded"] is True
    assert life["chromosomes"] == 40
    assert life["had to run"] <= 20  # two of four are elites


@pytest.mark.parametrize(
    "option", [("--images", "0"), ("--images", "many"), ("--threads", "-1"), ("--generation", "x"), ("growth",)]
)
def test_wrong_options_are_refused(run_main, root_dir, option):
    run_main(COMMAND, *CHOSEN, *option, root=root_dir).refused(option[0])


def test_turns_are_taken_and_ratios_are_per_unit():
    order = []
    works = {name: measuring.Work(lambda n=name: order.append(n), units) for name, units in (("a", 2), ("b", 1))}
    measuring.time_in_turns(works, 2, torch.device("cpu"))
    assert order == ["a", "b"] * 3
    naive, fast = measuring.Timing((4.0, 8.0, 6.0), 2, None), measuring.Timing((1.0, 1.0, 2.0), 4, None)
    row = measuring.compare("x", "thing", naive, fast)
    assert (row["ratio"], row["lowest"], row["highest"]) == (12, 6, 16)
    assert (row["naive ms"], row["fast ms"]) == (3000, 250)


def test_sides_that_disagree_end_the_benchmark():
    with pytest.raises(RuntimeError, match="disagree: outputs by 3"):
        measuring.must_agree(False, "outputs by 3")


def test_a_cluster_is_simulated_as_it_would_be_reckoned_by_hand():
    costs = cluster_speed_up.Costs(
        modules=np.full(4, 10.0),
        set_up=0.0,
        kept=np.full(4, 100),
        in_chunks={1: 1.0, 2: 0.5},
        serial=1.0,
        submit=0.0,
        receive=0.0,
        per_byte=0.0,
        latency=0.0,
        answer_bytes=8,
    )

    def seconds(workers, count, **other):
        times = np.full(count, 10.0)
        return cluster_speed_up.generation_seconds(replace(costs, **other), workers, times, times, serial=1.0)

    assert seconds(2, 8, in_chunks={1: 1.0}) == 41
    assert seconds(8, 8, in_chunks={1: 1.0}) == 11  # half of the images each, twice
    assert seconds(16, 8, in_chunks={1: 1.0}) == 6  # more workers than modules
    assert seconds(16, 8, in_chunks={1: 1.0}, set_up=2.0) == 9  # two tasks each, of 2 s and a quarter of 8 s
    assert seconds(4, 8, in_chunks={1: 1.0}) == 21
    assert seconds(8, 8, submit=0.5) == 15  # the last of 16 tasks waits for one that ends after 9 s
    assert 11 < seconds(8, 8, receive=0.1) < seconds(8, 8, receive=0.1, per_byte=0.1) < 11 + 16 * 0.5
    one, two, *_ = cluster_speed_up.predictions(replace(costs, in_chunks={1: 1.0}), 3, 1000)
    assert one["speed-up"] == 1 and 1.9 < two["speed-up"] < 2


@pytest.mark.long
@pytest.mark.xdist_group("ray")
def test_cluster_speed_up(strong_root):
    options = ["--model", "simcnn_x0_25", "--dataset", "digits", "--quick"]
    run = run_script("benchmarks/cluster_speed_up.py", *options, root=strong_root)
    assert run.exit_code == 0, run
    folder = strong_root / "data" / "benchmark" / "simcnn_x0_25_digits"
    assert (folder / "cluster_speed_up.csv").read_text().startswith("workers,hours,speed-up")
    (check,) = json.loads((folder / "cluster_speed_up.json").read_text())["checks"]
    assert 0 < check["waiting s"] < check["measured s"] and check["predicted s"] > 0
