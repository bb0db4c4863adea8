"""Fine-tuning as a user runs it: modules of the same size that know more, the same in pieces, and what is refused."""

import copy
import csv
import dataclasses
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Run, assert_near, files_below, keep_few_images, live_in, random_images, run_here

import global_configure
from configures.base import load
from dataset.labelled_images import Images
from dataset.splits import load_split
from models.graph import trace
from models.strong_model import load_strong_model
from models.training import count_right, predict
from modules import files as module_files
from modules.composed_model import ComposedModel
from modules.module import extract_modules
from modules.on_disk import (
    evaluate_modules,
    load_kernel_mask,
    load_module,
    write_module_for_patch,
    write_modules,
)
from search.gradient.batches import StepBatches
from search.gradient.fine_tuning import FineTuner, FineTuningSettings
from search.gradient.goals import ComposedAnswer, Goal, OwnLogit
from utils.artifacts import Artifacts
from utils.core_threads import core_threads
from utils.errors import UserError
from utils.stage import Stage

CPU = torch.device("cpu")
SETTINGS = FineTuningSettings(steps=6, batch_size=8, step_size=0.01, mirror=False)
TOGETHER, ALONE = ComposedAnswer(3, 0.5, 1.0), OwnLogit(1, 0.4)


class Small(torch.nn.Module):
    """Batch norm, an addition, and a pool in front of the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(8)
        self.second = torch.nn.Conv2d(8, 8, 3, padding=1)
        self.last = torch.nn.Linear(8, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.norm(self.first(images)).relu()
        maps = maps + self.second(maps).relu()
        return self.last(maps.mean((2, 3)))


def tuner(goal: Goal, workers: int = 1, settings: FineTuningSettings = SETTINGS, dtype: torch.dtype = torch.float32):
    """Half of a random network, about to be trained."""
    torch.manual_seed(0)
    graph = trace(Small(), 8)
    masks = np.random.default_rng(0).random((3, graph.units.num_kernels)) < 0.6
    masks = graph.units.spread(graph.units.repair(masks[:, graph.units.first_kernels]))
    modules = extract_modules(graph, masks[list(goal.classes)], target_classes=goal.classes)
    images = dataclasses.replace(random_images(40, 3), pixels=random_images(40, 3).pixels[:, :8, :8])
    pool = core_threads(CPU, workers)
    with pool as threads:
        yield FineTuner(
            modules, graph.network, goal, images, settings, device=CPU, dtype=dtype, seed=0, workers=threads
        )


def weights_of(one: FineTuner) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in one.modules.state_dict().items()}


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("goal", [TOGETHER, ALONE], ids=["together", "alone"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_threads_and_pieces_change_nothing(goal: Goal, dtype: torch.dtype) -> None:
    found = []
    for workers in (1, 3):
        for one in tuner(goal, workers, dtype=dtype):
            start, strong = weights_of(one), {name: value.clone() for name, value in one.strong.state_dict().items()}
            for _ in range(SETTINGS.steps):
                one.step()
            found.append(weights_of(one))
            assert not same(start, found[-1]) and same(strong, one.strong.state_dict())
    for first in tuner(goal, dtype=dtype):
        for _ in range(2):
            first.step()
        for second in tuner(goal, dtype=dtype):
            second.load_state(first.state())
            for _ in range(2, SETTINGS.steps):
                second.step()
            found.append(weights_of(second))
    assert same(found[0], found[1]) and same(found[0], found[2])


@pytest.mark.parametrize("goal", [TOGETHER, ALONE], ids=["together", "alone"])
def test_modules_come_nearer_to_what_the_strong_model_says(goal: Goal) -> None:
    for one in tuner(goal, settings=dataclasses.replace(SETTINGS, steps=60, batch_size=40)):
        losses = [one.step() for _ in range(60)]
        assert np.mean(losses[-5:]) < np.mean(losses[:5])  # a third of it, at most, for several seeds


def test_what_is_no_state_is_refused_and_so_is_a_loss_that_is_not_finite() -> None:
    for one in tuner(ALONE):
        state, start = one.state(), weights_of(one)
        spoiled = {name: value * torch.nan for name, value in state["weights"].items()}
        for wrong in ({}, {**state, "weights": {}}, {**state, "weights": spoiled}, {**state, "optimizer": {}}):
            with pytest.raises(ValueError):
                one.load_state(wrong)
        assert same(start, weights_of(one))
        with torch.no_grad():
            next(one.modules.parameters()).fill_(torch.inf)
        with pytest.raises(UserError, match="fine_tuning_step_size"):
            one.step()


MODEL, DATASET, NUM_CLASSES, TARGET = "rescnn_x0_25", "digits_5", 5, 3
SCRIPT, SEARCH = "module_fine_tuner.py", "module_gradient_search.py"
NAMES = ["--model", MODEL, "--dataset", DATASET]
FEW = ["mask_steps=3", "mask_batch_size=6", "mask_keeps=0.6", "patch_steps=3", "patch_keeps=0.6"]
SMALL = [*NAMES, *(word for setting in FEW for word in ("--set", setting))]
TUNE = [*NAMES, "--set", "mask_batch_size=16", "--set", "fine_tuning_steps=12"]
TRADE_OFF, ONLY = "experiments/trade_off/trade_off.py", [*NAMES, "--only", "fine-tuned"]
FOR_PATCH = ["--for_patch", "--target_class", TARGET]
Main = Callable[..., Run]


def for_real(test: Callable[..., None]) -> Callable[..., None]:
    """Of whole searches, which these tests share."""
    return pytest.mark.slow(pytest.mark.xdist_group("fine-tuning")(test))


@pytest.fixture(scope="module")
def searched(strong_roots: Callable[[str, str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root_dir with small modules of all classes, and one for a patch."""
    root = Path(shutil.copytree(strong_roots(MODEL, DATASET), tmp_path_factory.mktemp("searched") / "root"))
    keep_few_images(root)
    for words in (["--keep", 0.4], [*FOR_PATCH, "--keep", 0.4]):
        done = run_here(SEARCH, *SMALL, *words, root=root)
        assert done.exit_code == 0, done
    return root


@pytest.fixture
def root(searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(global_configure, "root_dir", tmp_path / "root")
    return Path(shutil.copytree(searched, tmp_path / "root"))


def valid_images(root: Path) -> Images:
    with pytest.MonkeyPatch.context() as patch:
        live_in(root, patch)
        return load_split(load(MODEL, DATASET)).valid


LAST_WEIGHT, LAST_BIAS = "fcs.0.weight", "fcs.0.bias"


def make_constant(root: Path, answer: int) -> None:
    """Give modules constant logits, 100 for class `answer` and 0 for the others, and for the patch 100 too.

    So that on every processor each step of training lowers the loss, and what is right is known by counting labels.
    """
    config, place = load(MODEL, DATASET), Artifacts(root, MODEL, DATASET)
    strong, valid = load_strong_model(config, place, CPU), valid_images(root)

    def constant(module: torch.nn.Module, value: float) -> torch.nn.Module:
        with torch.no_grad():
            module.get_parameter(LAST_WEIGHT).zero_()
            module.get_parameter(LAST_BIAS).fill_(value)
        return module

    modules = [constant(load_module(config, place, c, CPU), 100.0 * (c == answer)) for c in range(NUM_CLASSES)]
    masks = np.stack([module_files.module_kernels(place, c).load(KERNELS) for c in range(NUM_CLASSES)])
    right = int((valid.labels == answer).sum())
    known = dataclasses.replace(module_files.report(place).load(), valid_right_composed=right)
    write_modules(strong, modules, masks, known, config, place)
    of_patch, stage = place.for_patch(TARGET), Stage(config, place, CPU, torch.float32, 0)
    module = constant(load_module(config, of_patch, TARGET, CPU), 100.0)
    report = module_files.report_for_patch(of_patch).load()
    report = dataclasses.replace(report, explained=explained(root, module))
    mask = module_files.module_kernels(of_patch, TARGET).load(KERNELS)
    write_module_for_patch(strong, module, mask, stage, valid, report)


def explained(root: Path, module: torch.nn.Module | None = None) -> float:
    """How much of the strong model's logit a module explains; by default the module for a patch that is on the disk."""
    config, place = load(MODEL, DATASET), Artifacts(root, MODEL, DATASET)
    strong, valid = load_strong_model(config, place, CPU), valid_images(root)
    if module is None:
        module = load_module(config, place.for_patch(TARGET), TARGET, CPU)
    expected, found = predict(strong.network, valid, CPU)[:, TARGET], predict(module, valid, CPU)[:, 0]
    return 1 - float((found - expected).square().mean() / expected.var(correction=0))


def composed_logits(root: Path) -> torch.Tensor:
    """What the modules answer together on the validation images."""
    config, place = load(MODEL, DATASET), Artifacts(root, MODEL, DATASET)
    modules = [load_module(config, place, target_class, CPU) for target_class in range(NUM_CLASSES)]
    return predict(ComposedModel(modules), valid_images(root), CPU)


def modules_in(root: Path, of_patch: bool = False) -> dict[str, bytes]:
    """What lies beside the modules, but for the seconds in the report."""
    place = Artifacts(root, MODEL, DATASET)
    place = place.for_patch(TARGET) if of_patch else place
    files = files_below(place.folder / "modules")
    return {name: content for name, content in files.items() if name != "report.json"}


@for_real
def test_modules_of_all_classes_answer_better_and_stay_as_small(root: Path, searched: Path, run_main: Main) -> None:
    config, place, before = load(MODEL, DATASET), Artifacts(root, MODEL, DATASET), Artifacts(searched, MODEL, DATASET)
    labels = torch.tensor(valid_images(root).labels)
    make_constant(root, 0)
    was, loss = module_files.report(place).load(), torch.nn.functional.cross_entropy(composed_logits(root), labels)
    done = run_main(SCRIPT, *TUNE, root=root)
    assert done.exit_code == 0, done
    now, logits = module_files.report(place).load(), composed_logits(root)
    assert torch.nn.functional.cross_entropy(logits, labels) < loss
    assert now.valid_right_composed >= was.valid_right_composed and now.kernels_kept == was.kernels_kept
    assert f"{was.valid_right_composed} of {was.valid_images} validation images right before" in done.stdout
    assert now.search["fine_tuned"]["steps"] == 12
    assert count_right(logits, labels.numpy()) == now.valid_right_composed
    for target_class in range(NUM_CLASSES):
        kept = (load_kernel_mask(config, each, target_class) for each in (before, place))
        assert np.array_equal(*kept)
    written = files_below(place.folder / "modules")
    assert "fine-tuned already" in run_main(SCRIPT, *TUNE, root=root).stdout
    assert files_below(place.folder / "modules") == written
    other = run_main(SCRIPT, *TUNE, "--set", "fine_tuning_steps=13", root=root)
    other.refused("fine-tuned already, with other settings (steps: 12 there, 13 now)", SEARCH)
    run_main("experiments/results/publish_model.py", *NAMES, root=root).refused("cut from the strong model", SEARCH)
    assert run_main("scripts/make_report.py", *NAMES, root=root).exit_code == 0
    assert ", and fine-tuned." in (place.folder / "report" / "index.html").read_text()
    assert run_main(TRADE_OFF, *ONLY, root=root).exit_code == 0
    (own,) = csv.DictReader((place.folder / "trade_off_valid.csv").read_text().splitlines())
    assert own["method"] == "fine-tuned" and own["target"].endswith(", 12 steps")
    assert int(own["right"]) == now.valid_right_composed and float(own["seconds"]) > 0
    assert float(own["kernels_kept"]) == pytest.approx(np.mean(now.kernels_kept) / now.kernels)
    done = run_main(SEARCH, *SMALL, "--keep", 0.4, root=root)  # its rounds are done: the modules as they were cut
    assert done.exit_code == 0 and modules_in(root) == modules_in(searched)


@for_real
def test_a_module_for_a_patch_says_more_of_what_the_strong_model_says(root: Path, run_main: Main) -> None:
    make_constant(root, 0)
    config, place = load(MODEL, DATASET), Artifacts(root, MODEL, DATASET).for_patch(TARGET)
    was = module_files.report_for_patch(place).load()
    done = run_main(SCRIPT, *TUNE, *FOR_PATCH, root=root)
    assert done.exit_code == 0, done
    now = module_files.report_for_patch(place).load()
    assert now.explained > was.explained and now.flops == was.flops and "fine_tuned" in now.search
    assert now.explained == pytest.approx(explained(root))
    valid = valid_images(root)
    found = predict(load_module(config, place, TARGET, CPU), valid, CPU)[:, 0]
    assert_near(module_files.module_outputs(place, TARGET).load(None), found[valid.labels == TARGET])


@for_real
@pytest.mark.parametrize("of_patch", [False, True], ids=["together", "for a patch"])
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(
    root: Path, tmp_path: Path, run_main: Main, monkeypatch: pytest.MonkeyPatch, of_patch: bool
) -> None:
    words = [*TUNE, *(FOR_PATCH if of_patch else [])]
    make_constant(root, 0)
    whole = Path(shutil.copytree(root, tmp_path / "whole"))
    assert run_main(SCRIPT, *words, root=whole).exit_code == 0
    whole_step = FineTuner.step
    monkeypatch.setattr("search.gradient.fine_tuning_run.STEPS_PER_STATE", 5)

    def step(one: FineTuner) -> float:
        if one.steps_done > 6:
            raise KeyboardInterrupt
        return whole_step(one)

    with monkeypatch.context() as patch:
        patch.setattr(FineTuner, "step", step)
        assert run_main(SCRIPT, *words, root=root).exit_code == 130
    run_main(SCRIPT, *words, "--set", "fine_tuning_step_size=0.1", root=root).refused("step_size: 0.001 there, 0.1 now")
    place = Artifacts(root, MODEL, DATASET)
    state = module_files.fine_tuning_state(place.for_patch(TARGET) if of_patch else place)
    state.save({**state.load(), "seconds": 1000.0})
    done = run_main(SCRIPT, *words, root=root)
    assert done.exit_code == 0 and "going on after step 5" in done.stdout, done
    report = module_files.report_for_patch(place.for_patch(TARGET)) if of_patch else module_files.report(place)
    assert 1000 < report.load().search["fine_tuned"]["seconds"] < 2000
    assert modules_in(root, of_patch) == modules_in(whole, of_patch)


KERNELS, LAST_LAYER = 1072, "fcs.0."


def spoiled(factor: float) -> Callable[[FineTuner], float]:
    """A step of fine-tuning that multiplies the logits by a factor."""

    def step(one: FineTuner) -> float:
        one.steps_done += 1
        for module in one.modules:
            scale_logits(module, factor)
        return 0.0

    return step


def scale_logits(module: torch.nn.Module, factor: float) -> None:
    with torch.no_grad():
        for name, value in module.named_parameters():
            if name.startswith(LAST_LAYER):
                value.mul_(factor)


def put_whole_modules(root: Path, factor: float = 1.0) -> None:
    """Modules that keep all kernels take the place of those that the search left, their logits times a factor."""
    config, place = load(MODEL, DATASET), Artifacts(root, MODEL, DATASET)
    strong, masks = load_strong_model(config, place, CPU), np.ones((NUM_CLASSES, KERNELS), bool)
    modules = [copy.deepcopy(module) for module in extract_modules(strong, masks)]
    for module in modules:
        scale_logits(module, factor)
    stage, split = Stage(config, place, CPU, torch.float32, 0), load_split(config)
    known = evaluate_modules(strong, modules, masks, split, CPU, {})
    write_modules(strong, modules, masks, known, config, place)
    report = module_files.report_for_patch(place.for_patch(TARGET)).load()
    report = dataclasses.replace(report, explained=1.0, kernels_kept=KERNELS)
    write_module_for_patch(strong, modules[TARGET], masks[TARGET], stage, split.valid, report)


@for_real
@pytest.mark.parametrize("of_patch", [False, True], ids=["together", "for a patch"])
@pytest.mark.parametrize("factor", [2.0**-8, torch.nan])
def test_modules_that_get_worse_stay_as_they_were(
    root: Path, run_main: Main, monkeypatch: pytest.MonkeyPatch, factor: float, of_patch: bool
) -> None:
    """Also where the number of correct images is the same, as with all logits divided by a power of two."""
    put_whole_modules(root)
    place, before = Artifacts(root, MODEL, DATASET), files_below(root)
    monkeypatch.setattr(FineTuner, "step", spoiled(factor))
    done = run_main(SCRIPT, *TUNE, "--set", "fine_tuning_steps=1", *(FOR_PATCH if of_patch else []), root=root)
    assert done.exit_code == 0 and "the modules stay as they were" in done.stdout, done
    assert files_below(root) == before
    if not of_patch:
        was = module_files.report(place).load()
        after = was.valid_right_composed if factor == 2.0**-8 else "[0-9]+"
        line = f"{was.valid_right_composed} of {was.valid_images} validation images right before, {after} after;"
        assert re.search(line, done.stdout), done.stdout
        run_main(TRADE_OFF, *ONLY, root=root).refused("--only fine-tuned: ", "has no such modules", SCRIPT)


@for_real
def test_of_equal_counts_the_smaller_loss_wins(root: Path, run_main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules of small logits, and so of a large cross-entropy, become larger."""
    put_whole_modules(root, 2.0**-8)
    place = Artifacts(root, MODEL, DATASET)
    was, before = module_files.report(place).load(), module_files.module(place, 0).load()
    monkeypatch.setattr(FineTuner, "step", spoiled(2.0**8))
    done = run_main(SCRIPT, *TUNE, "--set", "fine_tuning_steps=1", root=root)
    assert done.exit_code == 0, done
    now, after = module_files.report(place).load(), module_files.module(place, 0).load()
    assert now.valid_right_composed == was.valid_right_composed and "fine_tuned" in now.search
    assert all(torch.equal(value * 2.0**8, after[name]) for name, value in before.items() if LAST_LAYER in name)


@for_real
def test_a_step_size_that_explodes_leaves_no_state_behind(
    root: Path, searched: Path, run_main: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.gradient.fine_tuning_run.STEPS_PER_STATE", 1)
    of_step = StepBatches.of_step

    def explosive(batches: StepBatches, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = of_step(batches, step)
        return images * (torch.inf if step == 2 else 1.0), labels

    with monkeypatch.context() as patch:
        patch.setattr(StepBatches, "of_step", explosive)
        run_main(SCRIPT, *TUNE, root=root).refused("step 2: the loss is nan; lower the fine_tuning_step_size")
    assert files_below(root) == files_below(searched)


def test_what_does_not_fit_is_refused(strong_roots: Callable[[str, str], Path], run_main: Main) -> None:
    root = strong_roots(MODEL, DATASET)
    for words in (["--for_patch"], ["--target_class", "3"]):
        run_main(SCRIPT, *NAMES, *words, root=root).refused("--for_patch and --target_class: expected both or none")
    run_main(SCRIPT, *NAMES, root=root).refused("report.json", "first run")
    run_main(SCRIPT, *NAMES, *FOR_PATCH, root=root).refused("report.json", "--for_patch --target_class 3")
    run_main(SCRIPT, *NAMES, "--set", "fine_tuning_steps=0", root=root).refused("fine_tuning_steps", "at least 1")
