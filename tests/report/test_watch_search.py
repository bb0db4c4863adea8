"""The live view of a search, from the files that a search leaves at every moment."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Run

from configures.base import load
from report.search_view import SearchView, look, view_lines
from search.genetic import files as genetic_files
from search.genetic.log import Generation, SearchEnd
from utils.artifacts import Artifacts

MODEL, DATASET = "simcnn_x0_25", "digits"
CONFIG = load(MODEL, DATASET)  # 10 classes, 15 generations after the first population
SCRIPT = ("scripts/watch_search.py", "--model", MODEL, "--dataset", DATASET)


def generation(number: int, accuracy: float, seconds: float = 4.0) -> Generation:
    return Generation(number, accuracy, 0.4, accuracy, 0.6, 0.2, 50, 1000, (0,) * 10, seconds)


@pytest.fixture
def artifacts(root_dir: Path) -> Artifacts:
    return Artifacts(root_dir, MODEL, DATASET)


def start(artifacts: Artifacts, *rows: Generation, populations: int = 0, outputs: int = 0) -> SearchView:
    """Files of a search with these generations scored and so many classes' files of the next one."""
    if rows:
        genetic_files.log(artifacts).save(list(rows))
    for target_class in range(populations):
        genetic_files.population(artifacts, len(rows), target_class).save(np.zeros((2, 3)))
    for target_class in range(outputs):
        genetic_files.outputs(artifacts, len(rows), target_class).save(np.zeros((2, 3)))
    return look(CONFIG, artifacts)


def test_before_there_is_a_search(artifacts: Artifacts, run_main: Callable[..., Run]) -> None:
    assert view_lines(look(CONFIG, artifacts)) == ["no search yet"]
    done = run_main(*SCRIPT, "--once", root=artifacts.root_dir)
    assert done.exit_code == 0
    assert f"start one with: python scripts/run_module_search.py --model {MODEL} --dataset {DATASET}" in done.stdout


def test_the_first_generation_has_no_time_left_to_tell(artifacts: Artifacts) -> None:
    lines = view_lines(start(artifacts, populations=3, outputs=2))
    assert lines[0].endswith("0 of 16 generations scored") and "#" not in lines[0]
    text = " ".join(line.strip() for line in lines)
    assert "outputs of 2 of 10 classes are there; explorers run the modules of class 2; class 3, 4, 5, 6" in text
    assert "time left: known after the first generation" in lines


def test_a_search_under_way(artifacts: Artifacts) -> None:
    rows = [generation(0, 0.5, 60.0), *(generation(number, 0.9 - number / 100) for number in range(1, 4))]
    view = start(artifacts, *rows, populations=10, outputs=10)
    assert view.seconds_left == 12 * 4.0  # the median pace: the first generation took longer
    text = "\n".join(view_lines(view))
    assert "4 of 16 generations scored" in text
    assert "last:\ngeneration   3  accuracy 87.00%" in text and "best:\ngeneration   1  accuracy 89.00%" in text
    assert max(map(len, text.splitlines())) <= 80
    assert "generations without a better ensemble: 2" in text
    assert "generation 4: all outputs are there, the recorder scores them" in text
    assert "time left: at most 48 s" in text


def test_a_search_that_has_gone_quiet_shows_it(artifacts: Artifacts) -> None:
    start(artifacts, generation(0, 0.5))
    for path in genetic_files.folder(artifacts).iterdir():
        os.utime(path, (1e9, 1e9))
    assert look(CONFIG, artifacts).seconds_since_change > 1e8  # type: ignore[operator]


@pytest.mark.parametrize(("early_stop", "words"), [(True, "for want of improvement"), (False, "all generations")])
def test_the_end_ends_the_watch(
    artifacts: Artifacts, run_main: Callable[..., Run], early_stop: bool, words: str
) -> None:
    start(artifacts, generation(0, 0.5), generation(1, 0.75))
    genetic_files.end(artifacts).save(SearchEnd(1, 15, early_stop))
    done = run_main(*SCRIPT, root=artifacts.root_dir)  # without --once: it must end by itself
    assert done.exit_code == 0
    lines = done.stdout.splitlines()[1:]
    told = [line[:14] for line in lines if line.startswith("generation")]
    assert told == ["generation   0", "generation   1"]  # plain lines: no terminal
    assert lines[-1].startswith("the search is over") and words in lines[-1]
    assert "\x1b" not in done.stdout


def test_damaged_files_are_named(artifacts: Artifacts, run_main: Callable[..., Run]) -> None:
    start(artifacts, generation(0, 0.5))
    genetic_files.log(artifacts).path.write_text("generation,accuracy\n0,much\n", encoding="utf-8")
    run_main(*SCRIPT, "--once", root=artifacts.root_dir).refused("search_log.csv", "not a search log")
    start(artifacts, generation(0, 0.5))
    genetic_files.end(artifacts).path.write_text(json.dumps([1]), encoding="utf-8")
    run_main(*SCRIPT, "--once", root=artifacts.root_dir).refused("end.json")


@pytest.mark.parametrize("interval", ["0", "-1", "nan", "inf"])
def test_a_senseless_interval_is_refused(root_dir: Path, run_main: Callable[..., Run], interval: str) -> None:
    run_main(*SCRIPT, "--interval", interval, root=root_dir).refused("--interval", "above 0")
