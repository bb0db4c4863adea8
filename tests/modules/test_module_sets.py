"""Module sets: written once, never changed, read checked, and found by name."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import assert_near, files_below, random_images
from random_modules import extract_module

from configures.base import load
from dataset.images import Images, Split
from models import files as model_files
from models.evaluation import predict
from models.graph import estimate_statistics, trace
from models.opening import Stage
from models.strong_model import graph_of
from modules import files as module_files
from modules import module_sets
from modules.module import ComposedModel, replaced
from modules.module_set import SetRecord, show_module_set
from modules.module_sets import collected_outputs, latest_name, open_set, read_set, save_set, write_set
from utils import files
from utils.artifacts import Artifacts, CheckpointFile, load_json, save_json
from utils.errors import UserError

CPU = torch.device("cpu")
NAMES = ("cat", "dog", "owl", "fox", "bee")
KNOWN = SetRecord(NAMES, 9, (5, 6, 7, 8, 9), 0.5, 12, 10, 9, 12, 10, 9, {"method": "genetic"})


@pytest.fixture
def config():
    return load("rescnn_x0_25", "digits_5")


@pytest.fixture
def artifacts(config, root_dir):
    return Artifacts(root_dir, config.model, config.dataset)


def random_masks(config, num_modules, seed):
    units = graph_of(config).units
    kept = np.random.default_rng(seed).random((num_modules, units.num_units)) < 0.5
    return np.stack([units.spread(row) for row in kept])


def written(config, artifacts, targets=(0, 1, 2, 3, 4), seed=0, name=None, default_name="found"):
    """A set of modules of random masks."""
    strong, masks = graph_of(config), random_masks(config, len(targets), seed)
    modules = [extract_module(strong, mask, target) for target, mask in zip(targets, masks, strict=True)]
    kept = tuple(masks.sum(1).tolist())
    known = dataclasses.replace(KNOWN, kernels_kept=kept, target_classes=targets)
    return write_set(config, artifacts, modules, masks, known, name=name, default_name=default_name), modules, masks


@pytest.mark.parametrize("targets", [(2,), (1, 3), (0, 1, 2, 3, 4)])
def test_one_class_and_several_are_read_as_they_were_written(config, artifacts, targets):
    found, modules, masks = written(config, artifacts, targets)
    images = torch.randn(3, 3, 32, 32)
    again = open_set(config, artifacts, "found", targets)
    assert again == found == open_set(config, artifacts, target_classes=())
    np.testing.assert_array_equal(again.masks(), masks)
    for module, loaded in zip(modules, again.modules(CPU), strict=True):
        assert not loaded.training
        with torch.inference_mode():
            assert_near(loaded(images), module(images))
    record = again.record
    assert (record.image_side, record.resize, record.mean, record.std) == (32, "stretch", config.mean, config.std)
    assert set(record.files) == {path.name for path in again.folder.iterdir()} - {"set.json"}
    assert {"date", "commit", "torch", "processor"} <= set(record.made_with)


def test_a_set_is_never_changed(config, artifacts):
    first, _, _ = written(config, artifacts)
    before = files_below(first.folder)
    second, _, _ = written(config, artifacts, seed=1)
    assert (first.name, second.name, latest_name(artifacts)) == ("found", "found-2", "found-2")
    third, _, _ = written(config, artifacts, targets=(2,), seed=1)
    assert third.name == "found-3"
    # The same modules are the same set, which is the most recent one again.
    assert written(config, artifacts)[0] == first and latest_name(artifacts) == "found"
    with pytest.raises(UserError, match=r"--as found: .* with other modules, and a module set never changes"):
        written(config, artifacts, seed=2, name="found")
    assert written(config, artifacts, seed=2, name="mine")[0].name == "mine"
    assert files_below(first.folder) == before
    assert [each.name for each in module_sets.module_sets(config, artifacts)] == ["found", "found-2", "found-3", "mine"]


WRONG_NAMES = ["", "../up", "a/b", "-x", ".hidden", "latest.json", "é", "x" * 101]


@pytest.mark.parametrize("name", WRONG_NAMES)
def test_names_that_no_set_can_have(config, artifacts, name):
    with pytest.raises(UserError, match=r"--as .*: expected at most 100 letters"):
        module_sets.check_new_name(name)


@pytest.mark.parametrize("num_written", range(4))
def test_an_interrupted_run_leaves_no_set(config, artifacts, monkeypatch, num_written):
    done, whole = [], files.write_whole

    def write(path, content):
        if len(done) == num_written:
            raise KeyboardInterrupt
        done.append(path.name)
        whole(path, content)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(files, "write_whole", write)
        written(config, artifacts, (2,))
    assert (artifacts.folder / "modules" / "found").exists() == (num_written == 3)  # `latest.json` alone is lacking
    found, _, _ = written(config, artifacts, (2,))
    assert found.name == "found" and latest_name(artifacts) == "found"
    assert sorted(path.name for path in found.folder.parent.iterdir()) == ["found", "latest.json"]


@pytest.mark.parametrize(
    ("owner", "name", "error"),
    [(CheckpointFile, "save", (28, "No space left on device")), (Path, "rename", (13, "Permission denied"))],
)
def test_what_cannot_be_written_is_one_line(config, artifacts, monkeypatch, owner, name, error):
    def fails(*_):
        raise OSError(*error)

    monkeypatch.setattr(owner, name, fails)
    with pytest.raises(UserError, match=rf"cannot write to .*modules: {error[1]}"):
        written(config, artifacts)
    assert list((artifacts.folder / "modules").iterdir()) == []


def test_what_is_missing_is_named(config, artifacts):
    with pytest.raises(UserError, match=r"no module set in .*; first run: python module_gradient_search\.py"):
        open_set(config, artifacts)
    written(config, artifacts)
    written(config, artifacts, (1, 3), default_name="two")
    with pytest.raises(UserError, match="--modules mine: no such module set, expected one of: found, two; to make it"):
        open_set(config, artifacts, "mine")
    with pytest.raises(UserError, match=r"set two has modules of dog, fox: expected one of class 2 \(owl\); give --"):
        open_set(config, artifacts, None, (1, 2))
    assert open_set(config, artifacts, None, (3,)).name == "two"
    shutil.rmtree(artifacts.folder / "modules" / "two")
    assert latest_name(artifacts) == "found"
    open_set(config, artifacts).file(2).path.unlink()
    with pytest.raises(
        UserError, match=r"missing .*class_2\.pth; first run: python module_gradient_search\.py --model"
    ):
        open_set(config, artifacts).module(2, CPU)


def test_files_of_another_set_are_refused(config, artifacts):
    (ours, *_), (theirs, *_) = (written(config, artifacts, seed=seed) for seed in (0, 1))
    for file in ("class_1.pth", "class_1_kernels.npy"):
        shutil.copy(theirs.folder / file, ours.folder / file)
    assert ours.module(0, CPU)
    for load_it in (lambda: ours.module(1, CPU), lambda: ours.mask(1)):
        with pytest.raises(UserError, match=r"class_1_kernels\.npy was not written together") as refused:
            load_it()
        assert "\n" not in str(refused.value)
    theirs.file(0).save({name: value + 1 for name, value in theirs.module(0, CPU).state_dict().items()})
    with pytest.raises(UserError, match=r"class_0\.pth was not written together"):
        theirs.module(0, CPU)


@pytest.mark.parametrize(
    ("setting", "difference"),
    [
        ({"network": "simcnn_x0_25"}, "network rescnn_x0_25 there, simcnn_x0_25 now"),
        ({"image_side": 64}, "image_side 32 there, 64 now"),
    ],
)
def test_modules_of_another_network_are_refused(config, artifacts, setting, difference):
    written(config, artifacts)
    with pytest.raises(UserError, match=f"are of another network: {difference}; make a new set with: python"):
        open_set(dataclasses.replace(config, **setting), artifacts)
    with pytest.raises(UserError, match="expected 4 classes, found 5"):
        open_set(dataclasses.replace(config, classes=(), num_classes=4), artifacts)


def test_modules_of_other_weights_or_code_are_refused(config, artifacts):
    strong = model_files.entire_model(artifacts)
    strong.save({"weight": torch.zeros(1)})
    found, _, _ = written(config, artifacts)
    open_set(config, artifacts)
    strong.save({"weight": torch.ones(2)})
    with pytest.raises(UserError, match="are of another network: the strong model's weights are others"):
        open_set(config, artifacts)
    strong.path.unlink()
    path = found.folder / "set.json"
    content = load_json(path, "")
    save_json(path, content | {"source": content["source"] | {"digest": "0" * 64}})
    with pytest.raises(UserError, match="the code of rescnn_x0_25 has changed since"):
        open_set(config, artifacts)


def test_modules_of_a_strong_model_that_was_replaced_meanwhile_are_not_written(config, artifacts):
    strong = model_files.entire_model(artifacts)
    strong.save({"weight": torch.zeros(1)})
    stage, masks = Stage(config, artifacts, CPU, torch.float32, 0), random_masks(config, 5, 0)

    def save(name, checksum, parent=""):
        search = {"settings": {"strong_model_sha256": checksum}}
        of_set = {"name": name, "default_name": "x", "parent": parent}
        return save_set(stage, graph_of(config), masks, split_of(5), search, **of_set)

    then = files.sha256_of(strong.path)
    assert save("first", then).record.source.strong_model_sha256 == then
    assert save("of_first", "that of the publisher", parent="first").name == "of_first"
    strong.save({"weight": torch.ones(2)})
    now = files.sha256_of(strong.path)
    for given in ((then,), (now, "first")):
        with pytest.raises(UserError, match=f"was replaced since .*{then[:12]} then, {now[:12]} now.*--fresh"):
            save("second", *given)
    strong.path.unlink()
    with pytest.raises(UserError, match="none now"):
        save("second", then)
    assert sorted(each.name for each in module_sets.module_sets(config, artifacts)) == ["first", "of_first"]


def without_a_layer(weights):
    del weights["convs.3.weight"]


def another_layer(weights):
    weights["convs.12.weight"] = weights["convs.3.weight"]


def not_a_tensor(weights):
    weights["fcs.0.weight"] = 5


def nan(weights):
    weights["fcs.0.bias"][0] = float("nan")


def all_logits(weights):
    weights["fcs.0.weight"] = weights["fcs.0.weight"].repeat(5, 1)
    weights["fcs.0.bias"] = weights["fcs.0.bias"].repeat(5)


def doubles(weights):
    weights["fcs.0.weight"] = weights["fcs.0.weight"].double()


@pytest.mark.parametrize("damage", [without_a_layer, another_layer, not_a_tensor, nan, all_logits, doubles])
def test_damaged_checkpoints(config, artifacts, damage):
    found, (module,), _ = written(config, artifacts, (2,))
    weights = {name: value.clone() for name, value in module.state_dict().items()}
    damage(weights)
    found.file(2).save(weights)
    unknown = dataclasses.replace(found, record=dataclasses.replace(found.record, files={}))
    with pytest.raises(UserError, match=r"(?s)cannot use .*class_2\.pth: .* module_gradient_search\.py"):
        unknown.module(2, CPU)
    found.kernels_file(2).save(np.zeros_like(found.record.kernels, shape=graph_of(config).units.num_kernels))
    with pytest.raises(UserError, match="at least one kept kernel"):
        unknown.mask(2)


def test_an_uninformative_module_is_named(capsys):
    aucs = {"valid_auc_strong": (0.99, 0.98, 0.97), "valid_auc_modules": (0.98, 0.9, 0.96)}
    record = SetRecord(NAMES[:3], 9, (5, 6, 7), 0.5, 12, 10, 9, 12, 10, 9, {}, **aucs)
    for parent, advice in (
        ("", "fine-tune them with module_fine_tuner.py, or keep more kernels"),
        ("gradient", "keep more kernels"),  # they are fine-tuned
    ):
        show_module_set(dataclasses.replace(record, parent=parent))
        lines = [line for line in capsys.readouterr().out.splitlines() if "uninformative" in line]
        assert lines == [f"uninformative modules: dog; before patching, {advice}"]


def test_ten_uninformative_modules_are_named_at_most(capsys):
    names, counts = tuple("abcdefghijkl"), (12, 10, 9, 12, 10, 9, {})
    aucs = {"valid_auc_strong": (0.99,) * 12, "valid_auc_modules": (0.9,) * 12}
    show_module_set(SetRecord(names, 9, (5,) * 12, 0.5, *counts, **aucs))
    assert "uninformative modules: a, b, c, d, e, f, g, h, i, j and 2 more;" in capsys.readouterr().out


@pytest.mark.parametrize(
    "wrong", [{"kernels_kept": (1, 2)}, {"flops": (0.5,)}, {"target_classes": (0, 1, 2, 3, 7)}, {"kernels": 0}]
)
def test_records_that_fit_no_modules(config, artifacts, wrong):
    found, _, _ = written(config, artifacts)
    path = found.folder / "set.json"
    save_json(path, load_json(path, "") | wrong)
    with pytest.raises(UserError, match=r"cannot use .*set\.json: expected"):
        read_set(config, artifacts, "found")


def split_of(num_classes):
    parts = (random_images(40, num_classes, seed) for seed in range(3))
    return Split(NAMES[:num_classes], *parts)


@pytest.mark.parametrize("targets", [(0, 1, 2, 3, 4), (3,), (1, 4)])
def test_composed_is_the_strong_model_with_the_sets_logits(config, artifacts, targets):
    strong, masks, split = graph_of(config), random_masks(config, len(targets), 0), split_of(5)
    stage = Stage(config, artifacts, CPU, torch.float32, 0)
    found = save_set(stage, strong, masks, split, {"method": "x"}, name=None, default_name="x", target_classes=targets)
    modules, record, images = found.modules(CPU), found.record, torch.randn(7, 3, 32, 32)
    with torch.inference_mode():
        strong_logits, logits = strong.network(images), ComposedModel(modules)(images)
        each = torch.cat([module(images) for module in modules], 1)
    assert torch.equal(logits, each)
    answers = replaced(strong_logits, logits, targets)
    assert torch.equal(answers[:, list(targets)], logits)
    others = [number for number in range(5) if number not in targets]
    assert torch.equal(answers[:, others], strong_logits[:, others])
    assert len(targets) < 5 or torch.equal(answers, logits)
    # A module is replaced by itself: nothing changes.
    assert torch.equal(replaced(answers, each, targets), answers)
    assert record.valid_images == 40 and len(record.explained) == len(record.flops) == len(targets)
    for target, low, high in zip(targets, record.output_low, record.output_high, strict=True):
        of_class = split.valid.take(np.flatnonzero(split.valid.labels == target))
        outputs = collected_outputs(stage, found, target, of_class)
        assert_near([low, high], [outputs.min(), outputs.max()])
        file = module_files.module_outputs(artifacts, target, "x")
        assert file.exists() and np.array_equal(collected_outputs(stage, found, target, of_class), outputs)
        file.save(outputs + 1)  # of another set of this name, which was removed
        assert np.array_equal(collected_outputs(stage, found, target, of_class), outputs)


def test_all_kernels_kept_answer_as_the_strong_model(config, artifacts):
    strong = graph_of(config)
    stage = Stage(config, artifacts, CPU, torch.float32, 0)
    masks = np.ones((5, strong.units.num_kernels), bool)
    record = save_set(stage, strong, masks, split_of(5), {}, name="all", default_name="x").record
    assert record.valid_right_composed == record.valid_right_strong and record.kernel_share == 1
    assert record.explained == pytest.approx((1,) * 5) and record.flops[0] == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("modules_are_wrong", [True, False])
def test_batch_norms_have_the_statistics_that_classify_better(capsys, modules_are_wrong):
    """Those that a module was cut with, or its own, where the others are another network's."""
    torch.manual_seed(0)
    layers = torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1)
    strong = trace(torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(8, 3)).eval(), 16)
    pixels = np.random.default_rng(0).normal(size=(300, 16, 16, 3)).astype(np.float32)
    usual, others = (
        Images(pixels, np.zeros(300, np.int64), None),
        Images(9 + 30 * pixels, np.zeros(300, np.int64), None),
    )
    estimate_statistics(strong.network, [torch.tensor(pixels).permute(0, 3, 1, 2)])
    strong.constants["5.bias"].sub_(predict(strong.network, usual, CPU).mean(0))  # so that it names all classes
    labels = predict(strong.network, usual, CPU).argmax(1).numpy()
    valid = dataclasses.replace(usual, labels=labels)
    if modules_are_wrong:
        for name, value in strong.network.named_buffers():
            if name.endswith("running_mean"):
                value += 2 * torch.randn(8)
    split = Split(NAMES[:3], usual if modules_are_wrong else others, valid, valid)
    kernel_masks = np.ones((3, 8), bool)
    chosen = module_sets.with_better_statistics(strong, kernel_masks, range(3), split, CPU)
    means = [dict(network.named_buffers())["1.running_mean"] for network in (chosen[0], strong.network)]
    assert torch.equal(*means) != modules_are_wrong
    right = int((predict(ComposedModel(chosen), usual, CPU).argmax(1).numpy() == labels).sum())
    assert right >= 280 and f"{right} " in capsys.readouterr().out
