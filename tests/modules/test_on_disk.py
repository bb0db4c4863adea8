"""Modules are taken from the disk only where checkpoint and kernel mask belong together."""

import dataclasses

import numpy as np
import pytest
import torch
from conftest import assert_near
from random_modules import extract_module

from configures.base import load
from dataset.labelled_images import IMAGENET, Images, Split
from models import files as model_files
from models.strong_model import graph_of
from modules import files as module_files
from modules.modularization import Modularization, show_modularization
from modules.on_disk import (
    check_source_network,
    load_kernel_mask,
    load_modularization,
    load_module,
    save_modularization,
    write_modules,
)
from modules.source_network import SourceNetwork
from utils import files
from utils.artifacts import Artifacts
from utils.checked_text import save_json
from utils.errors import UserError
from utils.stage import Stage

CPU = torch.device("cpu")
KNOWN = Modularization(("0", "1", "2", "3", "4"), 9, (5, 6, 7, 8, 9), 0.5, 12, 10, 9, 12, 10, 9, {})


@pytest.fixture
def config():
    return load("rescnn_x0_25", "digits_5")


@pytest.fixture
def saved(config, root_dir):
    """A module of class 2 on the disk: its files, the module and its mask."""
    artifacts = Artifacts(root_dir, config.model, config.dataset)
    strong = graph_of(config)
    kernel_mask = strong.units.spread(np.random.default_rng(0).random(strong.num_units) < 0.5)
    module = extract_module(strong, kernel_mask, 2)
    module_files.source_network(artifacts).save(SourceNetwork.of(strong, config))
    module_files.module(artifacts, 2).save(module.state_dict())
    module_files.module_kernels(artifacts, 2).save(kernel_mask)
    return artifacts, module, kernel_mask


def test_loaded_as_it_was_extracted(config, saved):
    artifacts, module, kernel_mask = saved
    loaded = load_module(config, artifacts, 2, CPU)
    images = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        assert_near(loaded(images), module(images))
    assert not loaded.training
    np.testing.assert_array_equal(load_kernel_mask(config, artifacts, 2), kernel_mask)


def test_a_report_without_what_earlier_versions_did_not_know(config, root_dir):
    artifacts = Artifacts(root_dir, config.model, config.dataset)
    known = Modularization(
        ("0", "1", "2", "3", "4"), 9, (5, 6, 7, 8, 9), 0.5, 12, 10, 9, 12, 10, 9, {"method": "genetic"}
    )
    file = module_files.report(artifacts)
    save_json(file.path, {name: value for name, value in vars(known).items() if not name.startswith("valid_auc")})
    assert load_modularization(config, artifacts) == known
    assert known.free_riders == []
    file.save(dataclasses.replace(known, valid_auc_strong=(0.9,) * 5, valid_auc_modules=(0.9,) * 4))
    with pytest.raises(UserError, match="expected 5 classes"):
        load_modularization(config, artifacts)


def test_a_free_rider_is_named(capsys):
    aucs = {"valid_auc_strong": (0.99, 0.98, 0.97), "valid_auc_modules": (0.98, 0.9, 0.96)}
    result = Modularization(("cat", "dog", "owl"), 9, (5, 6, 7), 0.5, 12, 10, 9, 12, 10, 9, {}, **aucs)
    show_modularization(result)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    words = "uninformative modules, whose AUC is more than 0.02 below the strong model's: class 1 (dog). "
    assert words in " ".join(printed.split("\n"))
    assert "class 0" not in printed and "class 2" not in printed


def test_modules_whose_aucs_are_not_known_are_shown(capsys):
    show_modularization(Modularization(("cat", "dog"), 9, (5, 6), 0.5, 12, 10, 9, 12, 10, 9, {}))
    assert "cat" in capsys.readouterr().out


def test_missing_files_name_the_command(config, saved):
    artifacts, _, _ = saved
    with pytest.raises(
        UserError, match=r"missing .*class_3\.pth; first run: python module_gradient_search\.py --model rescnn"
    ):
        load_module(config, artifacts, 3, CPU)
    module_files.module_kernels(artifacts, 2).path.unlink()
    with pytest.raises(UserError, match=r"missing .*class_2_kernels\.npy"):
        load_module(config, artifacts, 2, CPU)


def test_mask_and_checkpoint_of_different_modules(config, saved):
    artifacts, _, kernel_mask = saved
    module_files.module_kernels(artifacts, 2).save(np.ones_like(kernel_mask))
    with pytest.raises(UserError, match=r"class_2\.pth: not the module of rescnn_x0_25 that its mask says"):
        load_module(config, artifacts, 2, CPU)


def test_a_mask_that_empties_a_layer(config, saved):
    artifacts, _, kernel_mask = saved
    module_files.module_kernels(artifacts, 2).save(np.zeros_like(kernel_mask))
    with pytest.raises(UserError, match="at least one kept kernel"):
        load_module(config, artifacts, 2, CPU)


def test_modules_of_an_earlier_version_load(config, saved):
    artifacts, module, kernel_mask = saved
    module_files.source_network(artifacts).path.unlink()
    check_source_network(config, artifacts)
    loaded = load_module(config, artifacts, 2, CPU)
    assert all(torch.equal(value, module.state_dict()[name]) for name, value in loaded.state_dict().items())
    np.testing.assert_array_equal(load_kernel_mask(config, artifacts, 2), kernel_mask)


def test_modules_of_other_weights_are_refused(config, saved):
    artifacts, _, kernel_mask = saved
    strong = graph_of(config)
    model_files.entire_model(artifacts).save({"weight": torch.zeros(1)})
    check_source_network(config, artifacts)  # an earlier version did not write the weights' checksum
    for place in (artifacts, artifacts.for_patch(2)):
        write_modules(strong, [extract_module(strong, kernel_mask, 2)], kernel_mask[None], KNOWN, config, place)
        check_source_network(config, place)
    model_files.entire_model(artifacts).save({"weight": torch.ones(2)})
    for place in (artifacts, artifacts.for_patch(2)):
        with pytest.raises(UserError, match="are of another network: the strong model's weights are others"):
            load_kernel_mask(config, place, 0)


def test_an_earlier_report_never_stands_beside_new_modules(config, saved, monkeypatch):
    artifacts, _, kernel_mask = saved
    report, strong = module_files.report(artifacts), graph_of(config)
    none = Images(np.zeros((1, 32, 32, 3), np.uint8), np.zeros(1, np.int64), IMAGENET)
    split = Split(("0", "1", "2", "3", "4"), none, none, none)
    report.save(KNOWN)
    stage = Stage(config, artifacts, CPU, torch.float32, 0)
    for where, is_there in (("modules.on_disk.evaluate_modules", True), ("utils.files.save_checkpoint", False)):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(where, interrupted)
            save_modularization(strong, np.tile(kernel_mask, (5, 1)), split, stage, {})
        assert report.exists() == is_there


def interrupted(*_):
    raise KeyboardInterrupt


def set_of_modules(config, place, seed, known=KNOWN):
    """Writes modules of the first two classes, which keep half of the kernels, others for another seed."""
    strong = graph_of(config)
    masks = strong.units.spread(np.random.default_rng(seed).random((2, strong.num_units)) < 0.5)
    modules = [extract_module(strong, mask, number) for number, mask in enumerate(masks)]
    write_modules(strong, modules, masks, known, config, place)
    return modules, masks


@pytest.mark.parametrize("num_written", range(6))
def test_a_set_that_is_half_written_over_another_one_is_refused(config, root_dir, monkeypatch, num_written):
    place = Artifacts(root_dir, config.model, config.dataset)
    set_of_modules(config, place, seed=0)
    written, whole = [], files.write_whole

    def write(path, content):
        if len(written) == num_written:
            raise KeyboardInterrupt
        written.append(path.name)
        whole(path, content)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(files, "write_whole", write)
        set_of_modules(config, place, seed=1)
    if not num_written:
        assert load_module(config, place, 0, CPU) and load_modularization(config, place) == KNOWN
        return
    loads = (lambda: load_module(config, place, 0, CPU), lambda: load_kernel_mask(config, place, 1))
    for load_it in (*loads, lambda: load_modularization(config, place), lambda: check_source_network(config, place)):
        with pytest.raises(UserError, match=r"modules are half written|are half written: .*; make them again with"):
            load_it()
    set_of_modules(config, place, seed=1)
    assert load_module(config, place, 0, CPU) and load_modularization(config, place) == KNOWN


def test_files_of_two_sets_are_refused(config, root_dir):
    ours, theirs = (Artifacts(root_dir / name, config.model, config.dataset) for name in ("ours", "theirs"))
    set_of_modules(config, ours, seed=0)
    set_of_modules(config, theirs, seed=1)
    for kind in (module_files.module, module_files.module_kernels):
        kind(ours, 1).path.write_bytes(kind(theirs, 1).path.read_bytes())
    assert load_module(config, ours, 0, CPU)
    for load_it in (lambda: load_module(config, ours, 1, CPU), lambda: load_kernel_mask(config, ours, 1)):
        with pytest.raises(UserError, match=r"class_1_kernels\.npy was not written together .* files of two runs") as e:
            load_it()
        assert "\n" not in str(e.value)
    module_files.module_kernels(theirs, 3).save(module_files.module_kernels(theirs, 1).load(None))
    with pytest.raises(UserError, match=r"class_3_kernels\.npy was not written together"):  # of more classes
        load_kernel_mask(config, theirs, 3)


def test_weights_of_the_same_size_from_another_set_are_refused(config, root_dir):
    place = Artifacts(root_dir, config.model, config.dataset)
    (module, _), _ = set_of_modules(config, place, seed=0)
    module_files.module(place, 0).save({name: value + 1 for name, value in module.state_dict().items()})
    with pytest.raises(UserError, match=r"class_0\.pth was not written together"):
        load_module(config, place, 0, CPU)


def test_a_set_of_an_earlier_version_loads(config, root_dir):
    place = Artifacts(root_dir, config.model, config.dataset)
    set_of_modules(config, place, seed=0)
    record = module_files.source_network(place)
    save_json(record.path, {k: v for k, v in record.load().__dict__.items() if k not in ("is_whole", "files")})
    assert load_module(config, place, 1, CPU) and load_modularization(config, place) == KNOWN


@pytest.mark.parametrize(
    ("setting", "difference"),
    [
        ({"network": "simcnn_x0_25"}, "network rescnn_x0_25 there, simcnn_x0_25 now"),
        ({"num_classes": 4}, "num_classes 5 there, 4 now"),
        ({"image_side": 64}, "image_side 32 there, 64 now"),
    ],
)
def test_modules_of_another_network_are_refused(config, saved, setting, difference):
    artifacts, _, _ = saved
    other = dataclasses.replace(config, classes=(), **setting)
    for load_it in (check_source_network, lambda *which: load_kernel_mask(*which, 2)):
        with pytest.raises(UserError, match=f"are of another network: {difference}; make them again with: python"):
            load_it(other, artifacts)
    with pytest.raises(UserError, match=f"are of another network: {difference}"):
        load_module(other, artifacts, 2, CPU)


def test_modules_of_changed_code_are_refused(config, saved):
    artifacts, _, _ = saved
    file = module_files.source_network(artifacts)
    file.save(dataclasses.replace(file.load(), digest="0" * 64))
    with pytest.raises(UserError, match="the code of rescnn_x0_25 has changed since") as refused:
        load_module(config, artifacts, 2, CPU)
    assert "\n" not in str(refused.value)


def without_a_layer(weights):
    del weights["convs.3.weight"]


def not_a_tensor(weights):
    weights["fcs.0.weight"] = 5


def nan(weights):
    weights["fcs.0.bias"][0] = float("nan")


def all_logits(weights):
    weights["fcs.0.weight"] = weights["fcs.0.weight"].repeat(5, 1)
    weights["fcs.0.bias"] = weights["fcs.0.bias"].repeat(5)


def doubles(weights):
    weights["fcs.0.weight"] = weights["fcs.0.weight"].double()


@pytest.mark.parametrize("damage", [without_a_layer, not_a_tensor, nan, all_logits, doubles])
def test_damaged_checkpoints(config, saved, damage):
    artifacts, module, _ = saved
    weights = {name: value.clone() for name, value in module.state_dict().items()}
    damage(weights)
    module_files.module(artifacts, 2).save(weights)
    with pytest.raises(UserError, match=r"(?s)cannot use .*class_2\.pth: .* module_gradient_search\.py"):
        load_module(config, artifacts, 2, CPU)
