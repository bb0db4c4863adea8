"""Fine-tuning as a user runs it: modules of the same size that are better, the same in pieces, and what is refused."""

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Run, files_below, keep_few_images, live_in, run_here

import global_configure
from configures.base import load
from dataset.splits import load_split
from models.evaluation import count_right, cpu_state, predict
from models.opening import Stage
from models.strong_model import load_strong_model
from modules.module import ComposedModel, extract_modules, log_odds, replaced
from modules.module_set import ModuleSet
from modules.module_sets import open_set, save_set
from modules.own_class import auc_by_class, explained_variance
from search.gradient import files
from search.gradient.batches import StepBatches
from search.gradient.trainer import Trainer
from utils.artifacts import Artifacts

CPU = torch.device("cpu")
MODEL, DATASET, NUM_CLASSES = "rescnn_x0_25", "digits_5", 5
SCRIPT, SEARCH = "module_fine_tuner.py", "module_gradient_search.py"
NAMES = ["--model", MODEL, "--dataset", DATASET]
FEW = ["mask_steps=3", "mask_batch_size=6", "mask_keeps=0.6"]
SMALL = [*NAMES, *(word for setting in FEW for word in ("--set", setting))]
TUNE = [*NAMES, "--set", "mask_batch_size=16", "--set", "fine_tuning_steps=12"]
SOME = (1, 3)
Main = Callable[..., Run]


def for_real(test: Callable[..., None]) -> Callable[..., None]:
    """Of whole searches, which these tests share."""
    return pytest.mark.slow(pytest.mark.xdist_group("fine-tuning")(test))


@pytest.fixture(scope="module")
def searched(strong_roots: Callable[[str, str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root_dir with a set of small modules of all classes."""
    root = Path(shutil.copytree(strong_roots(MODEL, DATASET), tmp_path_factory.mktemp("searched") / "root"))
    keep_few_images(root)
    done = run_here(SEARCH, *SMALL, "--keep", 0.4, root=root)
    assert done.exit_code == 0, done
    return root


@pytest.fixture
def root(searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(global_configure, "root_dir", tmp_path / "root")
    return Path(shutil.copytree(searched, tmp_path / "root"))


def opened(root: Path, name: str | None = None) -> ModuleSet:
    return open_set(load(MODEL, DATASET), Artifacts(root, MODEL, DATASET), name, ())


def answers(root: Path, modules: ModuleSet) -> tuple[torch.Tensor, torch.Tensor]:
    """The strong model's logits on the validation images, those of the set's classes replaced; and the labels."""
    with pytest.MonkeyPatch.context() as patch:
        live_in(root, patch)
        config, valid = load(MODEL, DATASET), load_split(load(MODEL, DATASET)).valid
        strong = load_strong_model(config, Artifacts(root, MODEL, DATASET), CPU)
    logits = predict(ComposedModel(modules.modules(CPU)), valid, CPU)
    return replaced(predict(strong.network, valid, CPU), logits, modules.target_classes), torch.tensor(valid.labels)


def change(module: torch.nn.Module, factor: float, bias: float = 0.0) -> None:
    """Multiply a module's logit, and add to it."""
    with torch.no_grad():
        module.get_parameter("fcs.0.weight").mul_(factor)
        module.get_parameter("fcs.0.bias").mul_(factor).add_(bias)


def put_modules(root: Path, classes: Sequence[int], kept: float, factor: float, bias: float = 0.0) -> ModuleSet:
    """Modules that keep all kernels, or those that the search left, with other logits, become the most recent set.

    The bias is added to the first module's. With a large one that class is always the answer, so that what is right is
    known, and does not change while training lowers the loss.
    """
    config, place = load(MODEL, DATASET), Artifacts(root, MODEL, DATASET)
    strong = load_strong_model(config, place, CPU)
    masks = np.ones((len(classes), strong.units.num_kernels), bool) if kept == 1 else opened(root, "gradient").masks()
    masks = masks if kept == 1 else masks[list(classes)]
    modules = extract_modules(strong, masks, target_classes=classes)
    for number, module in enumerate(modules):
        change(module, factor, 0.0 if number else bias)
    stage = Stage(config, place, CPU, torch.float32, 0)
    names = {"name": "put", "default_name": "put"}
    weights = [cpu_state(module) for module in modules]
    return save_set(stage, strong, masks, load_split(config), {}, **names, target_classes=classes, weights=weights)


@for_real
@pytest.mark.parametrize("classes", [range(NUM_CLASSES), SOME, (3,)], ids=["all", "some", "one"])
def test_modules_answer_better_and_stay_as_small(root: Path, run_main: Main, classes: Sequence[int]) -> None:
    """Of constant modules, so that on every processor training lowers the loss."""
    parent = put_modules(root, classes, 0.4, 0.0, bias=100.0)
    was, labels = answers(root, parent)
    before = files_below(root)
    done = run_main(SCRIPT, *TUNE, root=root)
    assert done.exit_code == 0, done
    tuned = opened(root)
    assert (tuned.name, tuned.record.parent, tuned.target_classes) == ("put_tuned", "put", tuple(classes))
    now, _ = answers(root, tuned)
    entropies = [torch.nn.functional.cross_entropy(logits, labels) for logits in (was, now)]
    assert entropies[1] < entropies[0] and count_right(now, labels.numpy()) == tuned.record.valid_right_composed
    assert tuned.record.valid_right_composed >= parent.record.valid_right_composed
    assert np.array_equal(tuned.masks(), parent.masks()) and tuned.record.search["fine_tuned"]["steps"] == 12
    line = f"{parent.record.valid_right_composed} of {parent.record.valid_images} validation images right before"
    assert line in done.stdout
    after = files_below(root)
    changed = {name for name in after if before.get(name) != after[name] and "/put_tuned/" not in name}
    assert changed == {f"data/{MODEL}_{DATASET}/modules/latest.json"} and before.keys() <= after.keys()
    again = run_main(SCRIPT, *TUNE, root=root)  # its default is the tuned set's parent now
    assert "module set put_tuned: fine-tuned already" in again.stdout and files_below(root) == after


@for_real
def test_another_fine_tuning_is_another_set(root: Path, run_main: Main) -> None:
    put_modules(root, SOME, 0.4, 0.0, bias=100.0)
    for words, name in (
        ([], "put_tuned"),
        (["--set", "fine_tuning_steps=13"], "put_tuned-2"),
        (["--modules", "put_tuned", "--as", "further"], "further"),
    ):
        done = run_main(SCRIPT, *TUNE, *words, root=root)
        assert done.exit_code == 0 and opened(root).name == name, done
    assert opened(root).record.parent == "put_tuned"


@for_real
@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.long)])
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(
    root: Path, tmp_path: Path, run_main: Main, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """In groups, interrupted within the second one; the whole run has all modules in one group."""
    put_modules(root, range(NUM_CLASSES), 0.4, 0.0, bias=100.0)
    whole = Path(shutil.copytree(root, tmp_path / "whole"))
    assert run_main(SCRIPT, *TUNE, root=whole).exit_code == 0
    whole_step = Trainer.step
    monkeypatch.setattr("search.gradient.groups.STEPS_PER_STATE", 5)
    monkeypatch.setattr("search.gradient.rounds.group_size", lambda *_: size)

    def step(trainer: Trainer, before: float, keep: float) -> float:
        if trainer.steps_done > 6 and 0 not in [module.target_class for module in trainer.modules]:
            raise KeyboardInterrupt
        return whole_step(trainer, before, keep)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", step)
        assert run_main(SCRIPT, *TUNE, root=root).exit_code == 130
    run_main(SCRIPT, *TUNE, "--set", "fine_tuning_step_size=0.1", root=root).refused(
        "step_size: ", "there, 0.1 now", "remove it"
    )
    assert len(list(files.of_fine_tuning(Artifacts(root, MODEL, DATASET), "put").folder.iterdir())) == min(2 * size, 5)
    done = run_main(SCRIPT, *TUNE, root=root)
    assert done.exit_code == 0 and "going on after step 5" in done.stdout, done
    assert f"going on after {size} of 5 modules of fine-tuning" in done.stdout, done
    assert opened(root).record.files == opened(whole).record.files
    assert not list(files.of_fine_tuning(Artifacts(root, MODEL, DATASET), "put").folder.iterdir())


def multiplied(factor: float) -> Callable[[Trainer, float, float], float]:
    """A step of fine-tuning that multiplies the logits by a factor."""

    def step(trainer: Trainer, before: float, keep: float) -> float:
        for module in trainer.modules:
            module.steps_done += 1
            change(module.network, factor)
        return 0.0

    return step


@for_real
@pytest.mark.parametrize("factor", [2.0**-8, torch.nan])
def test_modules_that_get_worse_are_not_written(
    root: Path, run_main: Main, monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    """Also where the number of correct images is the same, as with all logits divided by a power of two."""
    was, before = put_modules(root, range(NUM_CLASSES), 1, 1.0).record, files_below(root)
    monkeypatch.setattr(Trainer, "step", multiplied(factor))
    done = run_main(SCRIPT, *TUNE, "--set", "fine_tuning_steps=1", root=root)
    assert done.exit_code == 0 and "no new module set" in done.stdout, done
    assert files_below(root) == before
    after = was.valid_right_composed if factor == 2.0**-8 else "[0-9]+"
    line = f"{was.valid_right_composed} of {was.valid_images} validation images right before, {after} after;"
    assert re.search(line, done.stdout), done.stdout


@for_real
def test_of_equal_counts_the_smaller_loss_wins(root: Path, run_main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules of small logits, and so of a large cross-entropy, become larger."""
    was = put_modules(root, range(NUM_CLASSES), 1, 2.0**-8)
    monkeypatch.setattr(Trainer, "step", multiplied(2.0**8))
    done = run_main(SCRIPT, *TUNE, "--set", "fine_tuning_steps=1", root=root)
    assert done.exit_code == 0, done
    now = opened(root)
    assert now.name == "put_tuned" and now.record.valid_right_composed == was.record.valid_right_composed
    assert all(
        torch.equal(value * 2.0**8, now.file(0).load()[name])
        for name, value in was.file(0).load().items()
        if name.startswith("fcs.0.")
    )


@for_real
def test_what_is_no_state_of_it_is_refused(root: Path, run_main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state of the same settings, of other modules."""
    put_modules(root, SOME, 0.4, 0.0, bias=100.0)
    monkeypatch.setattr("search.gradient.groups.STEPS_PER_STATE", 2)

    def interrupt(trainer: Trainer) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "finish_round", interrupt)
        assert run_main(SCRIPT, *TUNE, root=root).exit_code == 130
    file, other = (files.of_fine_tuning(Artifacts(root, MODEL, DATASET), "put").within(each) for each in SOME)
    state = file.load()
    for wrong in ({**state, "weights": {}}, {**state, "mask": state["kept"]}, {**other.load(), "kept": ~state["kept"]}):
        file.save(wrong)
        run_main(SCRIPT, *TUNE, root=root).refused("state_class_1.pth: not the state of such a search", SCRIPT)
    file.save(state)
    done = run_main(SCRIPT, *TUNE, root=root)
    assert done.exit_code == 0 and "going on after step 12" in done.stdout, done


@for_real
def test_a_search_goes_on_to_fine_tuning_where_that_is_asked_for(root: Path, run_main: Main) -> None:
    words = [*SMALL, "--set", "fine_tuning_steps=4", "--keep", 0.4]
    before = files_below(root)
    done = run_main(SEARCH, *words, "--fine_tune", root=root)
    assert done.exit_code == 0 and "validation images right before" in done.stdout, done
    new = {name: content for name, content in files_below(root).items() if before.get(name) != content}
    tuned = opened(root)
    if "no new module set" in done.stdout:  # what a few steps are good for depends on the processor
        assert tuned.name == "gradient" and not any("gradient_tuned" in name for name in new)
    else:
        assert (tuned.name, tuned.record.parent) == ("gradient_tuned", "gradient")
        assert np.array_equal(tuned.masks(), opened(root, "gradient").masks())
        assert all("/gradient_tuned/" in name or name.endswith("latest.json") for name in new)


@for_real
def test_a_step_size_that_explodes_leaves_no_state_behind(
    root: Path, searched: Path, run_main: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.gradient.groups.STEPS_PER_STATE", 1)
    of_step = StepBatches.of_step

    def explosive(batches: StepBatches, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = of_step(batches, step)
        return images * (torch.inf if step == 2 else 1.0), labels

    monkeypatch.setattr(StepBatches, "of_step", explosive)
    run_main(SCRIPT, *TUNE, root=root).refused("step 2: the loss is nan; use smaller steps")
    assert files_below(root) == files_below(searched)


def test_what_does_not_fit_is_refused(strong_roots: Callable[[str, str], Path], run_main: Main) -> None:
    root = strong_roots(MODEL, DATASET)
    run_main(SCRIPT, *NAMES, root=root).refused("no module set", "first run")
    run_main(SCRIPT, *NAMES, "--modules", "mine", root=root).refused("--modules mine: no such module set")
    run_main(SCRIPT, *NAMES, "--as", "a/b", root=root).refused("--as a/b")
    run_main(SCRIPT, *NAMES, "--set", "fine_tuning_steps=0", root=root).refused("fine_tuning_steps", "at least 1")


@for_real
def test_modules_of_log_odds_stay_modules_of_log_odds(
    root: Path, run_main: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every stage compares them with the strong model's log-odds, and fine-tuning trains them towards these."""
    own = [*SMALL, "--keep", 0.9, "--set", "mask_answer=log_odds", "--set", "mask_step_size=0.002", "--as", "odds"]
    assert run_main(SEARCH, *own, "--target_class", 1, 3, root=root).exit_code == 0
    given = [*TUNE, "--set", "mask_answer=logit", "--modules", "odds"]
    run_main(SCRIPT, *given, root=root).refused("mask_answer=logit", "module set odds decides, which gives log_odds")
    step, goals = Trainer.step, []
    monkeypatch.setattr(Trainer, "step", lambda self, *shares: goals.append(self.goal.answer) or step(self, *shares))
    done = run_main(SCRIPT, *TUNE, "--set", "fine_tuning_step_size=1e-4", "--modules", "odds", root=root)
    assert done.exit_code == 0 and set(goals) == {"log_odds"}, done
    config, place = load(MODEL, DATASET), Artifacts(root, MODEL, DATASET)
    valid, strong = load_split(config).valid, load_strong_model(config, place, CPU)
    of_strong = log_odds(predict(strong.network, valid, CPU))
    for name in ("odds", *["odds_tuned"] * ("module set odds_tuned" in done.stdout)):  # if it is better
        modules = opened(root, name)
        logits = predict(ComposedModel(modules.modules(CPU)), valid, CPU)
        record, expected = modules.record, of_strong[:, list(SOME)]
        assert record.answer == "log_odds"
        assert record.explained == pytest.approx(explained_variance(logits.numpy(), expected.numpy()), abs=1e-3)
        assert record.valid_auc_strong == pytest.approx(auc_by_class(expected.numpy(), valid.labels, SOME))
        right = count_right(replaced(of_strong, logits, SOME), valid.labels)
        assert record.valid_right_composed == right
    done = run_main("experiments/trade_off/trade_off.py", *NAMES, "--modules", "odds", root=root)
    assert done.exit_code == 0 and f"({opened(root, 'odds').record.valid_right_composed})" in done.stdout, done
