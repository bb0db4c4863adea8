"""A search method that a test adds to the table passes search, report, trade-offs and patching as it is."""

import csv
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import Run, files_below, keep_few_images

from configures.base import load
from dataset.images import Split
from models import files as model_files
from models import strong_model
from models.evaluation import cpu_state
from models.graph import Graph
from models.opening import Stage
from modules import files as module_files
from modules.module import extract_modules
from modules.module_sets import open_set
from patching import files as patch_files
from patching.weak_models import WeakKind
from report import files as report_files
from report.figures_of_trade_off import MODULE_SET
from search.driver import DrivenMethod, Row
from search.files import Found
from search.methods import METHODS
from utils.artifacts import Artifacts

pytestmark = pytest.mark.slow
MODEL, DATASET = "simcnn_x0_25", "digits_5"
NAMES = ["--model", MODEL, "--dataset", DATASET]
SEARCH = ("scripts/run_module_search.py", *NAMES, "--method", "random")
TARGET = 3
Main = Callable[..., Run]


class RandomMasks(DrivenMethod):
    """Fewer and fewer kernels, drawn at random; the second candidate has other weights, the last one two modules."""

    name = "random"

    def __init__(self, candidates: int) -> None:
        self.num_candidates = candidates

    def settings(self, config: object) -> dict[str, object]:
        return {"first_share": 0.97}

    def find(self, stage: Stage, strong: Graph, split: Split, rows: Sequence[Row]) -> Iterator[Found]:
        for number in range(len(rows), self.num_candidates):
            random, share = np.random.default_rng([stage.seed, number]), 0.97 - number / 50
            targets = (1, TARGET) if number == 2 else tuple(range(strong.num_classes))
            masks = random.random((len(targets), strong.units.num_kernels)) < share
            weights = None
            if number == 1:
                states = [cpu_state(module) for module in extract_modules(strong, masks, targets)]
                weights = [{name: 1.25 * value for name, value in state.items()} for state in states]
            yield Found(f"keep {share:.0%}", masks, weights, targets)


@pytest.fixture
def root(strong_roots: Callable[[str, str], Path], tmp_path: Path) -> Path:
    root = Path(shutil.copytree(strong_roots(MODEL, DATASET), tmp_path / "root"))
    keep_few_images(root)
    return root


def search(root: Path, run_main: Main, monkeypatch: pytest.MonkeyPatch, candidates: int, *more: object) -> Run:
    monkeypatch.setitem(METHODS, "random", RandomMasks(candidates))
    done = run_main(*SEARCH, *more, root=root)
    assert done.exit_code == 0, done
    return done


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def test_a_method_is_one_class_and_one_line_of_the_table(root, run_main, monkeypatch):
    search(root, run_main, monkeypatch, 2, "--max_loss", 100)
    artifacts, config = Artifacts(root, MODEL, DATASET), load(MODEL, DATASET)
    log, found = METHODS["random"].files(artifacts).log.load(), open_set(config, artifacts)
    assert [row.words for row in log] == ["keep 97%", "keep 95%"] and found.name == "random"
    assert found.record.valid_right_composed == log[1].right_composed
    assert (found.record.method, found.record.search["candidate"]) == ("random", 1)
    assert found.record.search["options"] == ["--method", "random", "--max_loss", "100"]

    done = search(root, run_main, monkeypatch, 3, "--max_loss", 100, "--as", "pair")
    assert "going on after candidate 1" in done.stdout
    pair = open_set(config, artifacts, target_classes=[TARGET])
    assert (pair.name, pair.target_classes) == ("pair", (1, TARGET))
    sets = {each.folder: files_below(each.folder) for each in (found, pair)}

    run_main("scripts/make_report.py", *NAMES, "--modules", "mine", root=root).refused(
        "--modules mine: no such module set"
    )
    done = run_main("scripts/make_report.py", *NAMES, "--modules", "random", root=root)
    assert done.exit_code == 0, done
    page = (report_files.folder(artifacts) / "index.html").read_text(encoding="utf-8")
    assert "by a random search" in page and "the chosen candidate 1 of 2" in page
    command = f"run_module_search.py --model {MODEL} --dataset {DATASET} --method random --max_loss 100"
    assert f"{command}</code>" in page and f"{command} --as pair</code>" in page
    assert len(rows_of(report_files.folder(artifacts) / "figures" / "random_search.csv")) == 3

    done = run_main("experiments/trade_off/trade_off.py", *NAMES, root=root)
    assert done.exit_code == 0, done
    points = rows_of(report_files.trade_off(artifacts, "valid"))
    assert [(point["method"], point["target"]) for point in points] == [
        *(("random", "keep 97%"), ("random", "keep 95%"), (f"random, class 1 {TARGET}", "keep 93%")),
        *((MODULE_SET, "random"), (f"{MODULE_SET}, class 1 {TARGET}", "pair")),
    ]
    assert all(float(each["lost_low"]) <= float(each["points_lost"]) <= float(each["lost_high"]) for each in points)
    assert float(max(points, key=lambda each: int(each["right"]))["p_best"]) == 1
    assert [int(point["right"]) for point in points[3:]] == [log[1].right_composed, int(points[2]["right"])]

    run_main("experiments/trade_off/trade_off.py", *NAMES, "--modules", "random", "pair", root=root)
    alone = rows_of(report_files.trade_off(artifacts, "valid", "sets", "random+pair"))
    assert [point["target"] for point in alone] == ["random", "pair"]

    weak = ["--set", "weak_epochs=1", "--set", "weak_train_images=40", "--target_class", TARGET]
    patch = ["experiments/patch/apply_patch.py", "--exp_type", "weak", "--calibration", "learned"]
    trained = ["experiments/patch/patch_for_weak_model/train.py"]
    for script, *more in (trained, patch, ["experiments/trade_off/patch_trade_off.py"]):
        done = run_main(script, *NAMES, *weak, *more, root=root)
        assert done.exit_code == 0, done
    assert patch_files.reports(artifacts, WeakKind.SIMPLE)[0].load().modules == "pair"
    points = rows_of(patch_files.trade_off(artifacts, WeakKind.SIMPLE, "valid", f"class_{TARGET}"))
    assert [point["method"] for point in points[3:]] == [
        *("random", "random", f"random, class 1 {TARGET}", "set random", "set pair")
    ]
    assert points[4]["f1"] == points[6]["f1"] and points[5]["f1"] == points[7]["f1"]
    assert all(files_below(folder) == content for folder, content in sets.items())  # no stage changes a set


def test_an_interrupted_search_finds_the_same(root, tmp_path, run_main, monkeypatch):
    other = Path(shutil.copytree(root, tmp_path / "other"))
    search(root, run_main, monkeypatch, 3, "--max_loss", 100)
    search(other, run_main, monkeypatch, 1, "--max_loss", 100, "--as", "first")
    search(other, run_main, monkeypatch, 3, "--max_loss", 100)
    folders = [Artifacts(each, MODEL, DATASET).folder for each in (root, other)]
    found = [{n: c for n, c in files_below(f / "random").items() if n.startswith("candidate")} for f in folders]
    modules = [{n: c for n, c in files_below(f / "modules" / "random").items() if n != "set.json"} for f in folders]
    assert found[0] == found[1] and modules[0] == modules[1] and len(found[0]) == 3 + 5


def test_a_strong_model_that_is_replaced_meanwhile_is_refused(root, run_main, monkeypatch):
    strong = model_files.entire_model(Artifacts(root, MODEL, DATASET))
    find, load_model = RandomMasks.find, strong_model.load_strong_model

    def find_while_it_is_replaced(*given):
        strong.save({name: 1.01 * value for name, value in strong.load().items()})
        yield from find(*given)

    def replaced_when_read(*given):
        found = load_model(*given)
        strong.save({name: 1.01 * value for name, value in strong.load().items()})
        return found

    monkeypatch.setitem(METHODS, "random", RandomMasks(1))
    with monkeypatch.context() as patch:
        patch.setattr(RandomMasks, "find", find_while_it_is_replaced)
        run_main(*SEARCH, "--max_loss", 100, root=root).refused("entire_model.pth was replaced since", "--fresh")
    with monkeypatch.context() as patch:
        patch.setattr(strong_model, "load_strong_model", replaced_when_read)
        run_main(*SEARCH, "--max_loss", 100, "--fresh", root=root).refused("entire_model.pth was replaced since")
    assert not module_files.latest_set(Artifacts(root, MODEL, DATASET)).exists()


def test_what_does_not_fit_is_refused(root, run_main, monkeypatch):
    monkeypatch.setitem(METHODS, "random", RandomMasks(1))
    run_main(*SEARCH, "--jobs", 2, root=root).refused("--jobs: only with --method genetic, given --method random")
    run_main(*SEARCH, "--max_loss", -90, root=root).refused("--max_loss -90")
    monkeypatch.setattr(RandomMasks, "settings", lambda self, config: {"first_share": 0.5})
    run_main(*SEARCH, root=root).refused("first_share: 0.97 there, 0.5 now", "--method random --fresh")
    assert "the old search is now" in search(root, run_main, monkeypatch, 1, "--fresh", "--max_loss", 100).stdout
    monkeypatch.setitem(METHODS, "random", RandomMasks(0))
    shutil.rmtree(Artifacts(root, MODEL, DATASET).folder / "random")
    run_main(*SEARCH, root=root).refused("--method random: it found no modules")
