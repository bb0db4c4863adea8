"""The benchmark commands: each runs, and the naive side computes what the fast side computes. Nothing is timed."""

import importlib
import json
import runpy
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from conftest import TOP, Run, fit_last_layer, random_images, run_script
from hypothesis import given, settings
from hypothesis import strategies as st

from configures.base import load
from dataset.datasets import Images
from dataset.images import normalise
from models.cnn import CNN, Architecture, Conv
from modules.population_outputs import population_outputs
from search.genetic.kernel_groups import genome_layout, kernel_groups
from search.genetic.operators import first_population, next_generation
from search.genetic.scoring import scoring_rules
from search.genetic.tournament import ScoringRules, score_population

FOLDER = TOP / "experiments" / "benchmark"
CHOSEN = ("--model", "simcnn_x0_25", "--dataset", "digits", "--quick", "--bfloat16", "--threads", 1)
TINY_SEARCH = [
    word
    for assignment in ("population=4", "parents=2", "elites=2", "generations=1", "search_images=30")
    for word in ("--set", assignment)
]


@pytest.fixture(autouse=True)
def siblings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmark's scripts import their neighbours."""
    monkeypatch.syspath_prepend(str(FOLDER))


def neighbour(name: str) -> ModuleType:
    return importlib.import_module(name)


def result_of(run: Run, root: Path, name: str) -> dict:
    assert run.exit_code == 0, run.stderr
    path = root / "data" / "benchmark" / "simcnn_x0_25_digits" / f"{name}.json"
    assert f"saved {path}" in run.stdout
    result = json.loads(path.read_text())
    assert result["machine"]["threads"] == 1
    assert result["machine"]["torch"] == torch.__version__
    assert result["repetitions"] == 1
    for row in result.get("comparison", []):
        assert row["ratio"] == pytest.approx(row["naive ms"] / row["fast ms"])
        assert row["lowest"] <= row["ratio"] * (1 + 1e-9)
    return result


def test_evaluation(run_main, strong_root):
    run = run_main("benchmarks/evaluation.py", *CHOSEN, root=strong_root)
    result = result_of(run, strong_root, "evaluation")
    assert [row["what"] for row in result["comparison"]] == [
        *("one float32", "all float32"),
        *("one bfloat16", "all bfloat16"),
    ]
    (effect,) = result["effect_of_bfloat16"]
    assert effect["float32 - naive, max"] < 1e-4
    assert 1e-4 < effect["max"] < 1
    assert abs(effect["right, float32"] - effect["right, bfloat16"]) <= effect["decisions changed"]
    for row in result["speed"]:
        assert row["images/s"] == pytest.approx(row["chromosomes/s"] * effect["images"])
        assert row["% of convolution peak"] == pytest.approx(100 * row["GFLOP/s"] / row["convolution peak"])


def test_importance(run_main, strong_root):
    run = run_main("benchmarks/importance.py", *CHOSEN, root=strong_root)
    (row,) = result_of(run, strong_root, "importance")["comparison"]
    assert (row["naive units"], row["fast units"]) == (30, 60)


def test_sensitivity(run_main, strong_root):
    few = ("--images", 12, "--set", "sensitivity_ratios=0.5,1.0")
    run = run_main("benchmarks/sensitivity.py", *CHOSEN, *few, root=strong_root)
    rows = result_of(run, strong_root, "sensitivity")["comparison"]
    assert [row["fast units"] for row in rows] == [26, 26]
    assert rows[0]["accuracy changed by, max"] == 0


def test_training_step(run_main, strong_root):
    run = run_main("benchmarks/training_step.py", *CHOSEN, root=strong_root)
    rows = result_of(run, strong_root, "training_step")["comparison"]
    assert [row["what"] for row in rows] == ["float32", "bfloat16"]
    assert 0 < rows[0]["loss"] < 10


def test_training_accuracy(run_main, strong_root):
    run = run_main("benchmarks/training_accuracy.py", *CHOSEN, root=strong_root)
    rows = result_of(run, strong_root, "training_accuracy")["accuracy"]
    assert [row["what"] for row in rows] == ["naive", "float32", "bfloat16"]
    for row in rows:
        assert row["mean %"] == pytest.approx(100 * (row["seed 0"] + row["seed 1"]) / 2 / row["test images"])


def test_mask_gradient(run_main, strong_root):
    run = run_main("benchmarks/mask_gradient.py", *CHOSEN, root=strong_root)
    rows = result_of(run, strong_root, "mask_gradient")["comparison"]
    assert [row["what"].split()[-1] for row in rows] == ["float32", "bfloat16"]


def test_convolution(run_main, root_dir):
    run = run_main("benchmarks/convolution.py", *CHOSEN, root=root_dir)
    rows = result_of(run, root_dir, "convolution")["layers"]
    assert [row["side"] for row in rows] == [32, 32, 16, 16, 8, 8, 8, 4, 4, 4, 2, 2, 2] * 2
    assert [row["banded us"] != "" for row in rows] == [row["side"] <= 4 for row in rows]
    assert [row["filtered us"] != "" for row in rows] == [row["precision"] == "float32" for row in rows]


def test_growth(run_main, strong_root):
    run = run_main("benchmarks/growth.py", *CHOSEN, root=strong_root)
    result = result_of(run, strong_root, "growth")
    points = [(row["grows"], row["population"], row["images"], row["classes"]) for row in result["scoring"]]
    assert points == [
        *(("population", 3, 40, 5), ("population", 6, 40, 5)),
        *(("images", 3, 40, 5), ("images", 3, 80, 5)),
        *(("classes", 3, 40, 5), ("classes", 3, 40, 10)),
    ]


def test_scoring(strong_root):
    run = run_script("benchmarks/scoring.py", *CHOSEN, root=strong_root)
    result = result_of(run, strong_root, "scoring")
    (alone,) = result["alone"]
    assert 0 < alone["peak increase GiB"] + 0.01 < alone["peak GiB"]
    assert alone["final ensembles"] == 500


def test_cores(strong_root):
    run = run_script("benchmarks/cores.py", *CHOSEN, "--threads", 2, root=strong_root)
    assert run.exit_code == 0, run.stderr
    path = strong_root / "data" / "benchmark" / "simcnn_x0_25_digits" / "cores.json"
    rows = json.loads(path.read_text())["arrangements"]
    assert [(row["processes"], row["threads each"]) for row in rows] == [(2, 1), (1, 2), (2, 2)] * 2


def test_generation(run_main, strong_root):
    command = "benchmarks/generation.py"
    missing = run_main(command, *CHOSEN, *TINY_SEARCH, root=strong_root)
    missing.refused("expected a search of two generations", "run python scripts/run_module_search.py")
    run_main("preprocess/kernel_importance_analyzer.py", *CHOSEN[:4], root=strong_root)
    for generations in ("generations=0", "generations=1"):  # one after the other, so that nobody waits
        search = (*CHOSEN[:4], *TINY_SEARCH, "--set", generations)
        for script, more in (("module_explorer.py", ("--target_class", *range(10))), ("module_recorder.py", ())):
            part = run_main(script, *search, *more, root=strong_root)
            assert part.exit_code == 0, part.stderr
    run = run_main(command, *CHOSEN, *TINY_SEARCH, root=strong_root)
    (life,) = result_of(run, strong_root, "generation")["generation"]
    assert life["as recorded"] is True
    assert life["chromosomes"] == 40
    assert life["had to run"] <= 20  # two of four are elites
    assert life["distinct prefixes"] < life["conv layers"]


@pytest.mark.parametrize(
    "option", [("--images", "0"), ("--images", "many"), ("--threads", "-1"), ("--generation", "x")]
)
def test_wrong_options_are_refused(run_main, root_dir, option):
    script = "generation" if option[0] == "--generation" else "importance"
    run = run_main(f"benchmarks/{script}.py", *CHOSEN, *option, root=root_dir)
    run.refused(option[0])


def test_run_all_names_every_command():
    defined = {path.stem for path in FOLDER.glob("*.py") if "run(main)" in path.read_text(encoding="utf-8")}
    commands = runpy.run_path(str(FOLDER / "run_all.py"), run_name="run_all")["COMMANDS"]
    assert set(commands) == defined - {"run_all"}


def small_network() -> tuple[CNN, Images]:
    """Three classes, a tied layer, a pool; looks trained on noise with colours."""
    torch.manual_seed(0)
    architecture = Architecture((Conv(6, pool=True), Conv(6, add=0), Conv(8, pool=True)), hidden=(10,))
    model, images = CNN(architecture, 3), random_images(90, 3)
    fit_last_layer(model, images, 3)
    return model, images


def test_naive_outputs_are_the_populations():
    model, images = small_network()
    random = np.random.default_rng(0)
    tied = random.random((4, 6)) < 0.6
    masks = np.concatenate([tied, tied, random.random((4, 8)) < 0.6], axis=1)
    masks[:, [0, 6, 12]] = True
    fast = population_outputs(model, masks, [0, 1, 2, 0], normalise(torch.tensor(images.pixels)))
    slow = [
        neighbour("naive").module_outputs(model, mask, c, images, torch.device("cpu"))
        for mask, c in zip(masks, [0, 1, 2, 0], strict=True)
    ]
    assert np.abs(fast).max() > 1
    np.testing.assert_allclose(fast, slow, atol=1e-4)


@settings(max_examples=30)
@given(
    num_classes=st.integers(2, 6),
    population=st.integers(1, 4),
    images=st.integers(1, 30),
    levels=st.sampled_from([2, 5, 1000]),  # few levels: many ties
    survivors=st.integers(1, 12),
    threshold=st.floats(0, 1),
    protect=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_naive_tournament_is_the_tournament(
    num_classes, population, images, levels, survivors, threshold, protect, seed
):
    random = np.random.default_rng(seed)
    labels = random.integers(num_classes, size=images)
    outputs = [random.integers(levels, size=(population, images)).astype(np.float32) for _ in range(num_classes)]
    masks = [random.random((population, 12)) < 0.5 for _ in range(num_classes)]
    rules = ScoringRules({2: threshold, 4: threshold / 2}, min(2, survivors), survivors, 0.9, 0.1)
    protected = random.integers(population, size=num_classes).tolist() if protect else None
    arguments = (outputs, masks, labels, rules)
    if not all((labels == target_class).any() for target_class in range(num_classes)):
        return  # an accuracy over no images is nobody's
    fast = score_population(*arguments, seed=seed, generation=1, protected=protected, threads=1)
    slow = neighbour("naive").tournament(*arguments, seed=seed, generation=1, protected=protected)
    assert neighbour("scoring").equal(fast, slow)


def test_a_search_finds_the_same_populations_naively():
    model, images = small_network()
    classes = range(3)
    config = load("simcnn_x0_25", "digits", ["population=6", "parents=3", "elites=2", "sensitive_layers=1"])
    layout = genome_layout(model.architecture.num_kernels, model.architecture.tied_to, config)
    groups = [kernel_groups(layout, np.random.default_rng(c).random(20)) for c in classes]
    pixels = normalise(torch.tensor(images.pixels))
    naive, cpu = neighbour("naive"), torch.device("cpu")
    ways = {
        "naive": (
            lambda masks, c: np.stack([naive.module_outputs(model, mask, c, images, cpu) for mask in masks]),
            naive.tournament,
        ),
        "fast": (lambda masks, c: population_outputs(model, masks, [c] * len(masks), pixels), score_population),
    }
    found = {}
    for name, (evaluate, score) in ways.items():
        populations = [first_population(layout, config, 0, c) for c in classes]
        for generation in range(3):
            masks = [groups[c].decode(populations[c]) for c in classes]
            outputs = [evaluate(masks[c], c) for c in classes]
            scores = score(outputs, masks, images.labels, scoring_rules(config, None), seed=0, generation=generation)
            populations = [
                next_generation(populations[c], scores.fitness[c], config, 0, c, generation + 1) for c in classes
            ]
        found[name] = np.stack(populations)
    assert len(np.unique(found["fast"].reshape(18, -1), axis=0)) > 6
    np.testing.assert_array_equal(found["naive"], found["fast"])


def test_turns_are_taken_and_ratios_are_per_unit():
    measuring = neighbour("measuring")
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
        neighbour("measuring").must_agree(False, "outputs by 3")
