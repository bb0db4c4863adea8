"""A strong model meets the images that it was trained on; every stage refuses others, and writes nothing then."""

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Run, files_below
from image_trees import image_bytes, random_pixels, write_tree

import global_configure
from configures.base import load
from dataset.images import Images, record_of
from dataset.splits import load_split
from models import files as model_files
from models.opening import Stage
from models.strong_model import check_trained_on, few_valid_images, graph_of, load_strong_split
from modules import files as module_files
from modules.kernel_importance import random_importance
from patching.cases import PatchCases
from patching.weak_models import WeakKind
from report.data import ReportData
from utils.artifacts import Artifacts
from utils.errors import UserError

Main = Callable[..., Run]
MODEL, DATASET = "simcnn_x0_25", "digits_5"
NAMES = ("--model", MODEL, "--dataset", DATASET)
CONFIG = load(MODEL, DATASET)
TINY = ("--model", MODEL, "--dataset", "digits", "--set", "source=tiny", "--set", "num_classes=2")
REFUSAL = "the images are not those that the strong model was trained on, or imported with"

STAGES = {
    "train.py": ["--evaluation"],
    "preprocess/kernel_importance_analyzer.py": [],
    "preprocess/layer_sensitivity_analyzer.py": ["--target_conv", 3],
    "scripts/run_layer_sensitivity_analyzer.py": ["--fresh"],
    "module_recorder.py": ["--fresh"],
    "module_explorer.py": ["--target_class", 1],
    "scripts/run_module_search.py": ["--fresh"],
    "module_gradient_search.py": ["--fresh"],
    "preprocess/module_output_collector.py": [],
    "experiments/trade_off/trade_off.py": [],
    "experiments/patch/patch_for_weak_model/train.py": ["--fresh"],
    "experiments/patch/patch_for_poor_model/train.py": ["--fresh"],
}


@pytest.fixture
def stage(strong_roots: Callable[[str, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """A strong model with the record of its images, and what the stages have written on it so far."""
    root = Path(shutil.copytree(strong_roots(MODEL, DATASET), tmp_path / "root"))
    monkeypatch.setattr(global_configure, "root_dir", root)
    artifacts = Artifacts(root, MODEL, DATASET)
    model_files.trained_on(artifacts).save(record_of(load_split(CONFIG)))
    importance = random_importance(CONFIG.num_classes, graph_of(CONFIG).units)
    module_files.kernel_importance(artifacts).save(importance)
    for folder in ("ga", "gradient", "layer_sensitivity"):
        (artifacts.folder / folder).mkdir()
    return Stage(CONFIG, artifacts, torch.device("cpu"), torch.float32, 0)


def with_another_test_image(stage: Stage) -> None:
    """Change the record, which is the same as changing the images."""
    file = model_files.trained_on(stage.artifacts)
    record = file.load()
    file.save(dataclasses.replace(record, images_crc32={**record.images_crc32, "test": 1}))


@pytest.mark.slow
def test_the_images_are_those_or_are_refused(stage: Stage) -> None:
    assert len(load_strong_split(CONFIG, stage.artifacts).valid) == 141
    with_another_test_image(stage)
    with pytest.raises(UserError, match=REFUSAL) as error:
        load_strong_split(CONFIG, stage.artifacts)
    path = model_files.trained_on(stage.artifacts).path
    assert f"(test: expected the same 196 images, given others; they are recorded in {path})" in str(error.value)
    assert str(error.value).endswith(f"or train on these with: python train.py {' '.join(NAMES)} --fresh")
    path.unlink()  # from elsewhere
    assert len(load_strong_split(CONFIG, stage.artifacts).valid) == 141


@pytest.mark.parametrize("content", ["", "{}", '{"classes": ["a"], "images": [1], "images_crc32": {}}'])
def test_a_record_that_is_none_is_one_line(content: str, stage: Stage) -> None:
    path = model_files.trained_on(stage.artifacts).path
    path.write_text(content)
    with pytest.raises(UserError, match=f"cannot use {path}: "):
        check_trained_on(load_split(CONFIG), stage.artifacts)


@pytest.mark.parametrize("script", STAGES)
def test_every_stage_refuses_other_images_and_writes_nothing(script: str, stage: Stage, run_main: Main) -> None:
    with_another_test_image(stage)
    root, before = stage.artifacts.root_dir, files_below(stage.artifacts.folder)
    run_main(script, *NAMES, *STAGES[script], root=root).refused(REFUSAL, "test: expected the same 196 images")
    assert files_below(stage.artifacts.folder) == before
    written = {path.name for path in (root / "data").iterdir()}
    assert written <= {stage.artifacts.folder.name, "decoded_dataset", "locks"}, written


def test_patching_and_the_report_refuse_other_images(stage: Stage) -> None:
    assert len(PatchCases(stage, WeakKind.SIMPLE).data.strong.valid) == 141
    with_another_test_image(stage)
    with pytest.raises(UserError, match=REFUSAL):
        _ = PatchCases(stage, WeakKind.SIMPLE).data
    with pytest.raises(UserError, match=REFUSAL):
        _ = ReportData(stage).answers


@pytest.mark.slow
def test_a_user_adds_and_changes_images(root_dir: Path, run_main: Main) -> None:
    folder = root_dir / "data" / "dataset" / "tiny"
    write_tree(folder, count=6)
    done = run_main("train.py", *TINY, "--epochs", 1, root=root_dir)
    assert done.exit_code == 0, done
    evaluate = (*TINY, "--set", "epochs=1", "--evaluation")
    assert run_main("train.py", *evaluate, root=root_dir).exit_code == 0
    before = (folder / "test" / "a" / "0.png").read_bytes()
    (folder / "test" / "a" / "0.png").write_bytes(image_bytes(random_pixels(32, 32, 3, seed=99)))
    run_main("train.py", *evaluate, root=root_dir).refused(REFUSAL, "test: expected the same 12 images, given others")
    (folder / "test" / "a" / "0.png").write_bytes(before)
    assert run_main("train.py", *evaluate, root=root_dir).exit_code == 0
    (folder / "test" / "a" / "6.png").write_bytes(image_bytes(np.zeros((32, 32, 3), np.uint8)))
    run_main("train.py", *evaluate, root=root_dir).refused(REFUSAL, "test: expected 12 images, given 13")
    done = run_main("train.py", *TINY, "--epochs", 1, "--fresh", root=root_dir)
    assert done.exit_code == 0, done


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        (
            (1, 1),
            "warning: decisions rest on 2 validation images, 1 of class a (standard error of accuracies: up to 35 ",
        ),
        (
            (300, 9),
            "warning: decisions rest on 309 validation images, 9 of class b (standard error of accuracies: up to 3 ",
        ),
        ((49, 50), "warning: decisions rest on 99 validation images, 49 of class a"),
        ((50, 50), ""),
        ((1000, 10), ""),
    ],
)
def test_few_validation_images(counts: tuple[int, int], expected: str) -> None:
    line = few_valid_images(np.array(counts), ("a", "b"))
    assert line.startswith(expected) and bool(line) == bool(expected)
    assert "\n" not in line and (not line or line.endswith("add images, to 100 and 10 of each class"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "more", "images"),
    [
        ("train.py", ["--fresh"], 141),
        ("train.py", ["--evaluation"], 141),
        ("module_recorder.py", ["--set", "search_images=40"], 40),
        ("scripts/run_module_search.py", ["--set", "search_images=40"], 40),
        ("module_gradient_search.py", [], 141),
        ("module_gradient_search.py", ["--target_class", "1"], 141),
        ("module_fine_tuner.py", [], 141),
    ],
)
def test_what_decides_by_validation_images_says_if_they_are_few(
    stage: Stage, run_main: Main, monkeypatch: pytest.MonkeyPatch, script: str, more: list[str], images: int
) -> None:
    def asked(valid: Images, classes: Sequence[str]) -> None:
        raise UserError(f"asked about {len(valid)} images of {len(classes)} classes")

    monkeypatch.setattr("models.strong_model.show_if_few", asked)
    for room in ("search.genetic.generations", "search.driver"):
        monkeypatch.setattr(f"{room}.show_if_few", asked)
    run_main(script, *NAMES, *more, root=stage.artifacts.root_dir).refused(f"asked about {images} images of 5 classes")
