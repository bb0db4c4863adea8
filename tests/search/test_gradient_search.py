"""The gradient search as a user runs it: the contract's files, the same for the same seed, also when interrupted."""

import csv
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TOP, Run, assert_near, files_below, keep_few_images, run_here, run_script
from shuffled_engine import ShuffledEngine
from sklearn.metrics import roc_auc_score

import engines.opening
import global_configure
from configures.base import load
from dataset.images import normalise
from dataset.splits import load_split
from models import files as model_files
from models.evaluation import predict
from models.strong_model import build_strong_network, graph_of, load_strong_model
from modules import files as module_files
from modules.module_sets import open_set
from report import files as report_files
from search.driver import check_has_images
from search.genetic import files as genetic_files
from search.genetic.kernel_groups import genome_layout, kernel_groups
from search.gradient import files as gradient_files
from search.gradient.goal import goal_of
from search.gradient.method import Gradient
from search.gradient.trainer import Trainer, search_settings
from search.gradient.weight_places import WeightPlaces
from search.judging import Judge
from utils.artifacts import Artifacts, CheckpointFile
from utils.errors import UserError
from utils.files import save_array

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("gradient search")]

MODEL, DATASET, NUM_CLASSES = "rescnn_x0_25", "digits_5", 5
SCRIPT, LAUNCHER = "module_gradient_search.py", "scripts/run_module_search.py"
NAMES = ["--model", MODEL, "--dataset", DATASET]
SETTINGS = ["mask_steps=3", "mask_batch_size=6", "mask_keeps=0.8,0.6,0.5", "mask_step_size=0.02"]
SMALL = [*NAMES, *(word for setting in SETTINGS for word in ("--set", setting))]
ALL_ROUNDS = ["--max_loss", "100"]  # whatever is lost, and the last one is chosen
Main = Callable[..., Run]


@pytest.fixture(scope="module")
def ready(strong_roots: Callable[[str, str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root_dir with a strong model."""
    root = Path(shutil.copytree(strong_roots(MODEL, DATASET), tmp_path_factory.mktemp("ready") / "root"))
    keep_few_images(root)
    return root


@pytest.fixture
def root(ready: Path, tmp_path: Path) -> Path:
    """Ready for a search."""
    return Path(shutil.copytree(ready, tmp_path / "root"))


@pytest.fixture(scope="module")
def reference(ready: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole search."""
    root = Path(shutil.copytree(ready, tmp_path_factory.mktemp("reference") / "root"))
    done = run_here(SCRIPT, *SMALL, *ALL_ROUNDS, root=root)
    assert done.exit_code == 0, done
    (root / "printed.txt").write_text(done.stdout)
    return root


def found(root: Path) -> dict[str, bytes]:
    """What a search finds: the masks and weights of its rounds, and the modules."""
    files = files_below(Artifacts(root, MODEL, DATASET).folder)
    return {
        name: content
        for name, content in files.items()
        if ("/round_" in name and ".old_" not in name) or name.startswith("modules/gradient/class")
    }


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.long)])
def test_modules_on_an_engine_learn_the_same(
    root: Path, reference: Path, run_main: Main, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Each by itself, also where nodes die, and where the search is interrupted and goes on in one process."""
    engine = ShuffledEngine(count=1, seed=seed)
    ran = []

    def interrupt() -> None:
        assert len(engine.tasks) <= 2  # whose modules are in memory
        ran.append(len(ran))
        if len(ran) == NUM_CLASSES + 3:  # within the second round
            raise KeyboardInterrupt

    monkeypatch.setattr(engine, "before_task", interrupt)
    monkeypatch.setattr(engines.opening, "LocalEngine", lambda **_: engine)
    assert run_main(SCRIPT, *SMALL, *ALL_ROUNDS, "--engine", "local", root=root).exit_code == 130
    alone = [] if seed else ["--engine", "local"]
    done = run_main(SCRIPT, *SMALL, *ALL_ROUNDS, *alone, root=root)
    assert done.exit_code == 0 and "going on after 2 of 5 modules of round 1" in done.stdout, done
    assert found(root) == found(reference)
    assert engine.log.count("died")


def test_a_class_has_the_same_module_whichever_others_are_searched(
    reference: Path, tmp_path: Path, run_main: Main
) -> None:
    """And a search of some classes leaves that of all alone."""
    root = Path(shutil.copytree(reference, tmp_path / "root"))
    before = found(root)
    done = run_main(SCRIPT, *SMALL, *ALL_ROUNDS, "--target_class", 1, 3, root=root)
    assert done.exit_code == 0, done
    config, artifacts = load(MODEL, DATASET), Artifacts(root, MODEL, DATASET)
    rest = {name: content for name, content in found(root).items() if "gradient_class_1_3/" not in name}
    assert rest == before
    some, whole = (open_set(config, artifacts, name, ()) for name in ("gradient_class_1_3", "gradient"))
    assert some.target_classes == (1, 3)
    for target_class in some.target_classes:
        ours, theirs = (each.file(target_class).load() for each in (some, whole))
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    row, last = (gradient_files.of_search(artifacts, classes).log.load()[-1] for classes in ((1, 3), ()))
    assert row.right_composed == some.record.valid_right_composed and row.right_strong == last.right_strong
    assert row.explained_least == pytest.approx(min(some.record.explained), abs=1e-4)
    assert row.flops == pytest.approx(np.mean(some.record.flops))


def test_a_search_for_patches_ends_where_modules_know_no_more(
    root: Path, run_main: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.gradient.method.knows", lambda row: row.number == 0)
    monkeypatch.setattr("search.gradient.log.knows", lambda row: row.number == 0)
    done = run_main(SCRIPT, *SMALL, "--for_patch", "--target_class", 2, root=root)
    assert done.exit_code == 0 and "modules of round 0" in done.stdout, done
    assert len(gradient_files.of_search(Artifacts(root, MODEL, DATASET), (2,)).log.load()) == 2


def test_it_fills_the_same_contract_as_the_genetic_search(reference: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(global_configure, "root_dir", reference)
    config, artifacts = load(MODEL, DATASET), Artifacts(reference, MODEL, DATASET)
    model = load_strong_model(config, artifacts, torch.device("cpu"))
    strong = build_strong_network(config).eval()
    strong.load_state_dict(model.network.state_dict())
    widths = [layer.width for layer in model.units.layers]
    rounds = gradient_files.of_search(artifacts).log.load_if_there()
    assert [row.keep for row in rounds] == [0.8, 0.6, 0.5]
    assert [row.steps for row in rounds] == [3, 6, 9]
    modules = open_set(config, artifacts, "gradient")
    masks, record = modules.masks(), modules.record
    assert rounds[-1].kernels_kept == masks.mean() <= 0.5
    places, (_, weights) = WeightPlaces(model), gradient_files.of_search(artifacts).load(2, model, range(NUM_CLASSES))
    valid = load_split(config).valid
    images = normalise(torch.tensor(valid.pixels), valid.normalisation)
    right = np.zeros((NUM_CLASSES, len(valid)))
    with torch.inference_mode():
        for c in range(NUM_CLASSES):
            module = modules.module(c, torch.device("cpu"))
            assert all(torch.equal(value, weights[c][name]) for name, value in module.state_dict().items())

            # The masked strong model, the slow way, with the module's weights in their places. Behind a conv layer
            # stand ReLU and additions of maps with the same factors, and these are positive.
            own = {name: value.clone() for name, value in model.network.state_dict().items()}
            for name, of_weight in places.of(model.units.gather(masks[c]), c).items():
                flat = own[name].flatten()
                flat[of_weight.flatten() - 1] = weights[c][name].flatten()
                own[name] = flat.view(own[name].shape)
            strong.load_state_dict(own)
            for conv, part in zip(strong.convs, torch.tensor(masks[c]).float().split(widths), strict=True):
                conv.register_forward_hook(lambda _, __, maps, part=part: maps * part[:, None, None])
            expected = strong(images)[:, c]
            for conv in strong.convs:
                conv._forward_hooks.clear()
            right[c] = predict(module, valid, torch.device("cpu"))[:, 0]
            assert_near(module(images)[:, 0], expected)
    strong.load_state_dict(model.network.state_dict())
    assert record.method == "gradient" and record.search["settings"]["steps"] == 3
    assert (masks.mean(1) <= 0.5).all()  # each module has a budget of its own
    # Rounding may turn a near tie: one image more or less, or one pair of images of the 800 or so that an AUC counts.
    found_right = (right.argmax(0) == valid.labels).sum(), rounds[-1].right_composed
    assert all(abs(record.valid_right_composed - number) <= 1 for number in found_right)
    for name, logits in (("modules", right.T), ("strong", predict(strong, valid, torch.device("cpu")).numpy())):
        of_classes = [roc_auc_score(valid.labels == c, logits[:, c]) for c in range(NUM_CLASSES)]
        np.testing.assert_allclose(getattr(record, f"valid_auc_{name}"), of_classes, atol=0.005)
    below = np.subtract(record.valid_auc_strong, record.valid_auc_modules).max()
    assert rounds[-1].auc_below == pytest.approx(below, abs=0.005)
    assert rounds[-1].auc_mean == pytest.approx(np.mean(record.valid_auc_modules), abs=0.005)
    answers = predict(strong, valid, torch.device("cpu")).argmax(1).numpy()
    assert rounds[0].right_strong == (answers == valid.labels).sum()
    assert "modules of round 2" in (reference / "printed.txt").read_text()


def test_every_setting_of_the_search_stands_beside_its_files(reference: Path) -> None:
    settings = gradient_files.of_search(Artifacts(reference, MODEL, DATASET)).settings.load()
    config = load(MODEL, DATASET, SETTINGS)
    made_with = asdict(search_settings(config, "kernels")) | asdict(goal_of(config))
    for name in ("budget", "crop", "answer"):  # that of each round is in its row; an earlier version named no others
        del made_with[name]
    other = load(MODEL, DATASET, ["crop=resized", "mask_answer=log_odds"])
    as_other = {"crop": "resized", "answer": "log_odds"}
    assert Gradient().settings(other) == Gradient().settings(load(MODEL, DATASET)) | as_other
    assert settings == {**settings, **made_with}


@pytest.mark.long
def test_the_same_seed_gives_the_same_modules(root: Path, reference: Path) -> None:
    """In another process, and on another number of threads."""
    done = run_script(SCRIPT, *SMALL, *ALL_ROUNDS, root=root, env={"OMP_NUM_THREADS": "2"})
    assert done.exit_code == 0, done
    assert found(root) == found(reference)


@pytest.mark.long
def test_another_seed_gives_others(
    root: Path, reference: Path, run_main: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(global_configure, "seed", global_configure.seed + 1)
    assert run_main(SCRIPT, *SMALL, *ALL_ROUNDS, root=root).exit_code == 0
    assert found(root) != found(reference)


@pytest.fixture
def interrupted_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], AbstractContextManager[None]]:
    """Lets a search end behind a step, by its number among those of all groups."""
    whole_step = Trainer.step

    @contextmanager
    def patched(last_step: int) -> Iterator[None]:
        done: list[float] = []

        def step(trainer: Trainer, before: float, keep: float) -> float:
            if len(done) > last_step:
                raise KeyboardInterrupt
            done.append(whole_step(trainer, before, keep))
            return done[-1]

        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "step", step)
            yield

    return patched


@pytest.mark.long
@pytest.mark.parametrize("last_step", [0, 1, 4, 6, 7])
def test_an_interrupted_search_goes_on_as_if_it_had_not_been(
    root: Path,
    reference: Path,
    run_main: Main,
    monkeypatch: pytest.MonkeyPatch,
    interrupted_after: Callable[[int], AbstractContextManager[None]],
    last_step: int,
) -> None:
    monkeypatch.setattr("search.gradient.groups.STEPS_PER_STATE", 2)
    with interrupted_after(last_step):
        assert run_main(SCRIPT, *SMALL, *ALL_ROUNDS, root=root).exit_code == 130
    done = run_main(SCRIPT, *SMALL, *ALL_ROUNDS, root=root)
    assert done.exit_code == 0, done
    assert ("going on after" in done.stdout) == (last_step > 0)
    assert found(root) == found(reference)


@pytest.mark.parametrize("sizes", [(2, 1), pytest.param((1, 16), marks=pytest.mark.long)])
def test_groups_of_any_size_find_the_same(
    root: Path,
    reference: Path,
    run_main: Main,
    monkeypatch: pytest.MonkeyPatch,
    interrupted_after: Callable[[int], AbstractContextManager[None]],
    sizes: tuple[int, int],
) -> None:
    """Also where the search is interrupted within the second group of the second round, and goes on with others."""
    monkeypatch.setattr("search.gradient.groups.STEPS_PER_STATE", 2)
    monkeypatch.setattr("search.gradient.rounds.group_size", lambda *_: sizes[0])
    files, groups = gradient_files.of_search(Artifacts(root, MODEL, DATASET)), -(-NUM_CLASSES // sizes[0])
    with interrupted_after(3 * groups + 3):
        assert run_main(SCRIPT, *SMALL, *ALL_ROUNDS, root=root).exit_code == 130
    states = [files.within(target_class).load() for target_class in range(2 * sizes[0])]
    assert ["moments" in state for state in states] == [False] * sizes[0] + [True] * sizes[0]
    assert len(list(files.folder.glob("state*"))) == 2 * sizes[0]
    monkeypatch.setattr("search.gradient.rounds.group_size", lambda *_: sizes[1])
    done = run_main(SCRIPT, *SMALL, *ALL_ROUNDS, root=root)
    assert done.exit_code == 0 and f"going on after {sizes[0]} of 5 modules of round 1" in done.stdout, done
    # In a group of all others the interrupted module waits for those that have not begun.
    assert ("going on after step 4" in done.stdout) == (sizes[1] == 1)
    assert found(root) == found(reference)
    assert not list(files.folder.glob("state*"))


def test_rounds_of_an_earlier_version_are_gone_on_from_and_its_states_are_not(
    reference: Path, tmp_path: Path, run_main: Main
) -> None:
    """It wrote the weights of all modules of a round, and their states, into one file."""
    root = Path(shutil.copytree(reference, tmp_path / "root"))
    files = gradient_files.of_search(Artifacts(root, MODEL, DATASET))
    shutil.rmtree(files.folder.with_name("modules"))
    files.log.save(files.log.load()[:1])
    for path in files.folder.glob("round_0[12]_*"):
        path.unlink()
    CheckpointFile(files.folder / "state.pth", files.made_by).save({"modules": []})
    each = [files.weights(0, target_class) for target_class in range(NUM_CLASSES)]
    whole = CheckpointFile(files.folder / "round_00_weights.pth", files.made_by)
    whole.save({"modules": [file.load()["weights"] for file in each]})
    for file in each:
        file.remove()
    done = run_main(SCRIPT, *SMALL, *ALL_ROUNDS, root=root)
    assert done.exit_code == 0 and "state.pth was written by an earlier version" in done.stdout, done
    ours, theirs = found(root), found(reference)
    assert ours.keys() ^ theirs.keys() == {
        "gradient/round_00_weights.pth",
        *(f"gradient/{file.path.name}" for file in each),
    }
    assert all(ours[name] == theirs[name] for name in ours.keys() & theirs.keys())
    whole.save({"modules": whole.load()["modules"][1:]})
    run_main("experiments/trade_off/trade_off.py", *NAMES, root=root).refused(whole.path.name, "not the weights of")


@pytest.mark.long
def test_going_further_down_is_the_same_as_at_once(root: Path, reference: Path, run_main: Main) -> None:
    first = run_main(SCRIPT, *SMALL, *ALL_ROUNDS, "--set", "mask_keeps=0.8", "--as", "first", root=root)
    assert "modules of round 0" in first.stdout
    done = run_main(SCRIPT, *SMALL, *ALL_ROUNDS, root=root)
    assert "going on after round 0" in done.stdout
    rest = {name: content for name, content in found(root).items() if not name.startswith("modules/first/")}
    assert rest == found(reference)
    again = run_main(SCRIPT, *SMALL, *ALL_ROUNDS, "--set", "mask_keeps=0.8,0.6", root=root)
    assert "modules of round 1" in again.stdout


@pytest.mark.long
def test_a_target_between_the_rounds_is_a_round_of_its_own(root: Path, reference: Path, run_main: Main) -> None:
    shutil.copytree(
        Artifacts(reference, MODEL, DATASET).folder, Artifacts(root, MODEL, DATASET).folder, dirs_exist_ok=True
    )
    done = run_main(SCRIPT, *SMALL, *ALL_ROUNDS, "--set", "mask_keeps=0.8,0.7", root=root)
    assert done.exit_code == 0, done
    rounds = gradient_files.of_search(Artifacts(root, MODEL, DATASET)).log.load_if_there()
    assert [row.keep for row in rounds] == [0.8, 0.7]


def test_no_row_of_the_log_is_of_another_round_than_its_files(
    root: Path, reference: Path, run_main: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted where a round's files are written, and its row is not."""
    artifacts = Artifacts(root, MODEL, DATASET)
    shutil.copytree(Artifacts(reference, MODEL, DATASET).folder, artifacts.folder, dirs_exist_ok=True)
    keeps = [row.keep for row in gradient_files.of_search(artifacts).log.load()]

    def judged(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Judge, "of", judged)
        run = run_main(SCRIPT, *SMALL, *ALL_ROUNDS, "--set", "mask_keeps=0.8,0.7", root=root)
    assert run.exit_code == 130 and "1 to 2 were asked for otherwise: the old search is now" in run.stdout, run
    files = gradient_files.of_search(artifacts)
    assert [row.keep for row in files.log.load()] == keeps[:1]
    old = files_below(files.folder.with_name("gradient.old_1"))
    assert set(files_below(Artifacts(reference, MODEL, DATASET).folder / "gradient")) <= old.keys()
    done = run_main(SCRIPT, *SMALL, *ALL_ROUNDS, root=root)
    assert done.exit_code == 0 and found(root) == found(reference), done


def test_the_searches_that_are_there_are_found_whatever_their_folder_is_called(tmp_path: Path) -> None:
    artifacts, config = Artifacts(tmp_path, MODEL, DATASET), load(MODEL, DATASET)
    many = tuple(range(2, 60))
    for classes in ((), (3,), (1, 4), (10,), many):
        gradient_files.of_search(artifacts, classes).settings.save(Gradient(classes).settings(config))
    assert gradient_files.of_search(artifacts, many).folder.name.startswith("gradient_58_classes_")
    assert gradient_files.searched(artifacts) == [(), (1, 4), many, (3,), (10,)]
    assert "target_classes" not in Gradient((1, 4)).settings(config)


@pytest.mark.parametrize(("classes", "refused"), [((), "valid"), ((1,), "valid"), ((0,), None)])
def test_each_searched_class_has_images(classes: tuple[int, ...], refused: str | None) -> None:
    labels = np.array([0, 1, 2])
    split = SimpleNamespace(
        classes=("a", "b", "c"), train=SimpleNamespace(labels=labels), valid=SimpleNamespace(labels=labels * 2 % 4)
    )
    if refused is None:
        check_has_images(split, classes)
        return
    with pytest.raises(UserError, match=f"class 1 .b.: expected {refused} images of it"):
        check_has_images(split, classes)


def test_rounds_of_another_strong_model_are_not_measured(reference: Path, tmp_path: Path, run_main: Main) -> None:
    root = Path(shutil.copytree(reference, tmp_path / "root"))
    file = model_files.entire_model(Artifacts(root, MODEL, DATASET))
    file.save({name: value + 1 for name, value in file.load().items()})
    line = run_main("experiments/trade_off/trade_off.py", *NAMES, root=root).refused("is of another strong model")
    assert "module_gradient_search.py" in line


def test_max_loss_takes_the_smallest_modules_within(reference: Path, tmp_path: Path, run_main: Main) -> None:
    assert "modules of round 2" in (reference / "printed.txt").read_text()  # of --max_loss 100
    root = Path(shutil.copytree(reference, tmp_path / "root"))
    rounds = gradient_files.of_search(Artifacts(root, MODEL, DATASET)).log.load()
    limit = rounds[0].points_lost
    expected = min((row for row in rounds if row.points_lost <= limit), key=lambda row: row.kernels_kept)
    done = run_main(SCRIPT, *SMALL, "--max_loss", str(limit), root=root)
    assert f"modules of round {expected.number}" in done.stdout
    # Not a round that a search with this limit would not have come to.
    lost = (0, 2, 0)
    rows = [replace(row, right_composed=row.right_strong - loss) for row, loss in zip(rounds, lost, strict=True)]
    one_image = 100 / rounds[0].images
    chosen = [Gradient(max_loss=limit * one_image).chosen(rows) for limit in (1, 2)]
    assert chosen == [rows[0], rows[2]]
    before = files_below(root)
    run_main(SCRIPT, *SMALL, "--max_loss", str(limit - 1), root=root).refused("--max_loss", f"{limit:.2f} points")
    assert files_below(root) == before


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--keep", "0"], "above 0"),
        (["--keep", "1.5"], "up to 1"),
        (["--keep", "nan"], "--keep nan"),
        (["--keep", "much"], "invalid float value"),
        (["--max_loss", "nan"], "expected percentage points"),
        (["--keep", "0.5", "--max_loss", "1"], "not allowed with"),
        (["--set", "mask_keeps=0.5,0.6"], "shares in (0, 1] that do not rise"),
        (["--set", "mask_keeps="], "shares in (0, 1]"),
        (["--set", "mask_steps=0"], "at least 1"),
        (["--set", "mask_step_size=nan"], "above 0"),
        (["--set", "mask_distillation=2"], "between 0 and 1"),
        (["--set", "mask_overlap=0"], "unknown setting mask_overlap"),
        (["--keep_flops", "0"], "--keep_flops 0: expected a share above 0"),
        (["--keep_flops", "0.5", "--keep", "0.5"], "not allowed with"),
        (["--keep_flops", "0.5", "--max_loss", "1"], "not allowed with"),
        (["--for_patch", "--max_loss", "1"], "with --for_patch expected --keep"),
        (["--target_class", "5"], "from 0 to 4"),
        (["--as", "../up"], "--as ../up"),
    ],
)
def test_bad_input_is_refused(root: Path, run_main: Main, words: list[str], expected: str) -> None:
    before = files_below(root)
    run_main(SCRIPT, *SMALL, *words, root=root).refused(expected)
    assert files_below(root) == before


def test_another_search_is_not_mixed_with(root: Path, reference: Path, run_main: Main) -> None:
    shutil.copytree(
        Artifacts(reference, MODEL, DATASET).folder, Artifacts(root, MODEL, DATASET).folder, dirs_exist_ok=True
    )
    other = [*SMALL, "--set", "mask_batch_size=5", "--keep", "0.5"]
    run_main(SCRIPT, *other, root=root).refused("batch_size: 6 there, 5 now", "--fresh")
    done = run_main(SCRIPT, *other, "--fresh", root=root)
    assert done.exit_code == 0, done
    assert "the old search is now" in done.stdout


def test_a_loss_that_is_not_finite_stops_it(root: Path, run_main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.gradient.goal.Goal.loss", lambda *_: torch.tensor(torch.nan))
    run_main(SCRIPT, *SMALL, root=root).refused("step 0: the loss is nan")


@pytest.mark.parametrize(
    "name",
    [
        "round_02_kernels.npy",
        "round_02_class_3.pth",
        "search_log.csv",
        "settings.json",
    ],
)
def test_damaged_files_are_named(root: Path, reference: Path, run_main: Main, name: str) -> None:
    shutil.copytree(
        Artifacts(reference, MODEL, DATASET).folder, Artifacts(root, MODEL, DATASET).folder, dirs_exist_ok=True
    )
    path = gradient_files.of_search(Artifacts(root, MODEL, DATASET)).folder / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    run_main(SCRIPT, *SMALL, *ALL_ROUNDS, root=root).refused(name, SCRIPT)


def doubled(module: dict[str, Any]) -> None:
    module["saliency"] = module["saliency"].double()


def other_mask(module: dict[str, Any]) -> None:
    module["kept"] = module["kept"].double()


def other_shape(module: dict[str, Any]) -> None:
    name, value = next(iter(module["moments"]["exp_avg"].items()))
    module["moments"]["exp_avg"][name] = torch.cat([value, value])


def spoiled(module: dict[str, Any]) -> None:
    next(iter(module["moments"]["exp_avg_sq"].values())).fill_(torch.nan)


@pytest.mark.parametrize("change", [doubled, other_mask, other_shape, spoiled])
def test_a_state_of_another_form_is_refused(
    root: Path,
    run_main: Main,
    monkeypatch: pytest.MonkeyPatch,
    interrupted_after: Callable[[int], AbstractContextManager[None]],
    change: Callable[[dict[str, Any]], None],
) -> None:
    monkeypatch.setattr("search.gradient.groups.STEPS_PER_STATE", 2)
    with interrupted_after(1):
        assert run_main(SCRIPT, *SMALL, *ALL_ROUNDS, root=root).exit_code == 130
    file = gradient_files.of_search(Artifacts(root, MODEL, DATASET)).within(1)
    state = file.load()
    change(state)
    file.save(state)
    run_main(SCRIPT, *SMALL, *ALL_ROUNDS, root=root).refused("state_class_1.pth", "not the state of", SCRIPT)


def test_a_share_that_is_asked_for_is_reached_in_one_round(reference: Path, tmp_path: Path, run_main: Main) -> None:
    """Of kernels or of FLOPs; the rounds of the other budget are not gone on from, neither way."""
    root = Path(shutil.copytree(reference, tmp_path / "root"))
    config, artifacts = load(MODEL, DATASET), Artifacts(root, MODEL, DATASET)
    done = run_main(SCRIPT, *SMALL, "--keep_flops", 0.5, "--as", "cheap", "--quiet", root=root)
    assert done.exit_code == 0, done
    old = gradient_files.of_search(artifacts).folder.with_name("gradient.old_1")
    assert f"rounds 0 to 2 were asked for otherwise: the old search is now {old}\n" in done.stdout, done
    assert files_below(old) == files_below(Artifacts(reference, MODEL, DATASET).folder / "gradient")
    assert not list(gradient_files.of_search(artifacts).folder.glob("round_01*"))
    (row,), record = gradient_files.of_search(artifacts).log.load(), open_set(config, artifacts, "cheap").record
    assert (row.keep, row.budget) == (0.5, "flops")
    assert 0.4 < max(record.flops) <= 0.5 + 1e-6 and row.flops == pytest.approx(np.mean(record.flops))
    assert record.search["asked_for"] == "keep 50% of the FLOPs" and "keep 50% of the FLOPs" in done.stdout
    assert record.search["options"] == ["--keep_flops", "0.5"]
    done = run_main(SCRIPT, *SMALL, "--keep", 0.5, "--as", "half", root=root)
    assert done.exit_code == 0 and "rounds 0 to 0 were asked for otherwise: the old" in done.stdout, done
    assert 0.48 < open_set(config, artifacts, "half").record.kernel_share <= 0.5


def test_the_search_of_an_earlier_saliency_is_refused(reference: Path, tmp_path: Path, run_main: Main) -> None:
    root = Path(shutil.copytree(reference, tmp_path / "root"))
    file = gradient_files.of_search(Artifacts(root, MODEL, DATASET)).settings
    recorded = file.load()
    del recorded["search_version"]  # as version 1.0.0 wrote it
    file.save(recorded)
    line = ("made with other settings (search_version: none there, 2 now)", "--fresh")
    run_main(SCRIPT, *SMALL, "--keep", 0.8, root=root).refused(*line)


def test_the_search_of_an_earlier_version_is_refused(reference: Path, tmp_path: Path, run_main: Main) -> None:
    root = Path(shutil.copytree(reference, tmp_path / "root"))
    files = gradient_files.of_search(Artifacts(root, MODEL, DATASET))
    save_array(files.folder / "round_00_gains.npy", np.ones((NUM_CLASSES, 1), np.float32))
    line = "is of an earlier version; make it anew with:", SCRIPT, "--fresh"
    run_main(SCRIPT, *SMALL, "--keep", 0.8, "--as", "old", root=root).refused(*line)
    run_main("experiments/trade_off/trade_off.py", *NAMES, root=root).refused(*line)


@pytest.mark.long
def test_the_launcher_starts_it_too(root: Path, reference: Path) -> None:
    done = run_script(LAUNCHER, *SMALL, "--method", "gradient", *ALL_ROUNDS, root=root, cwd=TOP / "scripts")
    assert done.exit_code == 0, done
    assert found(root) == found(reference)


def test_the_launcher_refuses_options_of_another_method(root: Path, run_main: Main) -> None:
    for words in (["--jobs", 2], ["--early_stop"], ["--checkpoint", 0]):
        run_main(LAUNCHER, *SMALL, "--method", "gradient", *words, root=root).refused(words[0], "--method genetic")
    for words in (["--keep", 0.5], ["--keep_flops", 0.5], ["--max_loss", 1]):
        run_main(LAUNCHER, *SMALL, *words, root=root).refused(words[0], "--method gradient")


def test_the_genetic_search_goes_on_from_it(reference: Path, tmp_path: Path, run_main: Main) -> None:
    root = Path(shutil.copytree(reference, tmp_path / "root"))
    assert run_main("preprocess/kernel_importance_analyzer.py", *NAMES, root=root).exit_code == 0
    genetic = ["population=6", "parents=4", "elites=2", "search_images=60", "survivors_min=4", "survivors_max=20"]
    genetic += ["groups=500", "wide_layer=500", "init_pop_mode=gradient"]  # a gene per kernel
    words = [*NAMES, *(word for setting in genetic for word in ("--set", setting))]
    explorer = ("module_explorer.py", "--target_class", *range(NUM_CLASSES))
    for generation in (0, 1):  # one after the other, so that nobody waits
        for script, *more in (explorer, ("module_recorder.py",)):
            done = run_main(script, *more, *words, "--set", f"generations={generation}", root=root)
            assert done.exit_code == 0, done
    artifacts, config = Artifacts(root, MODEL, DATASET), load(MODEL, DATASET, genetic)
    units = graph_of(config).units
    layout = genome_layout(units, config)
    importance = module_files.kernel_importance(artifacts).load(NUM_CLASSES, units.num_kernels)
    masks = gradient_files.of_search(artifacts).kernels(2).load(NUM_CLASSES, units.num_kernels)
    for c in range(NUM_CLASSES):
        population = genetic_files.population(artifacts, 0, c).load(6, layout.num_genes)
        decoded = kernel_groups(layout, importance[c]).decode(population)
        assert np.array_equal(units.spread(decoded[0]), masks[c])
        assert len(np.unique(decoded, axis=0)) > 1
    gradient_files.of_search(artifacts).log.path.unlink()
    run_main(LAUNCHER, *words, "--jobs", "1", "--fresh", root=root).refused(exit_code=2)


def test_the_trade_off_has_every_round_and_no_value_of_the_paper(
    reference: Path, tmp_path: Path, run_main: Main
) -> None:
    root = Path(shutil.copytree(reference, tmp_path / "root"))
    done = run_main("experiments/trade_off/trade_off.py", *NAMES, root=root)
    assert done.exit_code == 0, done
    folder = Artifacts(root, MODEL, DATASET).folder
    rows = list(csv.DictReader((folder / "trade_off_valid.csv").read_text().splitlines()))
    assert [row["method"] for row in rows] == ["gradient"] * 3 + ["module set"]
    assert rows[3]["target"] == "gradient" and rows[3]["right"] == rows[2]["right"]
    rounds = gradient_files.of_search(Artifacts(root, MODEL, DATASET)).log.load_if_there()
    assert [int(row["right"]) for row in rows[:3]] == [row.right_composed for row in rounds]
    assert [float(row["points_lost"]) for row in rows[:3]] == pytest.approx([row.points_lost for row in rounds])
    assert [row["target"] for row in rows[1:3]] == ["keep 60%", "keep 50%"]
    assert all(0 < float(row["flops"]) < 1 for row in rows[:3])
    assert (folder / "trade_off_valid.png").read_bytes().startswith(b"\x89PNG")
    words, whole = [*NAMES, "--method", "gradient"], (folder / "trade_off_valid.csv").read_bytes()
    assert run_main("experiments/trade_off/trade_off.py", *words, root=root).exit_code == 0
    assert (folder / "trade_off_valid.csv").read_bytes() == whole  # a part has a name of its own
    of_method = folder / "trade_off_valid_method_gradient.csv"
    assert len(of_method.read_text().splitlines()) == 4
    of_set = [*NAMES, "--modules", "gradient"]
    assert run_main("experiments/trade_off/trade_off.py", *of_set, root=root).exit_code == 0
    assert len((folder / "trade_off_valid_sets_gradient.csv").read_text().splitlines()) == 2
    assert len(of_method.read_text().splitlines()) == 4  # the set has the same name, its table another one
    shutil.rmtree(gradient_files.of_search(Artifacts(root, MODEL, DATASET)).folder)
    run_main("experiments/trade_off/trade_off.py", *words, root=root).refused("no search has found modules", SCRIPT)


@pytest.mark.long
def test_the_report_shows_its_rounds(reference: Path, tmp_path: Path, run_main: Main) -> None:
    root = Path(shutil.copytree(reference, tmp_path / "root"))
    done = run_main("scripts/make_report.py", *NAMES, root=root)
    assert done.exit_code == 0, done
    folder = report_files.folder(Artifacts(root, MODEL, DATASET))
    page = (folder / "index.html").read_text()
    assert "by a gradient search" in page
    assert "From round 0 to the chosen round 2 of 2: " in page and "--max_loss 100</code>" in page
    assert "No generation" not in page
    assert len((folder / "figures" / "gradient_search.csv").read_text().splitlines()) == 4
    gradient_files.of_search(Artifacts(root, MODEL, DATASET)).log.path.write_text("number\n0\n")
    assert run_main("scripts/make_report.py", *NAMES, root=root).exit_code == 0
