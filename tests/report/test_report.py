"""The report: a page of a whole run, of an empty folder, and of damaged, mixed-up and half-written artifacts."""

import dataclasses
import itertools
import json
import re
import shutil
from collections.abc import Callable, Iterable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Run, run_here

import global_configure
from configures.base import load
from dataset.datasets import load_dataset
from dataset.splits import load_split
from models import files as model_files
from models.files import NetworkSettings
from models.opening import Stage
from models.strong_model import load_strong_model
from models.training import Epoch
from modules import files as module_files
from modules.module_sets import save_set
from modules.own_class import MOST_BELOW
from patching import files as patch_files
from patching.confidence import Change
from patching.members import Form
from patching.on_disk import set_checksum
from patching.report import NO_MODULE, PatchedWeakModel, method_entry
from patching.rules import Learned
from patching.weak_models import WeakKind, build_weak_network
from report import files as report_files
from report.answer import answer_section, summary
from report.data import ReportData
from report.figures import Drawing, new_figure
from report.figures_of_patching import changed_images_figure
from report.page import Block, Note, Paragraph, Picture, Section, Table, html_page, section
from report.patches import patches_by_this_set
from report.provenance import provenance_blocks, setting_rows, stage_rows, weak_rows
from report.sections import (
    accuracy_blocks,
    class_blocks,
    importance_blocks,
    kernel_blocks,
    own_weak_model_blocks,
    patch_answer_blocks,
    patch_blocks,
    report_sections,
    search_blocks,
    sensitivity_blocks,
    set_blocks,
    training_blocks,
)
from report.words import counted, duration, percent
from search.genetic import files as genetic_files
from search.genetic.log import Generation
from utils.artifacts import Artifacts, load_json, save_json
from utils.errors import MissingFile, UserError

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("report")]
MODEL, DATASET = "simcnn_x0_25", "digits_5"
COMMON = ("--model", MODEL, "--dataset", DATASET)
CONFIG = load(MODEL, DATASET)
SIMPLE = WeakKind.SIMPLE
NUM_CLASSES = CONFIG.num_classes
KERNELS = 1056


class Page(HTMLParser):
    """What a browser, a keyboard and a screen reader find in a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def check_page(text: str) -> Page:
    """Assert what holds for every page: nothing is fetched, and it can be read without eyes or mouse."""
    page = Page(text)
    assert text.count("<script") == 1 and "Traceback" not in text
    for _, attributes in page.tags:
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("data:", "#")), attributes
    assert page.all("html") == [{"lang": "en"}]
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    targets = [(a["href"] or "")[1:] for a in page.all("a") if (a["href"] or "").startswith("#")]
    assert targets[0] == "content" and set(targets) <= set(ids)  # the first link skips to the content
    assert all(len(image["alt"] or "") > 20 for image in page.all("img"))
    assert all(heading.get("scope") in ("row", "col") for heading in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    return page


@pytest.fixture(scope="module")
def finished_root(strong_roots: Callable[[str, str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root_dir in which every stage of digits_5 has run: some for real, some as files of small numbers."""
    root = tmp_path_factory.mktemp("finished") / "root"
    shutil.copytree(strong_roots(MODEL, DATASET), root)
    artifacts = Artifacts(root, MODEL, DATASET)
    random = np.random.default_rng(0)
    model_files.training_log(artifacts).save(
        [Epoch(n, 0.01, 2.0 - n / 2, n / 4, accuracy, 2.0) for n, accuracy in enumerate((0.5, 0.75))]
    )
    module_files.kernel_importance(artifacts).save(random.random((NUM_CLASSES, KERNELS)))
    ratios = CONFIG.sensitivity_ratios
    for layer in range(13):
        module_files.layer_sensitivity(artifacts, layer).save(
            np.stack([ratios, np.minimum(0.9, np.array(ratios) + layer / 13)], 1)
        )
    rows = [Generation(n, 0.8 + n / 10, 0.4, 0.8, 0.6, 0.2, 9, 99, (0,) * NUM_CLASSES, 3.0) for n in range(2)]
    genetic_files.log(artifacts).save(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(global_configure, "root_dir", root)
        split = load_split(CONFIG)
        stage = Stage(CONFIG, artifacts, torch.device("cpu"), torch.float32, 0)
        masks = random.random((NUM_CLASSES, KERNELS)) < 0.95
        search = {"method": "genetic", "generation": 1, "generations": 2, "ensemble": (0,) * 5, "seconds": 6.0}
        strong = load_strong_model(CONFIG, artifacts, stage.device)
        save_set(stage, strong, masks, split, search, name=None, default_name="genetic")
    torch.manual_seed(0)
    for target_class in (1, 3):
        patch_files.weak_model(artifacts, SIMPLE, target_class, 0).save(build_weak_network(CONFIG, SIMPLE).state_dict())
    words = ("--exp_type", "weak", "--target_epoch", 0, "--calibration", "min_max", "--target_class")
    stages: list[tuple[Any, ...]] = [("preprocess/module_output_collector.py", *COMMON)]
    stages += [("experiments/patch/apply_patch.py", *COMMON, *words, target_class) for target_class in (1, 3)]
    for stage_words in stages:
        done = run_here(*stage_words, root=root)
        assert done.exit_code == 0, done
    return root


@pytest.fixture
def copied(finished_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ReportData:
    """The finished run in a folder of the test's own, to damage."""
    root = Path(shutil.copytree(finished_root, tmp_path / "copy"))
    monkeypatch.setattr(global_configure, "root_dir", root)
    return ReportData(Stage(CONFIG, Artifacts(root, MODEL, DATASET), torch.device("cpu"), torch.float32, 0))


def notes(*builders: Callable[[], object]) -> list[str]:
    return [block.text for block in section("a", "A", *builders).blocks if isinstance(block, Note)]  # type: ignore[arg-type]


def test_the_report_of_a_whole_run(copied: ReportData, run_main: Callable[..., Run]) -> None:
    root = copied.artifacts.root_dir
    figures = report_files.folder(copied.artifacts) / "figures"
    figures.mkdir(parents=True)
    for name in ("of_an_earlier_report.png", "of_an_earlier_report.svg", "of_an_earlier_report.csv", "a_users_own.png"):
        (figures / name).touch()
    done = run_main("scripts/make_report.py", *COMMON, root=root)
    assert done.exit_code == 0, done.stderr
    folder = report_files.folder(copied.artifacts)
    page = check_page((folder / "index.html").read_text(encoding="utf-8"))
    assert len(page.all("img")) == 11
    files = sorted(path.name for path in figures.iterdir())
    assert len(files) == 3 * 11 + 1 and "a_users_own.png" in files
    assert "patch_weak_images.svg" in files and "training.csv" in files
    result = load_json(copied.artifacts.folder / "modules" / "genetic" / "set.json", "")
    share = 100 * result["test_right_composed"] / result["test_images"]
    text = page.text.replace("\N{NO-BREAK SPACE}", " ")
    right = f"{result['test_right_composed']} of {result['test_images']}"
    assert f"Accuracy of the modules, composed {share:.1f} % {right} test images; strong model" in text
    assert re.search(r"Size of a module \d+\.\d % of the kernels on average", text)
    assert re.search(r"Percentage points gained: [+-]\S+ \[\S+, \S+\], (not )?significant", text)
    assert re.search(r"The module helps \d of 2 patches: F1 of the target class is significantly higher than", text)
    assert re.search(r"F1 of the target class, patched \S+.* % before \S+.* %; without a module \S+", text)
    assert re.search(r"Accuracy of the other classes [+-]\S+.* percentage points, after minus before", text)
    assert "overly simple: 3" in text and "Dashed: the modules of this page." in text
    assert "decomposed into 5 modules, one for each of the classes 0, 1, 2, 3, 4" in text
    assert "genetic search (generation 1 of 1, 6 s)" in text
    assert "overly simple: 3, min_max" in text
    # Nobody asked for poorly fitted models: they stand in no box, but in the fold at the end.
    assert "first run" not in done.stdout and page.text.count("first run: ") == 1
    poor = f"python experiments/patch/apply_patch.py --model {MODEL} --dataset {DATASET} --exp_type poor_fit"
    assert f"first run: {poor}" in page.text.split("Stages that have not run")[-1]
    riders = result["valid_auc_modules"] < np.array(result["valid_auc_strong"]) - MOST_BELOW
    notes = [attributes for _, attributes in page.tags if attributes.get("class") == "note"]
    assert riders.any() == ("Uninformative modules: AUC more than 0.02 below the strong model's: " in text)
    assert len(notes) == int(riders.any()) + ("Not significantly better than the control without a module" in text)


@pytest.mark.parametrize("parent", ["", "searched"])
def test_uninformative_modules_are_named_with_what_was_measured(copied: ReportData, parent: str) -> None:
    path = copied.artifacts.folder / "modules" / "genetic" / "set.json"
    aucs = {"valid_auc_strong": [0.99, 0.85, 0.99, 0.99, 0.99], "valid_auc_modules": [0.98, 0.826, 0.99, 0.98, 0.98]}
    save_json(path, load_json(path, "") | aucs | {"parent": parent})
    (note,) = notes(lambda: summary(ReportData(copied.stage)))
    assert "AUC more than 0.02 below the strong model's: 1 (0.83, strong model 0.85)." in note
    assert ("fine-tune" in note) == (not parent) and "compare a patch with the control without a module" in note


def test_an_empty_folder_gives_a_page_of_commands(root_dir: Path, run_main: Callable[..., Run]) -> None:
    done = run_main("scripts/make_report.py", "--model", MODEL, "--dataset", "digits", root=root_dir)
    assert done.exit_code == 0, done.stderr
    page = check_page((root_dir / "data" / f"{MODEL}_digits" / "report" / "index.html").read_text(encoding="utf-8"))
    assert page.all("img") == [] and [part["id"] for part in page.all("section")] == ["answer", "provenance"]
    assert not [attributes for _, attributes in page.tags if attributes.get("class") == "note"]
    assert "There are no modules here yet" in page.text
    for script in ("train", "preprocess/kernel_importance_analyzer", "scripts/run_layer_sensitivity_analyzer"):
        assert f"python {script}.py --model {MODEL} --dataset digits" in page.text
    assert f"python scripts/run_module_search.py --model {MODEL} --dataset digits" in page.text


DAMAGES: dict[str, tuple[str, Callable[[ReportData], Iterable[Block]]]] = {
    "training_log.csv": ("train.py", training_blocks),
    "kernel_importance/avg_L1.npy": ("preprocess/kernel_importance_analyzer.py", importance_blocks),
    "layer_sensitivity/layer_03.npy": ("scripts/run_layer_sensitivity_analyzer.py", sensitivity_blocks),
    "ga/search_log.csv": ("scripts/run_module_search.py", search_blocks),
    "modules/genetic/class_2_kernels.npy": ("module_gradient_search.py", kernel_blocks),
    "modules/genetic/class_2.pth": ("module_gradient_search.py", accuracy_blocks),
    "modules/genetic/set.json": ("module_gradient_search.py", class_blocks),
    "entire_model.pth": ("train.py", accuracy_blocks),
}


@pytest.mark.parametrize("damage", ["cut", "noise", "empty"])
@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_is_named_with_the_command_that_makes_it(copied: ReportData, name: str, damage: str) -> None:
    path = copied.artifacts.folder / name
    content = path.read_bytes()
    path.write_bytes({"cut": content[: len(content) // 2], "noise": b"\x93\xff{]" * 50, "empty": b""}[damage])
    command, build = DAMAGES[name]
    (note,) = notes(lambda: build(copied))
    assert str(path) in note and f"python {command} --model {MODEL} --dataset {DATASET}" in note


START_OF_REPORT = '{"target_class": 1, "classes": ["a", "b"], "epoch": 0, "test_images": 3, "methods": {"before": '


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        "[" * 100_000,
        START_OF_REPORT + "null}}",
        START_OF_REPORT + '{"confusion_matrix": [[1, 2]], "rule": null}}}',
    ],
)
def test_a_report_on_a_patch_that_is_none_is_named(copied: ReportData, text: str) -> None:
    path = patch_files.report(copied.artifacts, "genetic", SIMPLE, 1, 0, "min_max").path
    path.write_text(text, encoding="utf-8")
    (note,) = notes(lambda: patch_blocks(copied, SIMPLE), lambda: patch_answer_blocks(copied, SIMPLE))
    assert str(path) in note and "apply_patch.py" in note
    assert str(path) in "".join(block.text for block in answer_section(copied).blocks if isinstance(block, Note))


@pytest.mark.parametrize(
    "change", [{"classes": ["0"]}, {"kernels": "many"}, {"search": 3}, {"valid_images": 0}, {"x": 1}]
)
def test_a_report_on_modules_with_other_values_is_named(copied: ReportData, change: dict[str, object]) -> None:
    path = copied.artifacts.folder / "modules" / "genetic" / "set.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **change}), encoding="utf-8")
    assert any(str(path) in text for text in notes(lambda: answer_section(copied).blocks))


def test_weak_models_that_were_trained_again_are_noticed(copied: ReportData) -> None:
    torch.manual_seed(1)
    patch_files.weak_model(copied.artifacts, SIMPLE, 3, 0).save(build_weak_network(CONFIG, SIMPLE).state_dict())
    assert notes(lambda: patch_blocks(copied, SIMPLE)) == []  # the numbers of the reports stand
    (note,) = notes(lambda: patch_answer_blocks(copied, SIMPLE))
    assert "class 3 has changed since it was patched" in note and "--calibration min_max" in note


def test_another_strong_model_than_the_searchs_is_noticed(copied: ReportData) -> None:
    genetic_files.settings(copied.artifacts).path.write_text(json.dumps({"strong_model_sha256": "0" * 64}))
    (note,) = notes(lambda: search_blocks(copied))
    assert "is of another strong model than the one that is there" in note and "--fresh" in note


def test_a_search_under_way(copied: ReportData) -> None:
    shutil.rmtree(copied.artifacts.folder / "modules")
    (note,) = notes(lambda: search_blocks(copied))
    assert "has not written a module set yet: 2 generations so far" in note and "scripts/run_module_search.py" in note


def test_layers_that_are_not_measured_yet_are_named(copied: ReportData) -> None:
    module_files.layer_sensitivity(copied.artifacts, 4).path.unlink()
    module_files.layer_sensitivity(copied.artifacts, 7).path.unlink()
    (note,) = notes(lambda: sensitivity_blocks(copied))
    assert "Not measured yet: conv 4, 7" in note and "run_layer_sensitivity_analyzer.py" in note


def test_provenance_names_stages_seeds_and_versions(copied: ReportData) -> None:
    change_search(copied, mixed_processors=["old", "new"])
    rows = [[str(cell) for cell in row] for block in provenance_blocks(copied) for row in block.rows]  # type: ignore[union-attr]
    found = {row[0]: row[1:] for row in rows}
    assert found["training"][2] == "4 s" and found["module set genetic"][2] == "6 s"
    assert "poorly fitted models" not in found
    assert found["torch"][0].startswith(torch.__version__[:4])
    assert found["seed of the search"] == ["not recorded"]
    assert [row[1] for row in rows if row[0].startswith("processors of the search differ")] == ["['old', 'new']"]
    assert len(setting_rows(CONFIG, {})) == sum(row[0] in CONFIG.__dataclass_fields__ for row in rows)


def test_what_the_importance_was_measured_with_is_told(copied: ReportData) -> None:
    (picture,) = importance_blocks(copied)  # no record: an earlier version
    assert isinstance(picture, Picture)
    file = module_files.importance_settings(copied.artifacts)
    file.save({"importance_mode": "random", "strong_model_sha256": "0"})
    of_another, control = notes(lambda: importance_blocks(ReportData(copied.stage)))
    assert "is of another strong model" in of_another and "importance_mode is random" in control


def test_curves_measured_at_other_ratios_than_the_configurations_are_sound(copied: ReportData) -> None:
    for layer in range(13):
        module_files.layer_sensitivity(copied.artifacts, layer).save(np.array([[0.2, 0.3], [0.6, 0.8], [1, 0.9]]))
    (picture,) = sensitivity_blocks(copied)
    assert isinstance(picture, Picture) and len(picture.drawing.rows) == 3 * 13  # no record: an earlier version
    module_files.sensitivity_settings(copied.artifacts).save({"sensitivity_ratios": [0.2, 0.6, 1.0], "images": 141})
    again = ReportData(copied.stage)
    (picture,) = sensitivity_blocks(again)
    assert isinstance(picture, Picture) and len(picture.drawing.rows) == 3 * 13
    commands = {row[0]: row[1] for row in stage_rows(again)}
    assert "--set sensitivity_ratios=0.2,0.6,1.0" in commands["layer sensitivity"]
    module_files.layer_sensitivity(copied.artifacts, 4).save(np.array([[0.2, 0.3], [1, 0.9]]))
    (note,) = notes(lambda: sensitivity_blocks(ReportData(copied.stage)))
    assert "layer_04.npy" in note and "(3, 2)" in note and "(2, 2)" in note, note


def test_another_network_than_the_files_is_named_and_no_file_is_blamed(copied: ReportData) -> None:
    model_files.network_settings(copied.artifacts).save(NetworkSettings.of(CONFIG))
    config = dataclasses.replace(CONFIG, network="simcnn_x0_5")
    data = ReportData(dataclasses.replace(copied.stage, config=config))
    (note,) = notes(lambda: importance_blocks(data))
    assert "was made with other settings (network: simcnn_x0_25 there, simcnn_x0_5 now)" in note


def test_weak_models_of_other_settings_are_named_with_the_command(copied: ReportData) -> None:
    given = {"weak_model": "simcnn_tiny_2", "weak_classes": ("5", "6")}
    config = dataclasses.replace(CONFIG, **given)
    (note,) = notes(lambda: patch_answer_blocks(ReportData(dataclasses.replace(copied.stage, config=config)), SIMPLE))
    assert "--set weak_classes=6,7,8,9 --set weak_model=simcnn_tiny" in note and "make_report.py" in note


def test_the_sensitive_layers_are_the_searchs_and_the_advice_stands_next_to_them(copied: ReportData) -> None:
    change_search(copied, configured={"sensitive_layers": [0, 2], "population": 7, "keep_outputs": "many"})
    (picture,) = sensitivity_blocks(copied)
    assert isinstance(picture, Picture)
    assert picture.drawing.finding.startswith("Sensitive for the genetic search: conv 0, conv 2.")
    assert "the setting sensitive_layers, which is chosen by hand. This measurement recommends " in picture.reading
    commands = {row[0]: row[1] for row in stage_rows(copied)}
    assert "--set population=7" in commands["module set genetic"]
    assert "--set sensitive_layers=0,2" in commands["module set genetic"]


def change_search(data: ReportData, **values: object) -> None:
    """Change how the set's modules were found, by their record."""
    path = data.artifacts.folder / "modules" / "genetic" / "set.json"
    content = load_json(path, "")
    save_json(path, {**content, "search": {**content["search"], **values}})


def test_modules_of_another_search_are_not_said_to_be_of_this_one(copied: ReportData) -> None:
    genetic_files.settings(copied.artifacts).save({"population": 7})
    chosen, other = "Dashed: the modules of this page", {"settings": {"population": 8}}
    for search, is_of_it in (({"settings": {"population": 7}}, True), (other, False), ({"method": "gradient"}, False)):
        change_search(copied, **search)
        picture, *_ = search_blocks(ReportData(copied.stage))
        assert isinstance(picture, Picture)
        assert (chosen in picture.reading) == is_of_it == ("chosen" in picture.drawing.finding)


def test_modules_that_were_fine_tuned_are_not_said_to_be_those_of_the_search(copied: ReportData) -> None:
    path = copied.artifacts.folder / "modules" / "genetic" / "set.json"
    save_json(path, {**load_json(path, ""), "parent": "searched"})
    picture, *_ = search_blocks(ReportData(copied.stage))
    assert isinstance(picture, Picture)
    assert "Dashed: the modules that those of this page were fine-tuned from." in picture.reading


def test_other_module_sets_are_listed_and_can_be_shown(copied: ReportData) -> None:
    assert not list(set_blocks(copied))
    (picture,), masks = kernel_blocks(copied), copied.masks
    assert isinstance(picture, Picture) and len(picture.drawing.rows) == NUM_CLASSES * 16
    strong, split = load_strong_model(CONFIG, copied.artifacts, copied.stage.device), load_split(CONFIG)
    search = {"method": "gradient", "seconds": 2.0, "fine_tuned": {"seconds": 3.0, "configured": {"mirror": True}}}
    known = {"name": None, "default_name": "gradient", "target_classes": (2,), "parent": "genetic"}
    save_set(copied.stage, strong, masks[2:3], split, search, **known)
    again = ReportData(copied.stage)
    (table,), (picture,) = set_blocks(again), kernel_blocks(again)
    assert isinstance(table, Table) and [row[0] for row in table.rows] == ["genetic", "gradient"]
    assert isinstance(picture, Picture) and len(picture.drawing.rows) == 16
    assert "decomposed into 1 module, one for each of the classes 2, by a gradient search, 2 s, and fine-tuned" in str(
        answer_section(again).blocks
    )
    assert not [
        each
        for part in report_sections(again)
        if part.name == "composed"
        for each in part.blocks
        if isinstance(each, Note)
    ]
    rows = {row[0]: row[1:] for row in stage_rows(again)}
    command, _, took = rows["module set gradient"]
    assert "module_fine_tuner.py" in command and "--set mirror=true --modules genetic" in command and took == "3 s"
    assert len(ReportData(copied.stage, "genetic").targets) == NUM_CLASSES


def test_markup_in_names_is_shown_not_obeyed() -> None:
    hostile = "<img src=x onerror=alert(1)>\"'&`"
    drawing = Drawing(new_figure(2, 2), f"A finding about {hostile}.", (hostile,), [(hostile,)])
    part = Section("part", hostile, [Paragraph(hostile), Note(hostile), Table(hostile, [hostile], [[hostile]])])
    figure = Section("figure", "Figure", [Picture("figure", drawing, hostile)])
    page = check_page(html_page(hostile, hostile, part, [figure], hostile))
    assert len(page.all("img")) == 1
    assert all("onerror" not in attributes for _, attributes in page.tags)
    assert page.text.count("<img src=x onerror=alert(1)>") >= 8


def test_code_stands_in_backticks_and_a_single_one_is_shown() -> None:
    text = html_page("t", "s", Section("a", "A", [Paragraph("run `train.py` and a ` more")]), [], "f")
    assert "<p>run <code>train.py</code> and a ` more</p>" in text


def test_columns_of_numbers_alone_stand_right() -> None:
    rows = [["a", 1, "12.5\N{NO-BREAK SPACE}%", "-0.5", "1 of 2"], ["2", 0.25, "1,024", "+3", "7"]]
    assert Table("t", list("abcde"), rows).numeric == [False, True, True, True, False]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(None, "not recorded"), (0.4, "0 s"), (99, "99 s"), (600, "10 min"), (7200, "2.0 h"), (float("nan"), "unknown")],
)
def test_durations_counts_and_shares_in_words(seconds: float | None, said: str) -> None:
    assert duration(seconds) == said
    assert [counted(number, "model") for number in (0, 1, 2000)] == ["0 models", "1 model", "2,000 models"]
    assert percent(0.1234) == "12.3\N{NO-BREAK SPACE}%"


def own_report(copied: ReportData, *, modules: str, **more: Any) -> None:
    """Write what scripts/patch_weak_model.py does of a model whose one target class gained."""
    change = Change((0.0, 0.1), (0.2, 0.5), (0.1, 0.4), (0.0, 0.0), (0.001, 0.001, 0.001, 1.0))
    entries = {"learned": method_entry(np.array([[80, 4], [2, 14]]), None, [change], [change])}
    entries["learned"]["rule"] = Learned(np.zeros((2, 3)), np.zeros(2)).to_json()
    before, control = (method_entry(np.array([[80, 4], [8, 8]]), None, changes) for changes in (None, [change]))
    details = {
        "judged": [{"name": "star"}],
        "seconds": 4.2,
        "seed": 7,
        "command": "python x.py --weak_logits y",
        **more,
    }
    file = patch_files.own_report(copied.artifacts, "mine")
    model = PatchedWeakModel(("moon", "star"), (1,), 100, {"before": before, **entries, NO_MODULE: control})
    checksum = set_checksum(copied.artifacts, modules)
    known = {"target_classes": (2,), "modules": modules, "modules_sha256": checksum, "weak_model": "logits"}
    file.save(dataclasses.replace(model, **known, kind="own", details=details))


def test_patches_of_the_users_own_models_are_told(copied: ReportData) -> None:
    own_report(copied, modules="genetic")
    _, _, table = patch_blocks(copied, None)
    assert isinstance(table, Table) and table.rows[0][0] == "mine: star"
    confusions, note = own_weak_model_blocks(copied)
    assert isinstance(confusions, Picture)
    assert "Before: 88.0 % of 100" in confusions.drawing.finding.replace("\N{NO-BREAK SPACE}", " ")
    assert isinstance(note, Note) and "they are not recorded; patch again with" in note.text
    assert [each.name for each in patches_by_this_set(copied)][2:] == ["mine: star"]
    (row,) = [row for row in weak_rows(copied) if row[0] == "patching your own model"]
    assert row[3] == "4 s"
    assert row[1] == "`CNNMOD_SEED=7 python x.py --weak_logits y`"


def test_the_images_that_a_patch_of_a_users_own_model_changed_are_shown(copied: ReportData) -> None:
    form = Form.of(CONFIG)
    digits, places = load_dataset("digits", form.side, form.resize, form.normalisation).test, [3, 4, 9]
    answers = {"labels": [0, 0, 1], "before": [1, 0, 0], "after": [0, 1, 1]}
    of_images = {"images": "digits", "form": form.to_plain(), "fingerprint": digits.fingerprint}
    changed = {**of_images, "places": places, **answers}
    own_report(copied, modules="genetic", changed=changed)
    _, note = own_weak_model_blocks(copied)
    assert isinstance(note, Note) and "the images have changed since" in note.text  # moon and star are no digits
    names = tuple(map(str, range(10)))
    copied.own_patches["mine"] = model = dataclasses.replace(copied.own_patches["mine"], classes=names)
    right, wrong = digits.labels[places], (digits.labels[places] + 1) % 10
    before, after = (
        np.where(is_right, right, wrong).tolist() for is_right in ([True, False, False], [False, True, True])
    )
    model.details["changed"] |= {"labels": right.tolist(), "before": before, "after": after}
    shown = copied.own_changed_images("mine")
    model.details["changed"]["fingerprint"] += 1  # another image since
    with pytest.raises(UserError, match=r"have changed since; patch again with: python x\.py --weak_logits y"):
        copied.own_changed_images("mine")
    assert (shown.pixels == digits.pixels[places]).all() and shown.labels.tolist() == digits.labels[places].tolist()
    drawing = changed_images_figure([shown], "t")
    assert [row[drawing.columns.index("image")] for row in drawing.rows] == [4, 9, 3]  # gained, then lost


@pytest.mark.parametrize("removed", [False, True])
def test_patches_by_a_set_that_was_made_again_or_removed_are_told_not_shown(copied: ReportData, removed: bool) -> None:
    own_report(copied, modules="genetic")
    record = copied.artifacts.folder / "modules" / "genetic" / "set.json"
    if removed:
        record.unlink()
    else:
        record.write_text(record.read_text(encoding="utf-8") + " ", encoding="utf-8")
    data = ReportData(copied.stage)
    (note,) = patch_blocks(data, None)
    assert isinstance(note, Note)
    assert note.text.startswith("mine: patched with a module set that was removed or made again since")
    assert not list(own_weak_model_blocks(data))
    with pytest.raises(UserError, match="apply_patch"):
        data.patched(WeakKind.SIMPLE)


def test_a_damaged_report_on_a_users_own_model_is_named(copied: ReportData) -> None:
    file = patch_files.own_report(copied.artifacts, "mine")
    save_json(file.path, {"test": {"images": 3}})
    (note,) = notes(lambda: patch_blocks(copied, None))
    assert str(file.path) in note
    assert len(patches_by_this_set(copied)) == 2


def test_a_section_of_what_was_never_made_is_empty_and_a_damaged_one_is_not() -> None:
    def never_made() -> list[Block]:
        raise MissingFile("missing a; first run: b")

    def broken() -> list[Block]:
        raise UserError("cannot use c")

    assert section("a", "A", never_made, never_made) == Section("a", "A", (), ("missing a; first run: b",))
    assert [type(block) for block in section("a", "A", never_made, broken).blocks] == [Note, Note]
    blocks = section("a", "A", never_made, lambda: [Paragraph("x")]).blocks
    assert [type(block) for block in blocks] == [Note, Paragraph]
