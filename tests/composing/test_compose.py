"""Composed classifiers as a user makes them: sub-tasks, merges of models of other forms, the best of several; saved."""

import importlib.util
import json
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import fit_last_layer
from random_modules import write_modules
from torch import nn

import cnn_modules as cm
import composing.images
import global_configure
from composing import files as composing_files
from composing.report import COMPOSED, LARGEST, MEAN, RESTRICTED, STACKED, STANDARDISED, WHOLE_RULE
from configures.base import load
from dataset.images import IMAGENET
from dataset.splits import load_split
from models import files as model_files
from models.files import NetworkSettings
from models.names import network_of
from models.opening import default_config
from models.strong_model import graph_of
from patching.members import Form
from report.page import Note, Table
from report.sections import composed_blocks
from utils.artifacts import Artifacts
from utils.errors import UserError

SCRIPT = "scripts/compose.py"
STRONG = "simcnn_x0_25_digits"


@pytest.fixture(scope="module")
def root(strong_roots, tmp_path_factory):
    """Two strong models of digits: one of 0 to 4; one of all, in images of 16 pixels, with a good and a bad set."""
    root = tmp_path_factory.mktemp("compose") / "root"
    (root / "data").mkdir(parents=True)
    for dataset in ("digits", "digits_5"):
        made = strong_roots("simcnn_x0_25", dataset) / "data"
        artifacts, config = Artifacts(root, "simcnn_x0_25", dataset), load("simcnn_x0_25", dataset)
        artifacts.folder.mkdir()
        (artifacts.folder / "entire_model.pth").symlink_to(made / artifacts.folder.name / "entire_model.pth")
        whole = np.ones(graph_of(config).units.num_kernels, bool)
        write_modules(config, artifacts, dict.fromkeys(range(config.num_classes), whole), "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(global_configure, "root_dir", root)
        settings = NetworkSettings("resnet20", 10, 16, "stretch", (0.5,) * 3, (0.25,) * 3)
        artifacts = Artifacts(root, "small", "digits")
        model_files.network_settings(artifacts).save(settings)
        config = default_config("small", "digits")
        network = network_of("resnet20", 10, 16)
        fit_last_layer(network, load_split(config).train.first(400), 10)
        model_files.entire_model(artifacts).save(network.state_dict())
        units = graph_of(config).units
        few = units.spread(units.repair(np.random.default_rng(0).random(units.num_units) < 0.3))
        write_modules(config, artifacts, dict.fromkeys(range(10), few), "few")
        masks = dict.fromkeys(range(10), np.ones(units.num_kernels, bool)) | {3: few}
        write_modules(config, artifacts, masks, "all")
    return root


@pytest.fixture
def compose(root, run_main):
    """Runs the script, and reads the record that it wrote."""

    def run(name, *words):
        done = run_main(SCRIPT, *words, "--name", name, root=root)
        assert done.exit_code == 0, done.stderr
        return done, composing_files.record(Artifacts(root, "simcnn_x0_25", "digits"), name).load()

    return run


def test_a_sub_task_is_the_strong_model_restricted_where_modules_are_whole(root, compose, run_main):
    done, record = compose("sub", "--take", "simcnn_x0_25:digits:8,3,5")
    assert (record.task, record.classes) == ("sub-task", ("8", "3", "5"))
    composed, control = (record.methods[each] for each in (COMPOSED, RESTRICTED.format(STRONG)))
    assert record.images["test"] == sum(map(sum, composed["confusion_matrix"])) > 50
    # The same logits; the rule moves answers of ties by a few images at most.
    assert abs(composed["right"] - control["right"]) <= 0.05 * record.images["test"]
    assert composed["flops"] == pytest.approx(3, rel=0.01) and control["flops"] == 1
    assert record.methods["outputs as they are, no rule"]["right"] == control["right"]
    assert {"accuracy,", "not significant"} <= set(re.findall(r"accuracy,|not significant", done.stdout))
    # The same command again replaces its record, another one does not.
    compose("sub", "--take", "simcnn_x0_25:digits:8,3,5@whole")
    words = (SCRIPT, "--name", "sub", "--take")
    run_main(*words, "simcnn_x0_25:digits:8,3", root=root).refused("--name", "sub.json")
    same = (*words, "simcnn_x0_25:digits:8,3,5")
    run_main(*same, "--calibration", "own", root=root).refused("--name", "sub.json")
    run_main(*same, "--images", "digits_5", root=root).refused("sub.json")


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".py", pytest.param(".onnx", marks=pytest.mark.long)])
@pytest.mark.parametrize("whole", [False, True])
def test_a_merge_of_models_of_other_forms_is_saved_as_reported(root, compose, tmp_path, suffix, whole):
    path = tmp_path / f"merged{suffix}"
    words = ["--whole"] if whole else []
    takes = ("--take", "simcnn_x0_25:digits_5", "--take", "small:digits:9,8,7,6,5")
    done, record = compose(f"merged{suffix[1:]}{whole}", *takes, *words, "--images", "digits", "--save", path)
    assert f"saved {path}" in done.stdout and "it answers as reported" in done.stdout
    assert record.classes == (*"01234", *"98765")
    right = {name: entry["right"] for name, entry in record.methods.items()}
    assert right.keys() >= {COMPOSED, STANDARDISED, LARGEST, STACKED} and MEAN not in right
    assert (WHOLE_RULE in right) is not whole
    assert right[COMPOSED] > 0.6 * record.images["test"]
    if not whole:
        assert abs(right[COMPOSED] - right[WHOLE_RULE]) <= 0.02 * record.images["test"]
    else:
        assert record.methods[COMPOSED]["flops"] == pytest.approx(1, rel=1e-3)
    # Images that the model of 0 to 4 was trained on are no validation images: it has another split.
    assert (
        "validation" not in done.stderr
        and "valid images of digits that simcnn_x0_25_digits_5 was trained" in done.stdout
    )
    if suffix == ".py":
        spec = importlib.util.spec_from_file_location("merged", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        assert tuple(module.CLASSES) == record.classes
        assert "pixels_32" in module.__doc__ and "pixels_16" in module.__doc__


def test_each_dataset_is_split_in_the_form_of_its_own_model(monkeypatch):
    """Which images of a folder validate depends on the form; in another one most would be images of the training."""
    split_in = {}

    def parts(dataset, forms, order):
        split_in[dataset] = forms[0][0]
        raise UserError("enough")

    monkeypatch.setattr(composing.images, "load_evaluation_parts", parts)
    monkeypatch.setattr(composing.images, "image_order", lambda artifacts: None)
    sources = [
        SimpleNamespace(
            form=Form(side, "stretch", IMAGENET),
            config=SimpleNamespace(name=name, image_source=name),
            stage=SimpleNamespace(artifacts=None),
        )
        for name, side in (("small", 16), ("large", 32))
    ]
    for dataset in ("small", "large"):
        with pytest.raises(UserError, match="enough"):
            composing.images._of_dataset(dataset, sources, (), None)
    assert split_in == {"small": 16, "large": 32}


def test_without_common_images_outputs_are_standardised(compose):
    takes = ("--take", "simcnn_x0_25:digits_5", "--take", "small:digits:5,6")
    _, fitted = compose("labelled", *takes, "--calibration", "own")
    assert fitted.made_with["calibration"] == "own" and set(fitted.rule["bias"]) == {0.0}
    assert STANDARDISED not in fitted.methods
    right = {name: entry["right"] for name, entry in fitted.methods.items()}
    assert abs(right[COMPOSED] - right[WHOLE_RULE]) <= 0.02 * fitted.images["test"]  # whole modules, by the same rule


def test_classes_of_one_model_are_one_source_however_they_are_taken(compose):
    (_, once), (_, twice) = (
        compose(name, *takes, "--calibration", "own")
        for name, takes in (
            ("once", ("--take", "small:digits:8,3,5")),
            ("twice", ("--take", "small:digits:8,3", "--take", "small:digits:5")),
        )
    )
    assert once.rule == twice.rule and once.task == twice.task == "sub-task"


def test_one_network_has_the_classes_of_a_sub_task(root, compose, run_main, tmp_path):
    path = tmp_path / "one.py"
    words = ("--one_network", "0.5", "--set", "mask_steps=100", "--save", path)
    done, record = compose("one", "--take", "small:digits:8,3,5", *words)
    composed, control = (record.methods[each] for each in (COMPOSED, RESTRICTED.format("small_digits")))
    assert 0.3 < composed["flops"] <= 0.51 and control["flops"] == 1
    assert composed["accuracy"] > 0.5 and record.classes == ("8", "3", "5")
    assert record.made_with["keep_flops"] == 0.5 and "it answers as reported" in done.stdout
    whole = run_main(SCRIPT, "--take", "small:digits:8,3,5", "--whole", "--name", "one", root=root)
    whole.refused("one.json is there, of another composition")


def test_the_best_of_several_sets(compose, root, run_main):
    done, record = compose("best", "--best_of", "small:digits@few,small:digits@all", "--class_map", "three=3")
    assert record.classes == (*"012", "three", *"456789")
    taken = {name: member["source"].split("@")[1] for name, member in record.members.items()}
    assert set(taken.values()) <= {"few", "all"} and "all" in taken.values()
    for member in record.members.values():
        assert member["auc"][member["source"]] == max(member["auc"].values())
    assert "taken from" in done.stdout and "AUC" in done.stdout
    assert RESTRICTED.format("small_digits") in record.methods and MEAN not in record.methods


@pytest.mark.slow
def test_the_best_of_two_models_has_the_mean_of_their_softmax_and_the_page_shows_it(compose, root, run_main):
    _, record = compose("two", "--best_of", "small:digits:0,1,2", "simcnn_x0_25:digits:0,1,2")
    assert {MEAN, LARGEST, RESTRICTED.format("small_digits"), RESTRICTED.format(STRONG)} <= record.methods.keys()
    flops = {each["configuration"]: each["strong_flops"] for each in record.sources.values()}
    for model in ("small", "simcnn_x0_25"):
        name = f"{model}_digits"
        control, alone = (
            each.methods[RESTRICTED.format(name)]
            for each in (record, compose(model, "--take", f"{model}:digits:0,1,2")[1])
        )
        assert control["confusion_matrix"] == alone["confusion_matrix"]
        assert control["flops"] == pytest.approx(flops[name] / sum(flops.values()))
    page = run_main("scripts/make_report.py", "--model", "small", "--dataset", "digits", root=root)
    assert page.exit_code == 0, page.stderr
    html = (root / "data" / "small_digits" / "report" / "index.html").read_text(encoding="utf-8")
    assert "two: best of, 3 classes (0, 1, 2)" in html
    file = composing_files.record(Artifacts(root, "small", "digits"), "two").path
    content = json.loads(file.read_text())
    del content["methods"]["composed"], content["sha256"]
    file.write_text(json.dumps(content))
    run_main("scripts/make_report.py", "--model", "small", "--dataset", "digits", root=root)
    html = (root / "data" / "small_digits" / "report" / "index.html").read_text(encoding="utf-8")
    assert "Not here:" in html and "two.json" in html
    file.unlink()


@pytest.mark.parametrize(("words", "module_set"), [((), "all"), (("--whole",), "")])
def test_the_page_shows_what_is_composed_of_the_networks_that_are_there(root, compose, words, module_set):
    name = f"of_{module_set}"
    _, record = compose(name, "--take", "small:digits:8,3", *words)
    ((label, source),) = record.sources.items()
    assert source["modules"] == module_set and bool(source["modules_sha256"]) is bool(module_set)
    artifacts = Artifacts(root, "small", "digits")
    file, data = (
        composing_files.record(artifacts, name),
        SimpleNamespace(artifacts=artifacts, config=default_config("small", "digits")),
    )

    def block(**changed):
        entry = {key: value for key, value in (source | changed).items() if value is not None}
        file.save(replace(record, sources={label: entry}))
        texts = {block.caption if isinstance(block, Table) else block.text: block for block in composed_blocks(data)}
        ((text, found),) = [(text, block) for text, block in texts.items() if text.startswith(f"{name}: ")]
        return found, text

    table, caption = block()
    assert isinstance(table, Table) and "earlier version" not in caption
    for checksum in ("strong_model_sha256", "modules_sha256"):
        note, text = block(**{checksum: "0" * 64})
        assert isinstance(note, Note) and label in text and file.path.name in text
    assert isinstance(block(dataset="removed")[0], Note)
    unknown, caption = block(strong_model_sha256=None)
    assert isinstance(unknown, Table) and "earlier version did not record" in caption
    file.path.unlink()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], ("--take", "--best_of")),
        (["--take", "digits"], ("--take digits", "MODEL:DATASET:CLASSES")),
        (["--take", "simcnn_x0_25:digits:3,owl"], ("owl", "expected a class from 0 to 9")),
        (["--take", "simcnn_x0_25:digits:3"], ("2 or more classes, given 3",)),
        (["--take", "simcnn_x0_25:digits:3,4@none"], ("--modules none", "no such module set", "whole")),
        (["--take", "simcnn_x0_25:digits:3,4@whole", "--whole"], ("--whole", "leave out @whole")),
        (["--take", "simcnn_x0_25:digits", "--take", "small:digits:3"], ("class 3", "--best_of")),
        (
            ["--take", "simcnn_x0_25:digits_5", "--take", "small:digits:5", "--class_map", "Four=4,four=5"],
            ("Four", "four", "--class_map"),
        ),
        (["--best_of", "simcnn_x0_25:digits,simcnn_x0_25:digits_5"], ("class 5", "simcnn_x0_25_digits_5@whole lacks")),
        (["--best_of", "simcnn_x0_25:digits"], ("two or more",)),
        (
            ["--take", "simcnn_x0_25:digits:3,4", "--class_map", "three=3", "--images", "digits"],
            ("no class three", "--class_map"),
        ),
        (["--take", "simcnn_x0_25:digits:3,4", "--class_map", "5=4"], ("5=4", "has a class 5")),
        (["--take", "simcnn_x0_25:digits:3,4", "--class_map", "a=owl"], ("no strong model has a class owl",)),
        (["--take", "simcnn_x0_25:digits:3,4", "--images", "nothing"], ("dataset nothing is not there",)),
        (["--take", "simcnn_x0_25:digits:3,4", "--save", "a.txt"], ("--save a.txt", ".onnx")),
        (["--take", "simcnn_x0_25:digits:3,4", "--save", "a.pth"], ("--save a.pth", ".onnx")),
        (["--take", "simcnn_x0_25:digits:3,4", "--one_network", "1.5"], ("--one_network", "up to 1")),
        (["--take", "simcnn_x0_25:digits:3,4@whole", "--one_network", "0.5"], ("leave out @whole",)),
        (
            ["--take", "simcnn_x0_25:digits:3,4", "--take", "small:digits:5", "--one_network", "0.5"],
            ("two or more classes of each",),
        ),
    ],
)
def test_what_cannot_be_composed(root, run_main, words, expected):
    run_main(SCRIPT, *words, "--quiet", root=root).refused(*expected)


def test_networks_in_memory():
    class Says(nn.Module):
        def __init__(self, column, factor):
            super().__init__()
            self.column, self.factor = column, nn.Parameter(torch.tensor(factor))

        def forward(self, images):
            return images.mean((2, 3))[:, self.column : self.column + 1] * self.factor

    labels = np.arange(90) % 3
    images = torch.randn(90, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    images += torch.nn.functional.one_hot(torch.tensor(labels), 3)[:, :, None, None]
    networks = [Says(0, 1.0), Says(1, 100.0), Says(2, 0.01)]
    composed = cm.compose(networks, images, labels, sources=[0, 1, 2])
    assert (cm.predict(composed, images).argmax(1) == labels).all()
    assert (cm.predict(cm.ComposedModel(networks), images).argmax(1) == labels).mean() < 0.7
    with pytest.raises(UserError, match="labels: expected classes from 0 to 2"):
        cm.compose(networks, images, labels + 1)
    with pytest.raises(UserError, match="a source of each"):
        cm.compose(networks, images, labels, sources=[0])
    with pytest.raises(UserError, match="expected two or more outputs"):
        cm.compose(networks[:1], images, labels * 0)

    class Twice(Says):
        def forward(self, images):
            return super().forward(images), images

    wrapped = cm.compose([Twice(0, 1.0), *networks[1:]], images, labels, sources=[0, 1, 2])
    np.testing.assert_allclose(cm.predict(wrapped, images), cm.predict(composed, images), rtol=1e-6)
