"""train.py as a user runs it."""

import contextlib
import csv
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TOP, Run, environment, files_below, run_script
from image_trees import write_tree

from models import files as model_files
from modules import files as module_files
from search.genetic import files as genetic_files
from utils.artifacts import Artifacts
from utils.locks import held

pytestmark = pytest.mark.slow

MODEL = ("--model", "simcnn_x0_25", "--dataset", "digits")
# Six training images of three classes in place of the digits: the command line alone can do that.
TINY = (*MODEL, "--set", "source=tiny", "--set", "num_classes=3", "--batch_size", "4")


@pytest.fixture
def tiny_root(root_dir: Path) -> Path:
    write_tree(root_dir / "data" / "dataset" / "tiny", classes=("a", "b", "c"), count=4)
    return root_dir


@pytest.fixture
def train(run_main: Any, tiny_root: Path) -> Any:
    def run(*args: Any, root: Path = tiny_root) -> Run:
        return run_main("train.py", *args, root=root)

    return run


def test_a_network_without_relus_is_refused_before_anything_is_written(train: Any, tiny_root: Path) -> None:
    network = tiny_root / "smooth.py"
    network.write_text(
        "from torch import nn\ndef build():\n    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), "
        "nn.Conv2d(4, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))\n"
    )
    names = ("--model", "smooth", "--dataset", "tiny", "--set", f"network={network}:build")
    train(*names, "--set", "modular=moda").refused("modular=moda: expected a network with ReLUs")
    folders = tiny_root / "data" / "smooth_tiny", tiny_root / "data" / "locks"
    assert not any(folder.exists() for folder in folders)
    assert train(*names, "--epochs", 1).exit_code == 0


@contextlib.contextmanager
def at_work(root: Path, command: Sequence[Any], line: str) -> Iterator["subprocess.Popen[str]"]:
    """A training in a process of its own that has printed a line; it does not outlive the block."""
    process = subprocess.Popen(
        [sys.executable, "train.py", *map(str, command)],
        cwd=TOP,
        env=environment(root),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        next(printed for printed in process.stdout if printed.startswith(line))
        yield process
    finally:
        process.kill()
        process.communicate()


def outcome(root: Path) -> dict[str, bytes]:
    """What must be the same for the same seed: not the seconds."""
    files = files_below(root / "data" / "simcnn_x0_25_digits")
    return {name: content for name, content in files.items() if name == "entire_model.pth"}


@pytest.mark.long
def test_here_and_from_another_folder(tiny_root: Path, tmp_path: Path, train: Any) -> None:
    other_root = Path(shutil.copytree(tiny_root, tmp_path / "other"))
    command = (*TINY, "--epochs", 2)
    elsewhere = run_script("train.py", *command, root=other_root, cwd=tmp_path)
    for root, run in ((tiny_root, train(*command)), (other_root, elsewhere)):
        assert (run.exit_code, run.stderr) == (0, ""), run
        assert f"root_dir: {root}  configuration: simcnn_x0_25_digits  device: cpu" in run.stdout
        assert "images: 8 train, 4 valid, 12 test; 3 classes" in run.stdout
        assert len(re.findall(r"^epoch   [01]  loss", run.stdout, re.MULTILINE)) == 2
        assert re.search(r"^valid accuracy [\d.]+% \([0-4] of 4\)$", run.stdout, re.MULTILINE)
        assert re.search(r"^test accuracy [\d.]+% \(\d+ of 12\)$", run.stdout, re.MULTILINE)
        assert sorted(files_below(root / "data" / "simcnn_x0_25_digits")) == [
            "entire_model.pth",
            "network.json",
            "strong_model.json",
            "training_log.csv",
            "training_state.pth",
        ]
    assert outcome(tiny_root) == outcome(other_root) != {}
    with (tiny_root / "data" / "simcnn_x0_25_digits" / "training_log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["number"] for row in rows] == ["0", "1"]
    assert all(0 <= float(row["valid_accuracy"]) <= 1 for row in rows)


def test_a_killed_training_goes_on_to_the_same_model(tiny_root: Path, tmp_path: Path, train: Any) -> None:
    other_root = Path(shutil.copytree(tiny_root, tmp_path / "other"))
    command = (*TINY, "--epochs", 15)
    with at_work(tiny_root, command, "epoch   3") as process:
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    resumed = train(*command)
    assert (resumed.exit_code, resumed.stderr) == (0, "")
    assert re.search(r"^resuming after epoch ([2-9]|1[0-4])$", resumed.stdout, re.MULTILINE), resumed
    assert train(*command, root=other_root).exit_code == 0
    assert outcome(tiny_root) == outcome(other_root) != {}


def test_evaluation_only_reports(strong_root: Path, train: Any) -> None:
    before = files_below(strong_root)
    run = train(*MODEL, "--evaluation", root=strong_root)
    assert (run.exit_code, run.stderr) == (0, "")
    assert re.search(r"^valid accuracy 9\d\.\d\d% \(2\d\d of 288\)$", run.stdout, re.MULTILINE), run
    assert re.search(r"^test accuracy (9\d|89)\.\d\d% \(3\d\d of 359\)$", run.stdout, re.MULTILINE), run
    assert files_below(strong_root) == before


def test_evaluation_before_training(train: Any) -> None:
    train(*TINY, "--evaluation").refused("missing", "entire_model.pth; first run: python train.py --model simcnn_x0_25")


def test_early_stop_and_fresh(train: Any, tiny_root: Path) -> None:
    options = (*TINY, "--learning_rate", "1e-9", "--schedule", "step")
    run = train(*options, "--epochs", 9, "--early_stop", "--set", "patience=2")
    assert run.exit_code == 0, run
    assert "trained 3 epochs in" in run.stdout
    first = outcome(tiny_root)
    train(*options, "--epochs", 1).refused("training with other settings", "epochs: 9 there, 1 now", "--fresh")
    assert outcome(tiny_root) == first
    run = train(*options, "--epochs", 1, "--fresh")
    assert run.exit_code == 0, run
    old = tiny_root / "data" / "simcnn_x0_25_digits.old_1"
    assert f"the old folder is now {old}" in run.stdout
    assert (old / "entire_model.pth").read_bytes() == first["entire_model.pth"]


def test_a_training_that_goes_on_after_its_early_stop_keeps_the_earlier_weights(train: Any, tiny_root: Path) -> None:
    options = (*TINY, "--learning_rate", "0.01", "--epochs", 9, "--set", "patience=1")
    assert train(*options, "--early_stop").exit_code == 0
    first, artifacts = outcome(tiny_root), Artifacts(tiny_root, "simcnn_x0_25", "digits")
    state = model_files.training_state(artifacts)
    content = state.load()  # as if a later epoch was the best one
    weights = {name: value + 1e-3 for name, value in content["best_weights"].items()}
    state.save({**content, "best_weights": weights})
    options = (*options, "--early_stop")
    with held(module_files.importance_role(artifacts)):
        train(*options).refused("the training replaces the strong model", f"pid {os.getpid()} works", "try again")
        assert outcome(tiny_root) == first
    old = model_files.entire_model(artifacts).path.with_name("entire_model.pth.old_1")
    run = train(*options)
    assert run.exit_code == 0 and f"the old strong model is now {old}" in run.stdout, run
    assert old.read_bytes() == first["entire_model.pth"] and outcome(tiny_root) != first
    with held(module_files.importance_role(artifacts)):  # the same weights again replace nothing
        assert "is now" not in train(*options).stdout
    assert len(list(artifacts.folder.glob("entire_model*"))) == 2


@pytest.mark.long
def test_one_training_at_a_time(tiny_root: Path, train: Any) -> None:
    with at_work(tiny_root, (*TINY, "--epochs", 100_000), "epoch") as process:
        for more in ((), ("--fresh",)):
            train(*TINY, *more).refused(
                "the training of simcnn_x0_25_digits is already running: python train.py", f"pid {process.pid}"
            )
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 143
    assert not list((tiny_root / "data" / "locks").rglob("*.lock"))


def test_fresh_does_not_take_the_folder_from_a_search(strong_root: Path, train: Any) -> None:
    role = genetic_files.explorer_role(Artifacts(strong_root, "simcnn_x0_25", "digits"), 3)
    with held(role):
        before = files_below(strong_root / "data" / "simcnn_x0_25_digits")
        train(*MODEL, "--fresh", root=strong_root).refused("--fresh sets the folder aside", f"pid {os.getpid()} works")
        assert files_below(strong_root / "data" / "simcnn_x0_25_digits") == before


def test_the_images_of_a_published_model_are_forgotten(tiny_root: Path, train: Any) -> None:
    """Its taking was interrupted; a model that is trained then has images of its own."""
    artifacts = Artifacts(tiny_root, "simcnn_x0_25", "digits")
    model_files.image_order(artifacts).save(np.arange(3))
    assert train(*TINY, "--epochs", 1).exit_code == 0
    assert train(*TINY, "--evaluation").exit_code == 0


def test_a_model_from_elsewhere_is_not_overwritten(strong_root: Path, train: Any) -> None:
    before = files_below(strong_root)
    train(*MODEL, "--epochs", 1, root=strong_root).refused(
        "entire_model.pth was not trained here: --fresh sets it aside"
    )
    assert files_below(strong_root) == before


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "the following arguments are required: --model, --dataset"),
        (
            ("--model", "simcnn", "--dataset", "mnist"),
            "there is no file configures/simcnn_mnist.py, and dataset mnist is not there",
        ),
        ((*MODEL, "--epochs", "-1"), "setting epochs: expected at least 1, given -1"),
        ((*MODEL, "--evaluate"), "unrecognized arguments: --evaluate"),
        ((*MODEL, "--set", "source=absent"), "dataset absent is not there: put "),
        ((*MODEL, "--set", "source=tiny"), "dataset tiny: expected 10 classes"),
        ((*TINY, "--set", "classes=a,b,x"), "dataset tiny has no class x: found a, b, c"),
        ((*TINY, "--learning_rate", "1e30"), "epoch 0: the training loss is nan; lower the learning rate"),
    ],
    ids=str,
)
def test_bad_input_is_one_line(arguments: tuple[str, ...], expected: str, train: Any, tiny_root: Path) -> None:
    train(*arguments).refused(expected)
    assert not outcome(tiny_root)


def test_root_dir_that_is_not_writable(tmp_path: Path, train: Any) -> None:
    """A file in place of the folder: permission bits do not bind the administrator, who may run the tests."""
    root = tmp_path / "file"
    root.write_text("not a folder")
    train(*MODEL, root=root).refused(f"cannot write {root}/data/decoded_dataset/digits", "Not a directory")
    assert files_below(tmp_path) == {"file": b"not a folder"}
    train(*MODEL, root=tmp_path / ("long" * 100)).refused("File name too long")


def test_a_folder_that_cannot_be_written_is_found_before_training(tiny_root: Path, train: Any) -> None:
    (tiny_root / "data" / "simcnn_x0_25_digits").write_text("not a folder")
    run = train(*TINY, "--epochs", 1)
    run.refused(f"cannot write {tiny_root}/data/simcnn_x0_25_digits")
    assert "epoch" not in run.stdout.replace("epochs=", "")
