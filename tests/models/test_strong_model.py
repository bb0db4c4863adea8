"""The strong model from its checkpoint, or the first difference."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from configures.base import Config
from models import files as model_files
from models.registry import build_network
from models.strong_model import load_strong_model
from utils.artifacts import Artifacts
from utils.errors import UserError

CONFIG = Config("simcnn_x0_0625", "digits", 4)


def save_model(root_dir: Path, name: str = CONFIG.model, num_classes: int = 4, **changes: Any) -> Artifacts:
    artifacts = Artifacts(root_dir, CONFIG.model, CONFIG.dataset)
    torch.manual_seed(0)
    state = {**build_network(name, num_classes).state_dict(), **changes}
    model_files.entire_model(artifacts).save({name: value for name, value in state.items() if value is not None})
    return artifacts


def test_it_is_the_saved_one(root_dir: Path) -> None:
    artifacts = save_model(root_dir)
    model = load_strong_model(CONFIG, artifacts, torch.device("cpu"))
    assert not model.training
    assert model.convs[3].weight.is_contiguous(memory_format=torch.channels_last)
    for name, value in model_files.entire_model(artifacts).load().items():
        assert torch.equal(model.state_dict()[name], value)


def test_before_training(root_dir: Path) -> None:
    with pytest.raises(UserError, match=r"first run: python train\.py --model simcnn_x0_0625 --dataset digits"):
        load_strong_model(CONFIG, Artifacts(root_dir, CONFIG.model, CONFIG.dataset), torch.device("cpu"))


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ({"name": "simcnn_x0_125"}, r"convs.0.weight to be float32 of shape \(4, 3, 3, 3\), found .* \(8, 3, 3, 3\)"),
        ({"num_classes": 5}, r"fcs.2.weight to be float32 of shape \(4, 512\), found float32 of shape \(5, 512\)"),
        ({"name": "rescnn_x0_0625"}, r"convs.1.weight to be .*, found"),
        ({"fcs.1.bias": None}, r"fcs.1.bias to be float32 of shape \(512,\), found absent"),
        ({"fcs.9.bias": torch.ones(2)}, r"fcs.9.bias to be absent, found float32 of shape \(2,\)"),
        ({"epoch": 3}, r"epoch to be absent, found int"),
        ({"fcs.2.bias": [0.0] * 4}, r"fcs.2.bias to be float32 of shape \(4,\), found list"),
        ({"fcs.2.bias": torch.ones(4).double()}, r"fcs.2.bias to be .*, found float64 of shape \(4,\)"),
        ({"fcs.2.bias": torch.ones(4).int()}, r"fcs.2.bias to be .*, found int32 of shape \(4,\)"),
        ({"fcs.2.bias": torch.ones(4).to_sparse()}, r"fcs.2.bias to be .*, found sparse_coo float32"),
        ({"fcs.2.bias": torch.full((4,), torch.nan)}, "holds NaN or infinity"),
    ],
)
def test_another_checkpoint_is_refused_with_the_first_difference(root_dir: Path, saved: dict, message: str) -> None:
    artifacts = save_model(root_dir, **saved)
    with pytest.raises(UserError, match=message) as error:
        load_strong_model(CONFIG, artifacts, torch.device("cpu"))
    assert str(model_files.entire_model(artifacts).path) in str(error.value)
    assert "make it again with: python train.py --model simcnn_x0_0625" in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: {**state, "fcs.2.bias": torch.ones(5)},
            r"another width, class count or network: expected fcs.2.bias",
        ),
        (lambda state: {**state, "fcs.2.bias": torch.full((4,), torch.nan)}, "holds NaN or infinity"),
        (lambda state: [state], "is no state_dict: it holds a list"),
        (lambda state: torch.nn.ReLU(), "is a whole pickled object of class torch.nn.modules.activation.ReLU"),
    ],
)
def test_who_brings_a_checkpoint_is_not_told_to_train_anew(root_dir: Path, change: Callable, message: str) -> None:
    artifacts = save_model(root_dir)
    path = model_files.entire_model(artifacts).path
    torch.save(change(torch.load(path, weights_only=True)), path)
    with pytest.raises(UserError, match=message) as error:
        load_strong_model(CONFIG, artifacts, torch.device("cpu"))
    assert "train.py" not in str(error.value)


def test_a_checkpoint_that_torch_saved_is_loaded(root_dir: Path) -> None:
    artifacts = save_model(root_dir)
    path = model_files.entire_model(artifacts).path
    state = torch.load(path, weights_only=True)
    torch.save(state, path)
    model = load_strong_model(CONFIG, artifacts, torch.device("cpu"))
    assert all(torch.equal(model.state_dict()[name], value) for name, value in state.items())
