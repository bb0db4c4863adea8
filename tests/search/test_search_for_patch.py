"""A module for one patch as a user searches it and patches with it, and what the scripts say to bad input."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Run, assert_near, files_below, run_here

from configures.base import load
from dataset.splits import load_split
from models.strong_model import load_strong_model
from models.training import predict
from modules import files as module_files
from modules.on_disk import load_kernel_mask, load_module
from modules.own_class import auc_by_class
from patching import files as patch_files
from patching.patched_model import load_patched_model
from patching.weak_models import WeakKind
from search.gradient import files as gradient_files
from utils.artifacts import Artifacts

MODEL, DATASET, TARGET = "simcnn_x0_25", "digits_5", 3
NAMES = ["--model", MODEL, "--dataset", DATASET]
SETTINGS = ["patch_steps=3", "mask_batch_size=6", "patch_keeps=0.9,0.8", "mask_step_size=0.02"]
SMALL = [*NAMES, *(word for setting in SETTINGS for word in ("--set", setting))]
SCRIPT, APPLY, CURVE = "module_gradient_search.py", "experiments/patch/apply_patch.py", "patch_trade_off.py"
CPU = torch.device("cpu")
Main = Callable[..., Run]


def place(root: Path, target_class: int = TARGET) -> Artifacts:
    return Artifacts(root, MODEL, DATASET).for_patch(target_class)


def test_its_files_have_a_place_and_a_command_of_their_own() -> None:
    artifacts = Artifacts(Path("root"), MODEL, DATASET, ("patch_steps=3",))
    file = module_files.module(artifacts.for_patch(3), 3)
    assert file.path == artifacts.folder / "for_patch" / "class_3" / "modules" / "class_3.pth"
    expected = f"python {SCRIPT} --model {MODEL} --dataset {DATASET} --set patch_steps=3 --for_patch --target_class 3"
    assert file.made_by == expected
    assert gradient_files.settings(artifacts.for_patch(3)).made_by == f"{expected} --fresh"
    roles = [gradient_files.role(each) for each in (artifacts, artifacts.for_patch(3), artifacts.for_patch(4))]
    assert len({role.lock for role in roles}) == 3


@pytest.fixture(scope="module")
def searched(strong_roots: Callable[[str, str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root_dir with a module for a patch, and a weak model."""
    root = Path(shutil.copytree(strong_roots(MODEL, DATASET), tmp_path_factory.mktemp("for_patch") / "root"))
    train = "experiments/patch/patch_for_weak_model/train.py"
    for script, *words in (
        (SCRIPT, *SMALL, "--for_patch", "--target_class", TARGET, "--keep", 0.8),
        (train, *NAMES, "--epochs", 2, "--target_class", TARGET),
    ):
        done = run_here(script, *words, root=root)
        assert done.exit_code == 0, done
    return root


def for_real(test: Callable[..., None]) -> Callable[..., None]:
    """Of a whole search, which these tests share."""
    return pytest.mark.slow(pytest.mark.xdist_group("for patch")(test))


@for_real
def test_the_module_is_what_its_report_says(searched: Path) -> None:
    config, own = load(MODEL, DATASET), place(searched)
    strong = load_strong_model(config, Artifacts(searched, MODEL, DATASET), CPU)
    valid = load_split(config).valid
    module, known = load_module(config, own, TARGET, CPU), module_files.report_for_patch(own).load()
    expected, found = predict(strong.network, valid, CPU)[:, TARGET], predict(module, valid, CPU)[:, 0]
    kept = load_kernel_mask(config, own, TARGET)
    assert known.kernels_kept == kept.sum() <= 0.8 * len(kept)
    assert known.explained == pytest.approx(1 - float((found - expected).square().mean() / expected.var(correction=0)))
    logits = np.stack([found.numpy() if c == TARGET else np.zeros(len(valid)) for c in range(5)], 1)
    assert known.valid_auc_module == pytest.approx(auc_by_class(logits, valid.labels)[TARGET])
    outputs = module_files.module_outputs(own, TARGET).load(None)
    assert_near(outputs, found[valid.labels == TARGET])
    rounds = gradient_files.log_for_patch(own).load()
    assert [row.keep for row in rounds] == [0.9, 0.8, 0.8]
    assert rounds[-1].kernels_kept == kept.mean()
    assert rounds[-1].flops == known.flops < 1


@for_real
def test_the_same_search_finds_the_same_module_also_in_pieces(
    searched: Path, strong_roots: Callable[[str, str], Path], tmp_path: Path, run_main: Main
) -> None:
    root = Path(shutil.copytree(strong_roots(MODEL, DATASET), tmp_path / "root"))
    for keeps in ("0.9", "0.9,0.8"):
        words = [*SMALL, "--set", f"patch_keeps={keeps}", "--for_patch", "--target_class", TARGET]
        done = run_main(SCRIPT, *words, *(["--keep", 0.8] if "," in keeps else []), root=root)
        assert done.exit_code == 0, done
    ours, theirs = (files_below(module_files.module(place(each), TARGET).path.parent) for each in (root, searched))
    assert {name: content for name, content in ours.items() if "class" in name} == {
        name: content for name, content in theirs.items() if "class" in name
    }


@for_real
def test_it_patches_a_weak_model(searched: Path, tmp_path: Path, run_main: Main) -> None:
    saved = tmp_path / "patched.pth"
    words = [*NAMES, "--exp_type", "weak", "--target_class", TARGET, "--calibration", "learned"]
    done = run_main(APPLY, *words, "--for_patch", "--save", saved, root=searched)
    assert done.exit_code == 0, done
    patched = load_patched_model(saved)
    kept = load_kernel_mask(load(MODEL, DATASET), place(searched), TARGET)
    assert np.array_equal(patched.origin.kernels[0], kept)
    artifacts = Artifacts(searched, MODEL, DATASET)
    assert list(
        patch_files.weak_model_folder(artifacts, WeakKind.SIMPLE, TARGET).glob("for_patch_epoch_*_learned.json")
    )
    run_main(APPLY, *words, root=searched).refused("class_3.pth", "first run")  # the joint search's is not there
    other = ["--target_class", 1]
    run_main(APPLY, *words, *other, "--for_patch", root=searched).refused("--for_patch --target_class 1")


@for_real
def test_it_patches_a_weak_model_made_elsewhere(searched: Path, tmp_path: Path, run_main: Main) -> None:
    split, folder = load_split(load(MODEL, "digits")), tmp_path / "logits"  # whose images these are
    folder.mkdir()
    for part in ("valid", "test"):
        labels = getattr(split, part).labels
        np.save(folder / f"{part}_labels.npy", labels)
        logits = 3 * np.eye(10)[labels] + np.random.default_rng(0).normal(size=(len(labels), 10))
        logits[labels == TARGET] = 0
        np.save(folder / f"{part}_logits.npy", logits)
    words = [*NAMES, "--weak_logits", folder, "--target_class", TARGET]
    done = run_main("scripts/patch_weak_model.py", *words, "--for_patch", root=searched)
    assert done.exit_code == 0, done
    run_main("scripts/patch_weak_model.py", *words, root=searched).refused("class_3.pth")


@for_real
@pytest.mark.parametrize("images", ["valid", "test"])
def test_the_curve_has_every_share_and_the_controls(searched: Path, run_main: Main, images: str) -> None:
    words = ["--target_class", TARGET, "--images", images]
    done = run_main(f"experiments/trade_off/{CURVE}", *NAMES, *words, root=searched)
    assert done.exit_code == 0, done
    path = patch_files.trade_off(Artifacts(searched, MODEL, DATASET), WeakKind.SIMPLE, images)
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [float(row["keep"]) for row in rows] == [0, 0, 1, 0.9, 0.8]
    assert len({row["images"] for row in rows}) == 1
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    rounds = gradient_files.log_for_patch(place(searched)).load()
    assert [float(row["flops"]) for row in rows[3:]] == pytest.approx([rounds[0].flops, rounds[2].flops])
    run_main(f"experiments/trade_off/{CURVE}", *NAMES, root=searched).refused("--for_patch --target_class 0")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--for_patch"], "--for_patch and --target_class"),
        (["--target_class", "3"], "--for_patch and --target_class"),
        (["--for_patch", "--target_class", "3", "--max_loss", "1"], "--max_loss"),
        (["--for_patch", "--target_class", "5"], "from 0 to 4"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    strong_roots: Callable[[str, str], Path], run_main: Main, words: list[str], expected: str
) -> None:
    run_main(SCRIPT, *SMALL, *words, root=strong_roots(MODEL, DATASET)).refused(expected)
