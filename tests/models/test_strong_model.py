"""The strong model from its checkpoint, or the first difference."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import assert_near, refusal_of
from torch import nn

from configures.base import Config
from models import files as model_files
from models.files import NetworkSettings
from models.names import network_of
from models.strong_model import graph_of, load_strong_model, trace_classifier, untrained_graph
from utils.artifacts import Artifacts
from utils.errors import UserError
from utils.seeds import randomise

CONFIG = Config("simcnn_x0_0625", "digits", 4)


def saved(network: nn.Module, name: str, root_dir: Path) -> tuple[Config, Artifacts]:
    """A configuration of this network, whose weights are saved."""
    config = dataclasses.replace(CONFIG, network=name)
    artifacts = Artifacts(root_dir, config.model, config.dataset)
    model_files.entire_model(artifacts).save(network.state_dict())
    return config, artifacts


def save_model(root_dir: Path, name: str = CONFIG.model, num_classes: int = 4, **changes: Any) -> Artifacts:
    artifacts = Artifacts(root_dir, CONFIG.model, CONFIG.dataset)
    torch.manual_seed(0)
    state = {**network_of(name, num_classes).state_dict(), **changes}
    model_files.entire_model(artifacts).save({name: value for name, value in state.items() if value is not None})
    return artifacts


@pytest.mark.parametrize("by_torch", [False, True])
def test_it_is_the_saved_one(root_dir: Path, by_torch: bool) -> None:
    artifacts = save_model(root_dir)
    if by_torch:
        path = model_files.entire_model(artifacts).path
        torch.save(torch.load(path, weights_only=True), path)
    graph = load_strong_model(CONFIG, artifacts, torch.device("cpu"))
    assert not graph.network.training
    assert graph.constants["convs.3.weight"].is_contiguous(memory_format=torch.channels_last)
    weights = model_files.entire_model(artifacts).load()
    assert list(graph.network.state_dict()) == list(weights)
    for name, value in weights.items():
        assert torch.equal(graph.network.state_dict()[name], value)
    network = network_of(CONFIG.model, 4).eval()
    network.load_state_dict(weights)
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        assert_near(graph.network(images), network(images))
        assert_near(graph.forward(images), network(images))


@pytest.mark.slow
@pytest.mark.parametrize("network", ["resnet20_x0_25", "torchvision:squeezenet1_1"])
def test_other_networks_are_the_saved_ones(root_dir: Path, network: str) -> None:
    whole = network_of(network, 4)
    randomise(whole, 32)
    config, artifacts = saved(whole, network, root_dir)
    graph = load_strong_model(config, artifacts, torch.device("cpu"))
    assert graph.digest == graph_of(config).digest
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        assert_near(graph.network(images), whole(images))
    assert not set(graph.constants.values()) & set(graph_of(config).constants.values())


HEADER = "import torch\nfrom torch import nn\nfrom torch.nn.utils.parametrizations import weight_norm\n"


def test_weights_that_the_code_computes_are_computed_anew(root_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "nets.py"
    file.write_text(
        HEADER + "def build(num_classes):\n    conv = weight_norm(nn.Conv2d(3, 8, 3, stride=4))\n"
        "    return nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))"
    )
    whole = network_of(f"{file}:build", 4).eval()
    with torch.no_grad():
        for value in whole.parameters():
            value.mul_(3)
    config, artifacts = saved(whole, f"{file}:build", root_dir)
    graph = load_strong_model(config, artifacts, torch.device("cpu"))
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        assert_near(graph.network(images), whole(images))


def test_a_structure_takes_no_random_numbers_and_is_made_once() -> None:
    torch.manual_seed(0)
    first = torch.rand(1)
    torch.manual_seed(0)
    untrained_graph.cache_clear()
    graph = graph_of(CONFIG)
    assert torch.equal(torch.rand(1), first)
    assert graph_of(dataclasses.replace(CONFIG, dataset="other")) is graph


@pytest.mark.parametrize(
    ("build", "message"),
    [
        ("nn.Conv2d(3, num_classes, 32)", "expected kernels that can be dropped, found none"),
        ("nn.Linear(3072, num_classes)", "the network has no convolution"),
        ("nn.Conv2d(3, num_classes + 1, 32)", "expected 4 logits, it gives 5"),
    ],
)
def test_networks_without_modules_are_refused(tmp_path: Path, build: str, message: str) -> None:
    file = tmp_path / "nets.py"
    more = "nn.Flatten(), " if "Linear" in build else ""
    last = "" if "Linear" in build else ", nn.Flatten()"
    file.write_text(HEADER + f"def build(num_classes):\n    return nn.Sequential({more}{build}{last})")
    said = refusal_of(lambda: graph_of(dataclasses.replace(CONFIG, network=f"{file}:build")))
    assert message in said and f"{file}:build" in said


CONSTANT = """
class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, num_classes)
        self.register_buffer("scale", torch.tensor([1.0, 2.0, 3.0]), persistent=False)

    def forward(self, x):
        x = x * self.scale[:, None, None]
        return self.fc((self.conv(x).relu() * 0.5).mean((2, 3)))
"""


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            "relu",
            "tanh",
            r"the code of \S+nets.py:Net has changed since \(graph \w+ there, \w+ now\); bring the code back",
        ),
        ("* 0.5", "* 0.4", "has changed since"),
        (
            "[1.0, 2.0, 3.0]",
            "[3.0, 2.0, 1.0]",
            "the constants in the code of .*:Net have changed since, or are others every",
        ),
        ("[1.0, 2.0, 3.0]", "[1.00001, 2.0, 3.0]", ""),  # as another processor may compute it
        ("Net(", "Other(nn.Module):\n    pass\n\n\nclass Net(", ""),
    ],
)
def test_code_that_has_changed_since_is_refused(
    root_dir: Path, tmp_path: Path, before: str, after: str, message: str
) -> None:
    (file := tmp_path / "nets.py").write_text(HEADER + CONSTANT)
    config, artifacts = saved(network_of(f"{file}:Net", 4), f"{file}:Net", root_dir)
    recorded = NetworkSettings.of(config, graph_of(config))
    assert len(recorded.code_values) == 2
    model_files.network_settings(artifacts).save(recorded)
    load_strong_model(config, artifacts, torch.device("cpu"))
    file.write_text(HEADER + CONSTANT.replace(before, after))
    untrained_graph.cache_clear()
    if not message:
        load_strong_model(config, artifacts, torch.device("cpu"))
        return
    with pytest.raises(UserError, match=message):
        load_strong_model(config, artifacts, torch.device("cpu"))
    for unknown in (
        {"digest": "", "torch": "", "code_values": ()},
        {"torch": "2.6"},
    ):  # published; another torch
        model_files.network_settings(artifacts).save(dataclasses.replace(recorded, **unknown))
        load_strong_model(config, artifacts, torch.device("cpu"))


def test_a_network_that_merges_weights_when_it_is_evaluated(root_dir: Path, tmp_path: Path) -> None:
    """As adapters of low rank do."""
    file = tmp_path / "nets.py"
    file.write_text(
        HEADER + "class Merging(nn.Conv2d):\n"
        "    def __init__(self, *sizes):\n        super().__init__(*sizes)\n"
        "        self.more, self.is_merged = nn.Parameter(self.weight.detach().clone()), False\n\n"
        "    def train(self, mode=True):\n"
        "        if mode == self.is_merged:\n"
        "            self.weight.data += (-1 if mode else 1) * self.more.data\n"
        "            self.is_merged = not mode\n        return super().train(mode)\n\n"
        "    def forward(self, x):\n"
        "        weight = self.weight if self.is_merged else self.weight + self.more\n"
        "        return nn.functional.conv2d(x, weight, self.bias)\n\n\n"
        "def build(num_classes):\n"
        "    conv, fc = Merging(3, 8, 3), nn.Linear(8, num_classes)\n"
        "    return nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), fc)\n"
    )
    whole, images = network_of(f"{file}:build", 4), torch.randn(3, 3, 32, 32)
    config, artifacts = saved(whole, f"{file}:build", root_dir)
    graphs = trace_classifier(whole, "whole", 4, 32), load_strong_model(config, artifacts, torch.device("cpu"))
    with torch.no_grad():
        for graph in graphs:
            torch.testing.assert_close(graph.network(images), whole(images))


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
