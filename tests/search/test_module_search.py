"""The module search as a user runs it: same seed, same files, whatever the number of processes and their order."""

import importlib.util
import json
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TOP, Run, environment, files_below, keep_few_images, largest_file, run_here, run_script
from faults import processes_of
from random_modules import extract_module
from shuffled_engine import ShuffledEngine

import global_configure
import modules.fast.convolution
import modules.population_outputs
from configures.base import load
from dataset.images import normalise
from dataset.splits import load_split
from models import files as model_files
from models.graph import Graph
from models.opening import Stage
from models.strong_model import graph_of, load_strong_model
from modules import files as module_files
from modules.module_sets import latest_name, open_set, read_set
from search.genetic import chunks
from search.genetic import files as genetic_files
from search.genetic.generations import GeneticSearch, bytes_of_search, open_search
from search.genetic.kernel_groups import genome_layout, kernel_groups
from search.genetic.log import SearchEnd
from search.genetic.on_engine import search_on_engine
from utils.artifacts import Artifacts
from utils.device import this_node
from utils.files import save_array
from utils.given_places import readable

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("module search")]
MODEL, DATASET, NUM_CLASSES, GENERATIONS = "simcnn_x0_25", "digits_5", 5, 3
NAMES = ["--model", MODEL, "--dataset", DATASET]
SETTINGS = ["population=6", "parents=4", "elites=2", "search_images=60", "survivors_min=4", "survivors_max=20"]
SMALL = [*NAMES, *(word for setting in SETTINGS for word in ("--set", setting))]
WHOLE = [*SMALL, "--set", f"generations={GENERATIONS}"]
EXPLORER, RECORDER, LAUNCHER = "module_explorer.py", "module_recorder.py", "scripts/run_module_search.py"
PATIENCE = 300  # seconds that a test waits for processes on a busy machine
Main = Callable[..., Run]


def artifacts_of(root: Path) -> Artifacts:
    return Artifacts(root, MODEL, DATASET)


def found(root: Path) -> dict[str, bytes]:
    """What a search finds: all its arrays, and the modules."""
    folder = artifacts_of(root).folder
    modules = folder / "modules" / latest_name(artifacts_of(root)) if (folder / "modules").exists() else folder / "none"
    return {
        f"{name}/{path}": content
        for name, place in (("ga", folder / "ga"), ("modules", modules))
        for path, content in files_below(place).items()
        if path.startswith(("gen_", "class_"))
    }


def start(root: Path, path: str, *args: str) -> subprocess.Popen[str]:
    """A script in the background."""
    return subprocess.Popen(
        [sys.executable, str(TOP / path), *args],
        env=environment(root, CNNMOD_WAIT_LIMIT="200"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def ready(strong_roots: Callable[[str, str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root_dir with a strong model and its kernels' importance."""
    root = tmp_path_factory.mktemp("ready") / "root"
    shutil.copytree(strong_roots(MODEL, DATASET), root)
    keep_few_images(root)
    done = run_here("preprocess/kernel_importance_analyzer.py", *NAMES, root=root)
    assert done.exit_code == 0, done
    return root


@pytest.fixture(scope="module")
def reference(ready: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole search by one explorer, started from the launcher's own folder."""
    root = tmp_path_factory.mktemp("reference") / "root"
    shutil.copytree(ready, root)
    done = run_script(LAUNCHER, *WHOLE, "--jobs", "1", root=root, cwd=TOP / "scripts", timeout=PATIENCE)
    assert done.exit_code == 0, done
    (root / "launcher.txt").write_text(done.stdout)
    return root


@pytest.fixture
def root(ready: Path, tmp_path: Path) -> Path:
    """Ready for a search."""
    return Path(shutil.copytree(ready, tmp_path / "root"))


@pytest.fixture
def searched(reference: Path, tmp_path: Path) -> Path:
    """After a whole search."""
    return Path(shutil.copytree(reference, tmp_path / "root"))


@pytest.fixture(autouse=True)
def one_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting for anybody in this process."""
    monkeypatch.setattr(global_configure, "wait_limit", 1)


def explore_and_record(
    run_main: Main, root: Path, until: int, *, explorers: Sequence[Sequence[int]] = (range(5),), since: int = 0
) -> Run:
    """A search in this process: in each generation the explorers of these classes, one after the other, then the
    recorder, which waits for nobody and writes modules of the last generation alone."""
    for generation in range(since, until + 1):
        settings = [*SMALL, "--set", f"generations={generation}"]
        for target_classes in explorers:
            done = run_main(EXPLORER, *settings, "--target_class", *target_classes, root=root)
            assert done.exit_code == 0, done
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(global_configure, "wait_limit", 0)
            recorded = run_main(RECORDER, *SMALL, "--set", f"generations={until}", root=root)
        if generation < until:
            recorded.refused(f"generation {generation + 1} of class 0, 1, 2, 3, 4", exit_code=3)
    assert recorded.exit_code == 0, recorded
    return recorded


def test_every_setting_of_a_stage_stands_beside_its_files(reference):
    artifacts, config = artifacts_of(reference), load(MODEL, DATASET, SETTINGS)
    recorded = {
        "genetic search": genetic_files.settings(artifacts),
        "importance": module_files.importance_settings(artifacts),
    }
    for stage, file in recorded.items():
        settings, made_with = file.load(), json.loads(json.dumps(config.part_of(stage)))
        assert settings == {**settings, **made_with}


def test_the_files_of_a_search(reference):
    artifacts, config = artifacts_of(reference), load(MODEL, DATASET)
    names = [f"gen_{g:03d}_exp_{c}_pop.npy" for g in range(4) for c in range(5)]
    names += [f"gen_{g:03d}_exp_{c}_outputs.npy" for g in (2, 3) for c in range(5)]  # keep_outputs = 2
    names += [f"gen_{g:03d}_fitness.npy" for g in range(4)]
    names += ["search_log.csv", "settings.json", "end.json"]
    assert sorted(path.name for path in genetic_files.folder(artifacts).iterdir() if path.is_file()) == sorted(names)
    rows = genetic_files.log(artifacts).load()
    assert [row.generation for row in rows] == [0, 1, 2, 3]
    for row in rows:
        fitness = np.load(genetic_files.fitness(artifacts, row.generation).path)
        assert fitness.shape == (5, 6)
        assert fitness.dtype == np.float64
        assert row.mean_fitness == fitness.mean()
        best = [fitness[c, chromosome] for c, chromosome in enumerate(row.ensemble)]
        assert best == [fitness.max()] * 5
        assert row.fitness == 0.9 * row.accuracy + (1 - 0.9) * row.distance
    assert np.load(genetic_files.outputs(artifacts, 3, 0).path).shape == (6, 60)
    assert genetic_files.end(artifacts).load_if_there() == SearchEnd(3, 3, False)

    best, modules = max(rows, key=lambda row: row.fitness), read_set(config, artifacts, "genetic")
    strong = load_strong_model(config, artifacts, torch.device("cpu"))
    units, layout = strong.units, genome_layout(strong.units, config)
    importance = np.load(module_files.kernel_importance(artifacts).path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(global_configure, "root_dir", reference)
        split = load_split(config)
    images = normalise(torch.tensor(split.valid.pixels), split.valid.normalisation)
    logits = []
    for c, chromosome in enumerate(best.ensemble):
        population = np.load(genetic_files.population(artifacts, best.generation, c).path)
        mask = units.spread(kernel_groups(layout, importance[c]).decode(population)[chromosome])
        assert np.array_equal(modules.mask(c), mask)
        with torch.no_grad():
            logits.append(extract_module(strong, mask, c)(images)[:, 0].numpy())
    right = np.stack(logits).argmax(0) == split.valid.labels
    assert best.accuracy == right[:60].mean()
    report = json.loads((modules.folder / "set.json").read_text())
    assert report["valid_right_composed"] == right.sum()
    assert report["valid_images"] == len(right)
    assert report["kernels_kept"] == [int(kept) for kept in modules.masks().sum(1)]
    assert report["search"]["generation"] == best.generation

    printed = (reference / "launcher.txt").read_text()
    assert f"modules of generation {best.generation}, ensemble {' '.join(map(str, best.ensemble))}" in printed
    assert f"({right.sum()})" in printed
    assert "mean Jaccard distance" in printed
    assert printed.count("warning: decisions rest on 60 validation images") == 1
    assert printed.count("\ngeneration ") == 4
    assert processes_of(reference) == []


@pytest.mark.parametrize("until", [0, pytest.param(GENERATIONS - 1, marks=pytest.mark.long)])
def test_an_explorer_per_class_finds_the_same_in_any_order(root, reference, run_main, until):
    explore_and_record(run_main, root, until, explorers=[[3], [0], [4], [1], [2]])
    explore_and_record(run_main, root, GENERATIONS, explorers=[[2, 4], [1, 0, 3]], since=until + 1)
    assert found(root) == found(reference)
    before = found(root)
    again = run_main(RECORDER, *WHOLE, root=root)
    assert "going on after generation 3" in again.stdout
    assert found(root) == before


@pytest.mark.parametrize("workers", [3, *(pytest.param(workers, marks=pytest.mark.long) for workers in (1, 100))])
def test_a_driver_finds_the_same_whatever_chunks_there_are_and_in_which_order_they_come(
    root, reference, monkeypatch, workers
):
    """Also where nodes die, and where it goes on after some generations."""
    monkeypatch.setattr(global_configure, "root_dir", root)
    monkeypatch.setattr(chunks, "LEAST_SECONDS", 0.0)
    engine = ShuffledEngine(count=workers, seed=workers)
    if workers == 3:
        engine.nodes["elsewhere"] = replace(this_node(), processor="an older one")
    for generations in (1, GENERATIONS):
        config = load(MODEL, DATASET, [*SETTINGS, f"generations={generations}"])
        stage = Stage(config, artifacts_of(root), torch.device("cpu"), torch.float32, global_configure.seed)
        search = open_search(stage)
        rows = search.start(fresh=False, checkpoint=None, patience=None)
        assert len(rows) == (0 if generations == 1 else 2)
        search_on_engine(search, rows, None, engine, None)
    assert "died" in engine.log
    noticed = read_set(config, artifacts_of(root), "genetic").record.search.get("mixed_processors", [])
    assert ("an older one" in noticed) == (len(noticed) == 2) == (workers == 3)
    assert found(root) == found(reference)
    assert genetic_files.end(artifacts_of(root)).load_if_there() == SearchEnd(3, 3, False)


@pytest.mark.parametrize("own_process", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_driver_with_processes_of_this_machine_goes_on_and_finds_the_same(
    searched, reference, run_main, own_process, monkeypatch
):
    artifacts = artifacts_of(searched)
    genetic_files.end(artifacts).remove()
    genetic_files.fitness(artifacts, 3).remove()
    damage(genetic_files.outputs(artifacts, 3, 1).path)
    genetic_files.outputs(artifacts, 3, 2).remove()
    words = (LAUNCHER, *WHOLE, "--engine", "local", "--jobs")
    if own_process:
        done = run_script(*words, "2", root=searched, timeout=PATIENCE)
    else:
        monkeypatch.setattr(global_configure, "wait_limit", PATIENCE)
        done = run_main(*words, "1", root=searched)
    assert done.exit_code == 0, done
    assert "going on after generation 2" in done.stdout
    workers = "2 processes" if own_process else "1 process"
    assert f"{workers} of this machine" in done.stdout and " chromosomes/s, at most 0 s left" in done.stdout
    assert found(searched) == found(reference)
    if own_process:  # whose environment names its root, as that of its workers does
        assert processes_of(searched) == []


def test_wrong_engines_are_refused(root, run_main, monkeypatch):
    run_main(LAUNCHER, *WHOLE, "--address", "auto", root=root).refused("--address auto: only with --engine ray")
    run_main(LAUNCHER, *WHOLE, "--engine", "dask", root=root).refused("--engine")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    run_main(LAUNCHER, *WHOLE, "--engine", "ray", root=root).refused('Ray is not installed; type: pip install "ray')
    assert not genetic_files.folder(artifacts_of(root)).exists()


def test_another_seed_finds_another(root, reference, run_main, monkeypatch):
    monkeypatch.setattr(global_configure, "seed", global_configure.seed + 1)
    done = run_main(EXPLORER, *SMALL, "--set", "generations=0", "--target_class", *range(5), root=root)
    assert done.exit_code == 0, done
    other, first = found(root), found(reference)
    for target_class in range(5):
        name = f"ga/gen_000_exp_{target_class}_pop.npy"
        assert other[name] != first[name]


@pytest.mark.long
def test_the_launcher_goes_back(searched, reference):
    """Also where the old search has ended: no explorer may take that for the end of this one."""
    artifacts = artifacts_of(searched)
    inode = genetic_files.population(artifacts, 1, 0).path.stat().st_ino
    args = [*WHOLE, "--jobs", "1", "--checkpoint", "0"]
    done = run_script(LAUNCHER, *args, root=searched, env={"CNNMOD_WAIT_LIMIT": "90"}, timeout=PATIENCE)
    assert done.exit_code == 0, done
    assert found(searched) == found(reference)
    assert genetic_files.population(artifacts, 1, 0).path.stat().st_ino != inode
    assert len(genetic_files.log(artifacts).load()) == 4


@pytest.mark.long
def test_recorder_and_explorers_go_back(searched, reference, run_main):
    artifacts = artifacts_of(searched)
    back = ("--checkpoint", "1")
    waiting = run_main(EXPLORER, *WHOLE, *back, "--target_class", "0", root=searched)
    waiting.refused("the recorder (not running) to go back to generation 1", "module_recorder.py", exit_code=3)
    assert found(searched) == found(reference)
    recorded = run_main(RECORDER, *WHOLE, *back, root=searched)
    recorded.refused("generation 2 of class 0, 1, 2, 3, 4", "module_explorer.py", exit_code=3)
    assert "going on after generation 1" in recorded.stdout
    assert not genetic_files.end(artifacts).exists()
    later = [name for name in found(searched) if name.startswith(("ga/gen_002", "ga/gen_003"))]
    assert later == []
    explored = run_main(EXPLORER, *WHOLE, *back, "--target_class", *range(5), root=searched)
    explored.refused("the recorder's fitness of generation 2", exit_code=3)
    explore_and_record(run_main, searched, GENERATIONS, since=2)
    assert found(searched) == found(reference)


def test_a_search_goes_on_after_any_file_but_the_last_is_there(searched, reference, run_main):
    """What a crash can leave: the files of a generation up to any point."""
    artifacts = artifacts_of(searched)
    genetic_files.end(artifacts).path.unlink()
    genetic_files.fitness(artifacts, 3).path.unlink()  # the row is in the log already
    for target_class in (1, 2):
        genetic_files.outputs(artifacts, 3, target_class).path.unlink()
    genetic_files.population(artifacts, 3, 2).path.unlink()
    (genetic_files.folder(artifacts) / ".gen_003_exp_2_pop.npy.123.partial").write_bytes(b"half")
    genetic_files.outputs(artifacts, 1, 0).path.write_bytes(
        genetic_files.outputs(artifacts, 2, 0).path.read_bytes()
    )  # was about to be removed
    explored = run_main(EXPLORER, *WHOLE, "--target_class", *range(5), root=searched)
    assert explored.exit_code == 0, explored
    lines = [line for line in explored.stdout.splitlines() if line.startswith("generation")]
    assert [line.split(",")[0] for line in lines] == [f"generation 3: class {c}" for c in (1, 2)]
    assert all(int(line.split(", ")[1].split()[0]) <= 4 for line in lines)  # two elites are known
    assert run_main(RECORDER, *WHOLE, root=searched).exit_code == 0
    assert found(searched) == found(reference)


def test_known_modules_are_not_run_again(root, run_main, monkeypatch):
    run: list[np.ndarray] = []
    evaluate = modules.population_outputs.population_outputs

    def counted(graph: Graph, masks: np.ndarray, *others: object) -> np.ndarray:
        run.extend(masks)
        return evaluate(graph, masks, *others)

    monkeypatch.setattr(modules.population_outputs, "population_outputs", counted)
    explore_and_record(run_main, root, 1)
    assert 0 < len(run) <= 5 * 6 + 5 * 4
    assert len({mask.tobytes() for mask in run[:6]}) == 6


@pytest.mark.long
def test_early_stop_ends_a_search_that_can_go_on(root, run_main):
    artifacts = artifacts_of(root)
    explore_and_record(run_main, root, 0)
    (row,) = genetic_files.log(artifacts).load()
    (best,) = [type(row)(**{**vars(row), "fitness": 9.0})]  # what no later generation reaches
    genetic_files.log(artifacts).save([best])
    settings = [*SMALL, "--set", "generations=9", "--set", "patience=1"]
    assert run_main(EXPLORER, *settings, "--target_class", *range(5), root=root).exit_code == 3
    stopped = run_main(RECORDER, *settings, "--early_stop", root=root)
    assert stopped.exit_code == 0, stopped
    assert "modules of generation 0," in stopped.stdout
    assert genetic_files.end(artifacts).load_if_there() == SearchEnd(1, 9, True)
    over = run_main(EXPLORER, *settings, "--target_class", 0, root=root)
    assert over.exit_code == 0
    assert "class 0: nothing left to explore: the search has ended" in over.stdout
    assert run_main(RECORDER, *settings, "--early_stop", root=root).exit_code == 0
    # Without early stop, or with more patience, there is more to do, and the explorers see it.
    run_main(RECORDER, *settings, root=root).refused("generation 2 of class 0, 1, 2, 3, 4", exit_code=3)
    assert not genetic_files.end(artifacts).exists()
    run_main(EXPLORER, *settings, "--target_class", 0, root=root).refused("fitness of generation 2", exit_code=3)


def test_modules_do_not_depend_on_generations_that_earlier_commands_scored(searched, run_main):
    artifacts, config = artifacts_of(searched), load(MODEL, DATASET)
    log = genetic_files.log(artifacts)
    log.save([replace(row, fitness=value) for row, value in zip(log.load(), (0.1, 0.3, 0.2, 0.9), strict=True)])
    for name, words, generation, scored, options in (
        ("first", ["--set", "generations=0"], 0, 1, []),
        ("two", ["--set", "generations=2"], 1, 3, []),
        ("early", ["--set", "patience=1", "--early_stop"], 1, 3, ["--early_stop"]),
        ("patient", ["--set", "patience=2", "--early_stop"], 3, 4, ["--early_stop"]),
        ("all", [], 3, 4, []),
    ):
        done = run_main(RECORDER, *WHOLE, *words, "--as", name, root=searched)
        assert f"modules of generation {generation}," in done.stdout, done
        record = open_set(config, artifacts, name).record.search
        assert (record["generation"], record["generations"], record["options"]) == (generation, scored, options)
        assert record["configured"].get("patience") == (int(words[1][-1]) if options else None)
    assert len(log.load()) == GENERATIONS + 1


def test_a_generation_and_an_ensemble_can_be_chosen(searched, run_main):
    artifacts, config = artifacts_of(searched), load(MODEL, DATASET)
    importance = np.load(module_files.kernel_importance(artifacts).path)
    units = graph_of(config).units
    layout = genome_layout(units, config)
    rows = genetic_files.log(artifacts).load()
    best = max(rows, key=lambda row: row.fitness)
    for chosen, generation, ensemble in (
        (["chosen_generation=0"], 0, rows[0].ensemble),
        (["chosen_ensemble=5,4,3,2,1"], best.generation, (5, 4, 3, 2, 1)),
        (["chosen_generation=1", "chosen_ensemble=0,5,0,5,0"], 1, (0, 5, 0, 5, 0)),
    ):
        done = run_main(RECORDER, *WHOLE, *(word for c in chosen for word in ("--set", c)), root=searched)
        assert f"modules of generation {generation}, ensemble {' '.join(map(str, ensemble))}" in done.stdout, done
        modules = open_set(config, artifacts)
        for c, chromosome in enumerate(ensemble):
            population = np.load(genetic_files.population(artifacts, generation, c).path)
            mask = units.spread(kernel_groups(layout, importance[c]).decode(population)[chromosome])
            assert np.array_equal(modules.mask(c), mask)
    before = files_below(searched)
    for chosen, message in (
        ("chosen_generation=4", "setting chosen_generation: expected a generation up to generations = 3, or -1"),
        ("chosen_ensemble=0,0,0,0,6", "setting chosen_ensemble: expected 5 chromosome indices below 6"),
        ("chosen_ensemble=0,0", "setting chosen_ensemble: expected 5 chromosome indices below 6"),
    ):
        run_main(RECORDER, *WHOLE, "--set", chosen, root=searched).refused(message)
    assert files_below(searched) == before


def test_fresh_sets_the_old_search_aside(searched, run_main):
    artifacts = artifacts_of(searched)
    old = files_below(genetic_files.folder(artifacts))
    other = [*WHOLE, "--set", "population=8"]
    fresh = run_main(RECORDER, *other, "--fresh", root=searched)
    fresh.refused("generation 0 of class 0, 1, 2, 3, 4", exit_code=3)
    aside = genetic_files.folder(artifacts).with_name("ga.old_1")
    assert str(aside) in fresh.stdout
    assert files_below(aside) == old
    assert sorted(path.name for path in genetic_files.folder(artifacts).iterdir()) == ["settings.json"]
    run_main(EXPLORER, *other, "--target_class", 0, root=searched).refused("fitness of generation 0", exit_code=3)
    for script in (RECORDER, LAUNCHER):
        before = files_below(searched)
        run_main(script, *other, "--fresh", "--checkpoint", 0, root=searched).refused("--fresh", "--checkpoint")
        assert files_below(searched) == before


def test_other_settings_are_refused(searched, run_main, monkeypatch):
    before = files_below(searched)
    for script, more in ((RECORDER, []), (EXPLORER, ["--target_class", 0])):
        line = run_main(script, *WHOLE, *more, "--set", "parents=3", "--set", "alpha=0.8", root=searched).refused(
            "ga was made with other settings", "run_module_search.py", "--fresh"
        )
        assert "(parents: 4 there, 3 now; alpha: 0.9 there, 0.8 now)" in line
    seed = global_configure.seed
    monkeypatch.setattr(global_configure, "seed", seed + 3)
    line = run_main(RECORDER, *WHOLE, root=searched).refused(f"(seed: {seed} there, {seed + 3} now)")
    assert files_below(searched) == before
    monkeypatch.setattr(global_configure, "seed", seed)
    file = module_files.kernel_importance(artifacts_of(searched))
    save_array(file.path, np.load(file.path) + 1)
    run_main(RECORDER, *WHOLE, root=searched).refused("(kernel_importance_sha256: ")


def test_a_search_goes_on_in_what_it_began_in(searched, reference, run_main, monkeypatch):
    monkeypatch.setattr(modules.fast.convolution, "has_tiles", lambda: True)  # so bfloat16 would be taken
    monkeypatch.setattr(global_configure, "precision", "bfloat16")
    for script, role in ((RECORDER, []), (EXPLORER, ["--target_class", "all"])):
        run_main(script, *WHOLE, *role, "--checkpoint", 1, root=searched)
    explore_and_record(run_main, searched, GENERATIONS, since=2)
    assert found(searched) == found(reference)

    settings = genetic_files.settings(artifacts_of(searched))
    settings.save({**settings.load(), "precision": "bfloat16"})
    monkeypatch.setattr(global_configure, "precision", "float32")
    run_main(RECORDER, *WHOLE, root=searched).refused("(precision: bfloat16 there, float32 now)")


def test_a_damaged_search_is_refused(searched, run_main):
    artifacts = artifacts_of(searched)
    for file, content in (
        (genetic_files.settings(artifacts), b"[]"),
        (genetic_files.settings(artifacts), b"{"),
        (genetic_files.end(artifacts), b"{}"),
        (genetic_files.log(artifacts), b"generation\n0\n"),
        (genetic_files.log(artifacts), genetic_files.log(artifacts).path.read_bytes().replace(b"\n3,", b"\n4,")),
    ):
        whole = file.path.read_bytes()
        file.path.write_bytes(content)
        run_main(RECORDER, *WHOLE, root=searched).refused(str(file.path))
        file.path.write_bytes(whole)
    rows = genetic_files.log(artifacts).load()
    for ensemble in ((0, 1, 2), (0, 1, 2, 3, 6), (-1, 0, 0, 0, 0)):
        genetic_files.log(artifacts).save([rows[0], replace(rows[1], ensemble=ensemble), *rows[2:]])
        run_main(RECORDER, *WHOLE, root=searched).refused("expected 5 chromosomes below 6")
    genetic_files.log(artifacts).save(rows[:2])
    run_main(RECORDER, *WHOLE, root=searched).refused("has 2 generations, 4 are scored")


def damage(path: Path) -> None:
    """Flip one bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_damaged_files_of_the_last_generation_are_made_again(searched, reference, run_main):
    """By the same commands: the explorer's files by it, the fitness by the recorder."""
    artifacts = artifacts_of(searched)
    genetic_files.end(artifacts).path.unlink()
    for file in (
        genetic_files.fitness(artifacts, 3),
        genetic_files.outputs(artifacts, 3, 0),
        genetic_files.population(artifacts, 3, 1),
        genetic_files.outputs(artifacts, 3, 1),
    ):
        damage(file.path)
    recorded = run_main(RECORDER, *WHOLE, root=searched)
    recorded.refused("generation 3 of class 0, 1 (not running)", exit_code=3)
    for file in (
        genetic_files.fitness(artifacts, 3),
        genetic_files.outputs(artifacts, 3, 0),
        genetic_files.outputs(artifacts, 3, 1),
    ):
        assert f"damaged, so removed and made again: {file.path}\n" in recorded.stdout
    explored = run_main(EXPLORER, *WHOLE, "--target_class", *range(5), root=searched)
    assert f"damaged, so removed and made again: {genetic_files.population(artifacts, 3, 1).path}\n" in explored.stdout
    assert run_main(RECORDER, *WHOLE, root=searched).exit_code == 0
    assert found(searched) == found(reference)


@pytest.mark.long
def test_a_damaged_population_of_any_generation_is_bred_again(searched, reference, run_main):
    artifacts = artifacts_of(searched)
    for generation in range(4):
        damage(genetic_files.population(artifacts, generation, 2).path)
        damage(genetic_files.population(artifacts, generation, 4).path)
    assert run_main(RECORDER, *WHOLE, "--set", "chosen_generation=3", root=searched).exit_code == 0
    populations = [name for name in found(reference) if name.endswith("_pop.npy")]
    assert {name: found(searched)[name] for name in populations} == {
        name: found(reference)[name] for name in populations
    }
    damage(genetic_files.population(artifacts, 3, 2).path)
    damage(genetic_files.fitness(artifacts, 2).path)
    again = run_main(RECORDER, *WHOLE, "--set", "chosen_generation=3", root=searched)
    assert again.exit_code == 0 and found(searched).items() >= {
        (name, content) for name, content in found(reference).items() if name.endswith(("_pop.npy", "_fitness.npy"))
    }, again
    back = ["--checkpoint", 1]
    run_main(RECORDER, *WHOLE, *back, root=searched).refused("generation 2 of class 0, 1, 2, 3, 4", exit_code=3)
    explore_and_record(run_main, searched, GENERATIONS, since=2)
    assert found(searched) == found(reference)


@pytest.mark.long
def test_a_damaged_file_is_made_again_while_the_search_runs(root, reference, run_main, monkeypatch):
    """The recorder sends it back to an explorer that waits."""
    artifacts = artifacts_of(root)
    explorer = start(root, EXPLORER, *WHOLE, "--target_class", "0", "1", "2", "3", "4")
    wait_for(genetic_files.outputs(artifacts, 0, 4).exists)
    damage(genetic_files.outputs(artifacts, 0, 1).path)
    monkeypatch.setattr(global_configure, "wait_limit", PATIENCE)
    recorded = run_main(RECORDER, *WHOLE, root=root)
    output, _ = explorer.communicate(timeout=PATIENCE)
    assert (recorded.exit_code, explorer.returncode) == (0, 0), (recorded, output)
    assert "files were taken back or removed: continuing with generation 0" in output
    assert found(root) == found(reference)


@pytest.mark.parametrize("is_damaged", [False, True], ids=["removed", "damaged"])
def test_a_lost_fitness_is_scored_again_and_later_ones_stay(searched, reference, run_main, monkeypatch, is_damaged):
    artifacts, lost = artifacts_of(searched), 1
    file = genetic_files.fitness(artifacts, lost)
    damage(file.path) if is_damaged else file.remove()
    monkeypatch.setattr(global_configure, "wait_limit", 0)
    for _ in range(2):
        run_main(RECORDER, *WHOLE, root=searched).refused(f"generation {lost} of class 0, 1, 2, 3, 4", exit_code=3)
    done = run_main(EXPLORER, *SMALL, "--set", f"generations={lost}", "--target_class", *range(5), root=searched)
    assert done.exit_code == 0, done
    done = run_main(RECORDER, *WHOLE, root=searched)
    assert done.exit_code == 0 and "going on after generation 0" in done.stdout, done
    again = {name: content for name, content in found(searched).items() if not name.startswith("ga/gen_001_exp")}
    assert again == {name: again.get(name) for name in found(reference) if not name.startswith("ga/gen_001_exp")}
    assert all(found(reference)[name] == content for name, content in again.items())
    assert len(genetic_files.log(artifacts).load()) == GENERATIONS + 1


def test_a_fitness_that_is_gone_for_a_moment_does_not_end_an_explorer(root, run_main, monkeypatch):
    """It is removed after the explorer has seen it, and is there again when it looks the next time."""
    explore_and_record(run_main, root, 0)
    fitness = genetic_files.fitness(artifacts_of(root), 0)
    content, bred, breed = fitness.path.read_bytes(), [], GeneticSearch.breed

    def breed_meanwhile(search: GeneticSearch, generation: int, target_class: int) -> np.ndarray:
        bred.append((generation, target_class))
        if len(bred) == 1:
            fitness.remove()
        elif not fitness.exists():
            fitness.path.write_bytes(content)
        return breed(search, generation, target_class)

    monkeypatch.setattr(GeneticSearch, "breed", breed_meanwhile)
    done = run_main(EXPLORER, *SMALL, "--set", "generations=1", "--target_class", *range(5), root=root)
    assert done.exit_code == 0 and "continuing with generation 0" in done.stdout, done
    assert bred[:2] == [(1, 0), (0, 0)]
    assert all(genetic_files.outputs(artifacts_of(root), 1, target_class).exists() for target_class in range(5))


@pytest.mark.long
def test_files_that_are_removed_as_they_appear_do_not_stop_a_search(root, reference):
    """The settings, a fitness, a population and outputs; also of the last generation."""
    artifacts = artifacts_of(root)
    victims = [
        genetic_files.settings(artifacts),
        genetic_files.fitness(artifacts, 1),
        genetic_files.population(artifacts, 2, 1),
        genetic_files.outputs(artifacts, GENERATIONS, 3),
    ]
    search = start(root, LAUNCHER, *WHOLE, "--jobs", "2")
    for victim in victims:
        wait_for(victim.exists)
        victim.remove()
    output, _ = search.communicate(timeout=PATIENCE)
    assert search.returncode == 0, output
    assert found(root) == found(reference) and genetic_files.settings(artifacts).exists()


@pytest.mark.long
def test_who_is_missing(root, run_main):
    artifacts = artifacts_of(root)
    explorer = start(root, EXPLORER, *WHOLE, "--target_class", "1", "3")
    try:
        wait_for(genetic_files.outputs(artifacts, 0, 3).exists)
        done = run_main(RECORDER, *WHOLE, root=root)
        line = done.refused("waited 1 s for generation 0 of class 0, 2, 4 (not running): python", exit_code=3)
        assert "class 1" not in line
        genetic_files.outputs(artifacts, 0, 3).path.unlink()
        explorer.send_signal(signal.SIGSTOP)
        genetic_files.outputs(artifacts, 0, 3).path.unlink(missing_ok=True)
        stopped = f"but stopped: `kill -CONT {explorer.pid}` continues it, `kill -KILL {explorer.pid}` ends it"
        state = f"class 3 (alive on {platform.node()}, pid {explorer.pid}, {stopped})"
        run_main(RECORDER, *WHOLE, root=root).refused(f"class 0, 2, 4 (not running); {state}: python", exit_code=3)
        refused = run_main(EXPLORER, *WHOLE, "--target_class", 2, 3, root=root)
        refused.refused("the explorer of class 3 of", "already running", f"{platform.node()}, pid {explorer.pid}")
        other = [*WHOLE, "--set", "alpha=0.8"]
        before = files_below(genetic_files.folder(artifacts))
        run_main(RECORDER, *other, "--fresh", root=root).refused("--fresh sets the search aside", f"pid {explorer.pid}")
        assert files_below(genetic_files.folder(artifacts)) == before
    finally:
        explorer.kill()
        explorer.communicate()
    state = f"class 3 (died on {platform.node()}, pid {explorer.pid})"
    run_main(RECORDER, *WHOLE, root=root).refused(f"class 0, 2, 4 (not running); {state}: python", exit_code=3)
    missing = run_main(EXPLORER, *WHOLE, "--target_class", 3, root=root)
    missing.refused("the recorder's fitness of generation 0 (not running): python module_recorder.py", exit_code=3)
    recorder = start(root, RECORDER, *WHOLE)
    lock = genetic_files.recorder_role(artifacts).lock
    wait_for(lock.exists)
    recorder.kill()
    recorder.wait()
    line = run_main(EXPLORER, *WHOLE, "--target_class", 3, root=root)
    line.refused(f"(died on {platform.node()}, pid {recorder.pid})", exit_code=3)
    recorder.communicate()


@pytest.mark.long
def test_one_recorder_and_one_launcher_at_a_time(root, run_main):
    artifacts = artifacts_of(root)
    launcher = start(root, LAUNCHER, *SMALL, "--set", "generations=500", "--jobs", "1")
    wait_for(genetic_files.explorer_role(artifacts, 4).lock.exists)
    wait_for(genetic_files.recorder_role(artifacts).lock.exists)
    for script, more, who in (
        (LAUNCHER, (), "the module search"),
        (LAUNCHER, ("--fresh",), "the module search"),
        (RECORDER, (), "the recorder"),
        (RECORDER, ("--fresh",), "the recorder"),
        (EXPLORER, ("--target_class", 2), "the explorer of class 2"),
    ):
        run_main(script, *SMALL, *more, root=root).refused(f"{who} of simcnn_x0_25_digits_5 is already running: python")
    # Killed, and typed again at once: the children that it left behind are waited for.
    launcher.kill()
    launcher.communicate()
    again = run_script(LAUNCHER, *WHOLE, "--set", "generations=1", "--jobs", "1", root=root, timeout=PATIENCE)
    assert again.exit_code == 0, again
    assert processes_of(root) == []
    assert not artifacts.locks_folder.exists() or list(artifacts.locks_folder.iterdir()) == []


def test_a_search_that_does_not_fit_on_the_disk_is_not_started(root, run_main, monkeypatch):
    before = files_below(root)
    usage = shutil.disk_usage(root)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=20_000))
    for script in (RECORDER, LAUNCHER):
        done = run_main(script, *WHOLE, root=root)
        done.refused("ga: 45 KiB are needed, 20 KiB are free: lower generations, population or search_images, or")
        assert "the search takes at most 45 KiB below" in done.stdout
    assert files_below(root) == before


@pytest.mark.parametrize(("free", "is_warned"), [(2**20, True), (2**30, False)])
def test_modules_that_may_not_fit_are_announced_before_the_start(root, monkeypatch, capsys, free, is_warned):
    usage, artifacts = shutil.disk_usage(root), artifacts_of(root)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=free))
    monkeypatch.setattr(global_configure, "root_dir", root)
    config = load(MODEL, DATASET, [*SETTINGS, f"generations={GENERATIONS}"])
    open_search(Stage(config, artifacts, torch.device("cpu"), torch.float32, 0)).check_room()
    said = capsys.readouterr().out
    size = 5 * model_files.entire_model(artifacts).path.stat().st_size
    assert f"its modules take at most {readable(size)} below {artifacts.folder / 'modules'}" in said
    assert ("warning: 1.0 MiB are free: the modules may not fit when the search ends" in said) == is_warned


def test_what_a_search_takes(searched):
    """Never less than what is there, and not much more."""
    config = replace(load(MODEL, DATASET, SETTINGS), generations=GENERATIONS)
    layout = genome_layout(graph_of(config).units, config)
    there = sum(path.stat().st_size for path in genetic_files.folder(artifacts_of(searched)).glob("gen_*"))
    estimated = bytes_of_search(config, layout.num_genes, 60)
    outputs = (
        5 * genetic_files.outputs(artifacts_of(searched), 3, 0).path.stat().st_size
    )  # a new generation's before the oldest goes
    assert there <= estimated <= there + outputs + 1000


def test_a_full_disk_ends_explorer_and_recorder_with_a_line(root, reference, run_main):
    """The limit on a file's size stands in for it: locks and settings fit, arrays do not."""
    settings = [*SMALL, "--set", "generations=0"]
    for script, more, limit, file in (
        (EXPLORER, ["--target_class", *range(5)], 1550, "gen_000_exp_0_outputs.npy"),
        (RECORDER, [], 100_000, "class_0.pth"),
    ):
        before = files_below(root)
        with largest_file(limit):
            done = run_main(script, *settings, *more, root=root)
        done.refused(f"{file}: File too large; make room or change its permissions")
        new = {name for name in files_below(root) if name not in before}
        assert not any(name.endswith(file) for name in new)
        assert not [name for name in new if "partial" in name or name.endswith(".lock")], new
        done = run_main(script, *settings, *more, root=root)
        assert done.exit_code == 0, done
    for name, content in found(root).items():
        if name.startswith("ga/gen_000") and not name.endswith("outputs.npy"):
            assert found(reference)[name] == content


def test_bad_input_is_one_line(ready, tmp_path, run_main, monkeypatch):
    before = files_below(ready)
    zero = ["--target_class", 0]
    for script, args, expected in (
        (EXPLORER, [*WHOLE, "--target_class", 5], "--target_class 5: expected a class from 0 to 4"),
        (EXPLORER, [*WHOLE, "--target_class", -1], "--target_class -1: expected a class from 0 to 4"),
        (
            EXPLORER,
            [*WHOLE, "--target_class", "x"],
            "--target_class x: expected a class from 0 to 4, or its name; they are 0 (0)",
        ),
        (EXPLORER, WHOLE, "the following arguments are required: --target_class"),
        (EXPLORER, [*WHOLE, *zero, "--set", "sensitive_layers=13"], "sensitive_layers 13: expected conv layers from 0"),
        (LAUNCHER, [*WHOLE, "--jobs", 0], "--jobs 0: expected at least 1"),
        (LAUNCHER, [*WHOLE, "--jobs", -2], "--jobs -2: expected at least 1"),
        (LAUNCHER, [*WHOLE, "--checkpoint", 0], "--checkpoint 0: expected a scored generation; no generation is there"),
        ("preprocess/layer_sensitivity_analyzer.py", [*NAMES, "--target_conv", 13], "expected a conv layer from 0 to"),
        ("preprocess/layer_sensitivity_analyzer.py", [*NAMES, "--target_conv", -1], "expected a conv layer from 0 to"),
        ("scripts/run_layer_sensitivity_analyzer.py", [*NAMES, "--set", "sensitive_layers=99"], "sensitive_layers 99"),
    ):
        run_main(script, *args, root=ready).refused(expected)
    monkeypatch.setattr(global_configure, "explorer_threads", 0)
    run_main(EXPLORER, *WHOLE, *zero, root=ready).refused("explorer_threads 0: expected at least 1")
    assert files_below(ready) == before


def test_a_checkpoint_that_is_not_there_is_refused(searched, run_main):
    before = files_below(searched)
    for script, more in ((RECORDER, []), (EXPLORER, ["--target_class", 0]), (LAUNCHER, [])):
        for checkpoint in (-1, 4):
            done = run_main(script, *WHOLE, *more, "--checkpoint", checkpoint, root=searched)
            done.refused(f"--checkpoint {checkpoint}: expected a scored generation; generations 0 to 3 are there")
    assert files_below(searched) == before


def test_a_stage_before_the_one_it_needs_names_the_command(strong_roots, tmp_path, run_main):
    without_importance = Path(shutil.copytree(strong_roots(MODEL, DATASET), tmp_path / "strong"))
    for root, command in (
        (tmp_path, "python train.py"),
        (without_importance, "python preprocess/kernel_importance_analyzer.py"),
    ):
        before = files_below(root)
        for script, more in (
            (EXPLORER, [*WHOLE, "--target_class", 0]),
            (RECORDER, [*WHOLE, "--fresh"]),
            (LAUNCHER, [*WHOLE, "--fresh"]),
            ("preprocess/layer_sensitivity_analyzer.py", [*NAMES, "--target_conv", 0]),
            ("scripts/run_layer_sensitivity_analyzer.py", NAMES),
        ):
            run_main(script, *more, root=root).refused("missing", f"first run: {command} {' '.join(NAMES)}")
        assert files_below(root) == before
    run_main("preprocess/kernel_importance_analyzer.py", *NAMES, root=tmp_path).refused("python train.py")


@pytest.mark.long
def test_an_explorer_that_fails_ends_all(root):
    file = genetic_files.population(artifacts_of(root), 0, 4)
    file.path.mkdir(parents=True)  # what no explorer can fix
    done = run_script(LAUNCHER, *WHOLE, "--jobs", "1", root=root, timeout=PATIENCE)
    line = done.refused("(explorer_0 ended with exit code 2; whole log: ", "explorer_0.log")
    assert line.startswith(f"error: cannot read {file.path}: "), line
    assert processes_of(root) == []


@pytest.mark.long
@pytest.mark.parametrize("again", [0, 3])
def test_a_terminated_launcher_leaves_no_process_behind(root, again):
    """Nor where it is terminated once more, and once more, while it ends its children."""
    launcher = start(root, LAUNCHER, *SMALL, "--set", "generations=500", "--jobs", "1")
    wait_for(genetic_files.fitness(artifacts_of(root), 0).exists)
    assert len(processes_of(root)) == 3
    launcher.send_signal(signal.SIGTERM)
    for _ in range(again):
        time.sleep(0.02)
        launcher.send_signal(signal.SIGTERM)
        launcher.send_signal(signal.SIGINT)
    output, _ = launcher.communicate(timeout=PATIENCE)
    assert launcher.returncode == 143, output
    assert "Traceback" not in output
    assert processes_of(root) == []
