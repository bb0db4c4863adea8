"""Modules are taken from the disk only where checkpoint and kernel mask belong together."""

import numpy as np
import pytest
import torch

from configures.base import load
from models.registry import build_network
from modules import files as module_files
from modules.module import extract_module
from modules.on_disk import load_kernel_mask, load_module
from utils.artifacts import Artifacts
from utils.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture
def config():
    return load("rescnn_x0_25", "digits_5")


@pytest.fixture
def saved(config, root_dir):
    """A module of class 2 on the disk: its files, the module and its mask."""
    artifacts = Artifacts(root_dir, config.model, config.dataset)
    strong = build_network(config.model, config.num_classes)
    architecture = strong.architecture
    kernel_mask = np.random.default_rng(0).random(sum(architecture.num_kernels)) < 0.5
    for layer, first in enumerate(architecture.tied_to):
        kernel_mask[architecture.layer_slices[layer]] = kernel_mask[architecture.layer_slices[first]]
    module = extract_module(strong, kernel_mask, 2)
    module_files.module(artifacts, 2).save(module.state_dict())
    module_files.module_kernels(artifacts, 2).save(kernel_mask)
    return artifacts, module, kernel_mask


def test_loaded_as_it_was_extracted(config, saved):
    artifacts, module, kernel_mask = saved
    loaded = load_module(config, artifacts, 2, CPU)
    images = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(images), module(images))
    assert not loaded.training
    np.testing.assert_array_equal(load_kernel_mask(config, artifacts, 2), kernel_mask)


def test_missing_files_name_the_command(config, saved):
    artifacts, _, _ = saved
    with pytest.raises(
        UserError, match=r"missing .*class_3\.pth; first run: python module_recorder\.py --model rescnn"
    ):
        load_module(config, artifacts, 3, CPU)
    module_files.module_kernels(artifacts, 2).path.unlink()
    with pytest.raises(UserError, match=r"missing .*class_2_kernels\.npy"):
        load_module(config, artifacts, 2, CPU)


def test_mask_and_checkpoint_of_different_modules(config, saved):
    artifacts, _, kernel_mask = saved
    module_files.module_kernels(artifacts, 2).save(np.ones_like(kernel_mask))
    with pytest.raises(UserError, match=r"class_2\.pth: expected kernels \(16, 32"):
        load_module(config, artifacts, 2, CPU)


def test_a_mask_that_empties_a_layer(config, saved):
    artifacts, _, kernel_mask = saved
    module_files.module_kernels(artifacts, 2).save(np.zeros_like(kernel_mask))
    with pytest.raises(UserError, match="at least one kept kernel"):
        load_module(config, artifacts, 2, CPU)


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
    with pytest.raises(UserError, match=r"(?s)cannot use .*class_2\.pth: .* module_recorder\.py"):
        load_module(config, artifacts, 2, CPU)
