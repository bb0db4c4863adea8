"""The patching stages as a user runs them, on digits_5, and what they say to bad input."""

import dataclasses
import json
import os
import runpy
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import TOP, files_below, random_images, run_here
from random_modules import write_modules
from shuffled_engine import ShuffledEngine
from torch import nn

import engines.opening
from configures.base import load
from models.evaluation import predict
from models.strong_model import graph_of
from modules import files as module_files
from modules.module import log_odds
from patching import comparison
from patching import files as patch_files
from patching.data import load_patch_data
from patching.on_disk import load_patched_weak_models
from patching.patched_model import load_patched_model
from patching.rules import RULES, MinMax, Rule
from patching.weak_models import WeakKind
from report import files as report_files
from search.files import Found
from utils.artifacts import Artifacts
from utils.errors import UserError

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("patch scripts")]

COMMON = ("--model", "simcnn_x0_25", "--dataset", "digits_5")
SET = "two_thirds"  # the most recent module set
TRAIN_WEAK = "experiments/patch/patch_for_weak_model/train.py"
TRAIN_POOR = "experiments/patch/patch_for_poor_model/train.py"
APPLY = "experiments/patch/apply_patch.py"
FLOPS = "experiments/calculate_flops/calculate_flops.py"
CONFIG = load("simcnn_x0_25", "digits_5")
SIMPLE = WeakKind.SIMPLE


def artifacts_of(root):
    return Artifacts(root, CONFIG.model, CONFIG.dataset)


@pytest.fixture(scope="module")
def patched_root(strong_roots, tmp_path_factory):
    """A root_dir with modules that keep two thirds of the kernels, their outputs, and weak models after two epochs."""
    root = tmp_path_factory.mktemp("patch") / "root"
    shutil.copytree(strong_roots(CONFIG.model, CONFIG.dataset), root)
    artifacts = artifacts_of(root)
    num_kernels = graph_of(CONFIG).units.num_kernels
    masks = {c: np.random.default_rng(c).random(num_kernels) < 0.67 for c in range(CONFIG.num_classes)}
    write_modules(CONFIG, artifacts, {3: masks[2]}, "of_three")
    write_modules(CONFIG, artifacts, masks, SET)
    done = run_here(TRAIN_WEAK, *COMMON, "--epochs", 2, root=root)
    assert done.exit_code == 0, done
    return root


@pytest.fixture(scope="module")
def applied(patched_root):
    """What the patching of all classes by the learned rule said."""
    arguments = ("--exp_type", "weak", "--calibration", "learned")
    done = run_here(APPLY, *COMMON, *arguments, root=patched_root)
    assert done.exit_code == 0, done
    return done


@pytest.fixture
def own_root(patched_root, tmp_path):
    """A copy of it that the test may change."""
    return shutil.copytree(patched_root, tmp_path / "own_root")


@pytest.fixture
def patch(own_root, run_main):
    """Patch overly simple models of one's own copy: what the script said."""

    def run(*words):
        done = run_main(APPLY, *COMMON, "--exp_type", "weak", *words, root=own_root)
        assert done.exit_code == 0, done
        return done.stdout

    return run


def test_outputs_are_those_of_the_modules_on_their_class(patched_root, applied):
    counts = [len(module_files.module_outputs(artifacts_of(patched_root), c, SET).load(None)) for c in range(5)]
    assert sum(counts) == 141  # all validation images of the strong model


def test_all_classes_give_a_table_with_controls(patched_root, applied):
    for text in ("before", "learned", "control:", "no module", "mean ch"):  # headings may be wrapped
        assert text in applied.stdout
    table = patch_files.table(artifacts_of(patched_root), SET, SIMPLE, "best", "learned")
    assert len(table.read_text().splitlines()) == 1 + 5 * 4 + 2 * 4
    assert "| class | name |" in table.with_suffix(".md").read_text()


def test_one_class_all_calibrations(own_root, patch):
    patch("--target_class", 3, "--target_epoch", "last", "--calibration", "all")
    report = json.loads(patch_files.report(artifacts_of(own_root), SET, SIMPLE, 3, 1, "all").path.read_text())
    assert {"before", "min_max", "percentile", "outlier", "norm", "learned"} < set(report["methods"])
    assert report["classes"] == ["6", "7", "8", "9", "3"] and report["modules"] == SET
    for method in report["methods"].values():
        confusion, (scores,) = np.array(method["confusion_matrix"]), method["targets"]
        assert confusion.sum() == report["test_images"]
        assert scores["true_positives"] == confusion[4, 4]
        assert scores["recall"] == pytest.approx(confusion[4, 4] / confusion[4].sum())


def test_a_weak_model_is_not_trained_again_while_it_is_patched(own_root, run_main, monkeypatch):
    before, compare = files_below(own_root / "data" / "patch"), comparison.compare

    def compare_while_it_is_trained(*given):
        trained.append(run_main(TRAIN_WEAK, *COMMON, "--epochs", 1, "--target_class", 3, "--fresh", root=own_root))
        return compare(*given)

    trained = []
    monkeypatch.setattr(comparison, "compare", compare_while_it_is_trained)
    one = ("--exp_type", "weak", "--target_class", 3)
    assert run_main(APPLY, *COMMON, *one, root=own_root).exit_code == 0
    trained[0].refused("patching of the weak model of target class 3", "is already running", f"pid {os.getpid()}")
    assert before.items() <= files_below(own_root / "data" / "patch").items()


def test_patches_by_another_module_set_stand_next_to_them(own_root, patch, run_main):
    for name in ("of_three", SET):
        assert f"module set {name}: saved " in patch("--target_class", 3, "--modules", name)
    of_class_3 = [each for each in load_patched_weak_models(artifacts_of(own_root), SIMPLE) if each.classes[-1] == "3"]
    found = {each.modules: each for each in of_class_3}
    assert found.keys() == {"of_three", SET} and found["of_three"].epoch == found[SET].epoch
    other = ("--exp_type", "weak", "--target_class", 1, "--modules", "of_three")
    run_main(APPLY, *COMMON, *other, root=own_root).refused("module set of_three", "expected one of class 1", SET)
    run_main(APPLY, *COMMON, *other[:-1], "none", root=own_root).refused("--modules none", "two_thirds")


@pytest.mark.parametrize(
    ("calibration", "colours", "suffix"), [("min_max", "0.25,0.5,0.5", ".pth"), ("learned", None, ".py")]
)
def test_saved_model_predicts_what_the_report_counts(own_root, patch, run_main, tmp_path, calibration, colours, suffix):
    """With the images' form that the file itself says, as docs/patching.md uses it."""
    path = tmp_path / f"patched{suffix}"
    form = () if colours is None else ("--set", f"mean={colours}", "--set", f"std={colours}")
    if colours is not None:
        retrained = ("--target_class", 3, "--epochs", 1, "--fresh")
        assert run_main(TRAIN_WEAK, *COMMON, *form, *retrained, root=own_root).exit_code == 0
    said = patch(*form, "--target_class", 3, "--calibration", calibration, "--save", path)
    test = load_patch_data(CONFIG).split_for(3).test
    assert f"; run on {len(test)} test images, it answers as reported" in said
    if suffix == ".py":
        program = runpy.run_path(str(path))
        predictions = program["scores"](program["load"](), torch.from_numpy(test.pixels)).argmax(1).numpy()
    else:
        model = load_patched_model(path)
        assert model.form.normalisation == ((0.25, 0.5, 0.5), (0.25, 0.5, 0.5))
        with torch.inference_mode():
            predictions = model(torch.from_numpy(test.pixels)).argmax(1).numpy()
    (report,) = patch_files.weak_model_folder(artifacts_of(own_root), SIMPLE, 3).glob(f"patch_*_{calibration}.json")
    confusion = np.array(json.loads(report.read_text())["methods"][calibration]["confusion_matrix"])
    assert (predictions == 4).sum() == confusion[:, 4].sum()
    assert (predictions == test.labels).sum() == np.trace(confusion)


class MostlyWeak(Rule):
    """A rule of one's own: the module's output, less a threshold, is added to the target class's logit."""

    saved_as = "mostly_weak"

    def __init__(self, threshold):
        super().__init__()
        self.register_buffer("threshold", torch.as_tensor(threshold))

    @classmethod
    def fit(cls, given):
        return cls(given.class_outputs[0].min())

    def forward(self, weak_logits, outputs):
        return torch.cat([weak_logits[:, :-1], weak_logits[:, -1:] + outputs - self.threshold], 1)

    def to_json(self):
        return {"threshold": float(self.threshold)}


def test_a_new_rule_is_a_class_in_the_table(own_root, patch, tmp_path, monkeypatch):
    monkeypatch.setitem(RULES, "mostly_weak", MostlyWeak)
    path, artifacts = tmp_path / "patched.pth", artifacts_of(own_root)
    said = patch("--target_class", 1, "--calibration", "mostly_weak", "--save", path)
    assert "control: mostly_weak, whole strong model" in said
    (model,) = [model for model in load_patched_weak_models(artifacts, SIMPLE) if model.target_class == 1]
    lowest = module_files.module_outputs(artifacts, 1, SET).load(None).min()
    assert "mostly_weak" in model.calibrations and float(model.rule("mostly_weak").threshold) == lowest
    loaded = load_patched_model(path)
    assert isinstance(loaded.rule, MostlyWeak) and float(loaded.rule.threshold) == lowest


def test_reports_of_several_runs_are_joined(own_root, patch):
    for calibration in ("norm", "min_max"):
        patch("--target_class", 4, "--calibration", calibration)
    (model,) = [model for model in load_patched_weak_models(artifacts_of(own_root), SIMPLE) if model.target_class == 4]
    assert set(model.calibrations) >= {"min_max", "norm"} and isinstance(model.rule("min_max"), MinMax)
    assert model.confusion("norm").sum() == model.confusion("before").sum() == model.test_images
    report = patch_files.report(artifacts_of(own_root), SET, SIMPLE, 4, model.epoch, "norm")
    written = report.load()
    for damage, reason in (
        ({"rule": {"low": "x", "high": 1}}, "could not convert"),
        ({"targets": []}, "list index out of range"),
        ({"confusion_matrix": [[1]]}, "the confusion matrix of norm is not one of 5 classes"),
    ):
        report.save(dataclasses.replace(written, methods={"norm": {**written.methods["norm"], **damage}}))
        with pytest.raises(UserError, match=f"{report.path.name}.*{reason}.*apply_patch.py"):
            load_patched_weak_models(artifacts_of(own_root), SIMPLE)
    report.save(dataclasses.replace(written, modules_sha256="0" * 64))
    (model,) = [model for model in load_patched_weak_models(artifacts_of(own_root), SIMPLE) if model.target_class == 4]
    assert "norm" not in model.calibrations and "min_max" in model.calibrations
    report.save(dataclasses.replace(written, classes=("6", "7", "8", "9", "x")))  # the newest one
    (model,) = [model for model in load_patched_weak_models(artifacts_of(own_root), SIMPLE) if model.target_class == 4]
    assert model.classes[-1] == "x" and model.calibrations == ["norm"]


def test_a_weak_model_is_judged_on_its_own_images(own_root, run_main, patch):
    """With other images or classes than it was trained on, its training images could be among them."""
    words = (APPLY, *COMMON, "--exp_type", "weak", "--target_class", 4)
    for setting, differs in (("weak_train_images=50", "images_crc32"), ("weak_classes=9,8,7,6", "classes")):
        done = run_main(*words, "--set", setting, root=own_root)
        done.refused("target_class_4 was trained with other settings", differs)


def test_flops_table(patched_root, run_main):
    done = run_main(FLOPS, *COMMON, root=patched_root)
    assert done.exit_code == 0, done
    lines = report_files.flops_table(artifacts_of(patched_root)).read_text().splitlines()
    assert len(lines) == 1 + 1 + 5 + 1 + 2 * 6
    assert lines[1].startswith("strong model,1056,40") and ",100.0," in lines[1]
    title, *_ = report_files.flops_table(artifacts_of(patched_root)).with_suffix(".md").read_text().splitlines()
    assert f"module set {SET}:" in title


def test_training_again_keeps_what_is_there_and_refuses_other_settings(own_root, run_main):
    again = run_main(TRAIN_WEAK, *COMMON, "--epochs", 2, root=own_root)
    assert again.exit_code == 0 and again.stdout.count("already trained") == 5
    other = run_main(TRAIN_WEAK, *COMMON, "--epochs", 3, "--target_class", 1, root=own_root)
    other.refused("was made with other settings", "epochs: 2 there, 3 now", "--fresh")
    fresh = run_main(TRAIN_WEAK, *COMMON, "--epochs", 3, "--target_class", 1, "--fresh", root=own_root)
    assert fresh.exit_code == 0 and "target_class_1.old_1" in fresh.stdout
    words = ("--epochs", 1, "--target_class", 1, "--set", "weak_learning_rate=1e-9", "--fresh")
    nothing = run_main(TRAIN_WEAK, *COMMON, *words, root=own_root)
    assert nothing.exit_code == 0 and "it has learned nothing, so a patch of it says nothing" in nothing.stdout


def test_interrupted_training_goes_on_to_the_same_weights(own_root, run_main, monkeypatch):
    artifacts = artifacts_of(own_root)
    options = ("--target_class", 2, "--epochs", 3, "--checkpoint_every", 1, "--fresh")
    assert run_main(TRAIN_WEAK, *COMMON, *options, root=own_root).exit_code == 0
    whole = patch_files.weak_model(artifacts, SIMPLE, 2, 2).load()
    save = type(patch_files.weak_model(artifacts, SIMPLE, 2, 2)).save

    def interrupted(self, state):
        save(self, state)
        if self.path.name == "training_state.pth" and len(state["history"]) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("utils.artifacts.CheckpointFile.save", interrupted)
        assert run_main(TRAIN_WEAK, *COMMON, *options, root=own_root).exit_code == 130
    assert not patch_files.weak_model(artifacts, SIMPLE, 2, 2).exists()
    resumed = run_main(TRAIN_WEAK, *COMMON, *options[:-1], root=own_root)
    assert resumed.exit_code == 0 and "resuming after epoch 1" in resumed.stdout
    resumed_weights = patch_files.weak_model(artifacts, SIMPLE, 2, 2).load()
    assert all(torch.equal(value, resumed_weights[name]) for name, value in whole.items())
    assert not patch_files.weak_model_state(artifacts, SIMPLE, 2).exists()


# An engine's workers have one thread each, and how a training is rounded depends on the number of threads.
ON_ONE_THREAD = pytest.mark.skipif("config.option.threads != 1", reason="workers of an engine have one thread")


@ON_ONE_THREAD
def test_workers_of_an_engine_train_the_same(own_root, run_main, monkeypatch):
    folder = patch_files.weak_models_folder(artifacts_of(own_root), SIMPLE)

    def trained():
        names = (".pth", "/settings.json")
        files = files_below(folder).items()
        return {name: content for name, content in files if name.endswith(names) and ".old_" not in name}

    before, engine = trained(), ShuffledEngine(count=2)
    monkeypatch.setattr(engines.opening, "LocalEngine", lambda **_: engine)
    done = run_main(TRAIN_WEAK, *COMMON, "--epochs", 2, "--engine", "local", "--fresh", root=own_root)
    assert done.exit_code == 0, done
    assert trained() == before and len(before) >= 10
    assert done.stdout.count(": best epoch") == 5
    again = run_main(TRAIN_WEAK, *COMMON, "--epochs", 2, "--engine", "local", root=own_root)
    assert again.stdout.count("already trained") == 5


@ON_ONE_THREAD
def test_workers_of_an_engine_patch_the_same(applied, own_root, patch, run_main, monkeypatch):
    folder = patch_files.weak_models_folder(artifacts_of(own_root), SIMPLE)
    written = files_below(folder)
    reports = sorted(folder.glob("target_class_*/patch_*_learned.json"))
    for report in reports:
        report.unlink()
    assert len(reports) == 5
    monkeypatch.setattr(engines.opening, "LocalEngine", lambda **_: ShuffledEngine(count=2))
    patch("--calibration", "learned", "--engine", "local")
    assert files_below(folder) == written
    run_main(APPLY, *COMMON, "--exp_type", "weak", "--address", "auto", root=own_root).refused("only with --engine ray")


@pytest.mark.long
def test_poorly_fitted_models_early_and_late(own_root, run_main):
    options = ("--target_class", 0, "--epochs", 3, "--keep_epochs", 0, "--checkpoint_every", 3)
    done = run_main(TRAIN_POOR, *COMMON, *options, root=own_root)
    assert done.exit_code == 0, done
    assert "kept of each: 2 epochs and the best one; at most" in done.stdout
    for epoch in (0, 2):
        arguments = ("--exp_type", "poor_fit", "--target_class", 0, "--target_epoch", epoch)
        done = run_main(APPLY, *COMMON, *arguments, root=own_root)
        assert done.exit_code == 0 and f"weak model of epoch {epoch}" in done.stdout
    settings = json.loads(patch_files.weak_model_settings(artifacts_of(own_root), WeakKind.POOR, 0).path.read_text())
    assert (settings["momentum"], settings["weight_decay"], settings["augmented"]) == (0, 0, False)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("entire_model.pth", "train.py"),
        (f"modules/{SET}/class_3.pth", "module_gradient_search.py"),
        (f"modules/{SET}/class_3_kernels.npy", "module_gradient_search.py"),
    ],
)
def test_missing_files_name_the_command(own_root, run_main, file, message):
    path = artifacts_of(own_root).folder / file
    path.unlink()
    done = run_main(APPLY, *COMMON, "--exp_type", "weak", root=own_root)
    done.refused(str(path), "python", message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--target_epoch", "7"), "expected one of the epochs kept: "),
        (("--target_epoch", "late"), "--target_epoch late: expected best, last, or an epoch"),
        (("--target_class", "5"), "--target_class 5: expected a class from 0 to 4"),
        (("--target_class", "three"), "--target_class three: expected a class from 0 to 4, or its name; they are 0"),
        (("--calibration", "max"), "invalid choice: 'max'"),
        (("--save", "x.pth"), "--save: expected one --target_class"),
        (("--exp_type", "poor_fit"), "patch_for_poor_model/train.py"),
        (("--set", "weak_model=vgg"), "unknown network vgg"),
        (("--set", "weak_classes=6,7,8"), "of another width, class count or network"),
    ],
)
def test_bad_arguments(patched_root, run_main, arguments, message):
    exp_type = () if arguments[0] == "--exp_type" else ("--exp_type", "weak")
    run_main(APPLY, *COMMON, *exp_type, *arguments, root=patched_root).refused(message)


def test_outputs_that_are_missing_or_damaged_are_collected_again(applied, own_root, patch):
    file = module_files.module_outputs(artifacts_of(own_root), 3, SET)
    outputs = file.load(None)
    for damage in (file.remove, lambda: file.save(outputs[:-1])):
        damage()
        patch("--target_class", 3)
        np.testing.assert_array_equal(file.load(len(outputs)), outputs)


def test_a_configuration_without_the_experiment(patched_root, run_main):
    done = run_main(TRAIN_WEAK, "--model", "simcnn_x0_25", "--dataset", "digits", root=patched_root)
    done.refused("configures/simcnn_x0_25_digits.py has no patching experiment")


def test_a_disk_that_is_too_small(own_root, run_main, monkeypatch):
    usage = shutil.disk_usage(own_root)
    monkeypatch.setattr("utils.given_places.shutil.disk_usage", lambda path: usage._replace(free=2**20))
    done = run_main(TRAIN_POOR, *COMMON, root=own_root)
    done.refused("are needed", "1.0 MiB are free", "--checkpoint_every")
    assert not patch_files.weak_models_folder(artifacts_of(own_root), WeakKind.POOR).exists()


def test_baselines_have_the_patchs_own_figures_and_a_cost(own_root, run_main, applied):
    few = ("--set", "fine_tuning_steps=3", "--set", "mask_batch_size=8")
    command = ("experiments/trade_off/patch_baselines.py", *COMMON, *few, "--target_class", 2, 4, "--epochs")
    run_main(*command, 0, root=own_root).refused("--epochs 0: expected at least 1")
    done = run_main(*command, 1, root=own_root)
    assert done.exit_code == 0 and "mean over 2 target classes" in done.stdout, done
    (path,) = (patch_files.weak_model_folder(artifacts_of(own_root), SIMPLE, 2)).glob(f"baselines_{SET}_epoch_*.json")
    ways = json.loads(path.read_text())["ways"]
    report = patch_files.report(artifacts_of(own_root), SET, SIMPLE, 2, int(path.stem.split("_")[-1]), "learned").load()
    for name, method in (
        ("patch (learned rule)", "learned"),
        ("weak model as it is", "before"),
        ("no module (learned rule)", "control: learned, no module"),
        ("whole strong model (learned rule)", "control: learned, whole strong model"),
    ):
        assert ways[name]["confusion_matrix"] == report.methods[method]["confusion_matrix"], name
    assert ways["patch (learned rule)"]["patch_minus_this"]["f1"] == [0, 0]
    flops = [ways[name]["flops_per_image"] for name in ("fine-tuned", "patch (learned rule)", "stacking, all logits")]
    assert flops == sorted(flops) and flops[0] == ways["label shift"]["flops_per_image"]
    assert ways["fine-tuned"]["fit_flops"] > ways["fine-tuned, last layer"]["fit_flops"] > 0 == flops[0] % 1
    scratch, distilled = (ways[f"one-class network, {how}"] for how in ("from scratch", "distilled"))
    assert scratch["flops_per_image"] == distilled["flops_per_image"] == flops[1]
    assert distilled["fit_flops"] > scratch["fit_flops"] and scratch["right"] > 0


def test_the_goal_of_a_one_class_network_is_its_label_or_the_strong_logit():
    goal = runpy.run_path(str(TOP / "experiments/trade_off/patch_baselines.py"))["OneClass"]
    labels, strong = torch.tensor([3, 0, 3, 1]), torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    knows, says_strong = torch.tensor([[9.0], [-9], [9], [-9]]), strong[:, [2]]
    by_label, by_logit = goal(0, 0, label=3), goal(1, 0, label=3)
    assert by_label.loss(knows, (2,), labels, strong) < 1e-3 < 1 < by_label.loss(-knows, (2,), labels, strong)
    assert by_logit.loss(says_strong, (2,), labels, strong) < 1e-6 < 0.1 < by_logit.loss(knows, (2,), labels, strong)
    by_odds, odds = goal(1, 0, answer="log_odds", label=3), log_odds(strong)[:, [2]]
    assert by_odds.loss(odds, (2,), labels, strong) < 1e-6 < 0.1 < by_odds.loss(says_strong, (2,), labels, strong)


def test_a_class_that_two_searches_have_is_in_two_ways_of_the_trade_off(monkeypatch):
    """Else its F1 would count twice in a mean, and stand for that of the other search."""
    weak_model = runpy.run_path(str(TOP / "experiments/trade_off/patch_trade_off.py"))["WeakModel"]
    monkeypatch.setitem(weak_model.by_searches.__globals__, "extract_modules", lambda *_: [None])
    monkeypatch.setattr(weak_model, "_of_module", lambda _, method, keep, *rest: (method, keep))
    model = weak_model.__new__(weak_model)
    model.strong, model.target_class = SimpleNamespace(num_classes=4), 3
    found = [Found("keep", np.ones((4, 2), bool), None, each) for each in (None, (1, 3), (2, 3), (3,), (1,))]
    ways = [name for name, _ in model.by_searches([("gradient", each) for each in found])]
    assert ways == ["gradient", "gradient, class 1 3", "gradient, class 2 3", "gradient, one class"]


def test_the_trade_offs_whole_strong_model_gives_what_the_modules_give():
    network, images = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4)), random_images(6, 3)

    class Outputs(runpy.run_path(str(TOP / "experiments/trade_off/patch_trade_off.py"))["WeakModel"]):
        images, target_class, part, weak = {"test": random_images(6, 3)}, 2, "test", {"test": torch.zeros(6, 3)}
        strong, stage = SimpleNamespace(network=network), SimpleNamespace(device=torch.device("cpu"))

        def __init__(self):
            pass

        def _point(self, *_):
            return None

        def _patched(self, *given):
            return given[-1]

    *_, whole = Outputs().controls("log_odds")
    expected = log_odds(predict(network, images, torch.device("cpu")))[:, 2]
    torch.testing.assert_close(whole["test"], expected)
