"""Modular training: its loss against plain loops, the ReLUs that it finds, and what it does to a training."""

from dataclasses import replace
from pathlib import Path

import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import assert_near, random_images
from hypothesis import given
from torch import Tensor, nn

from models.modular import ReluOutputs, activity, check_can_be_modular, modular_loss
from models.names import network_of
from models.training import TrainingSettings, train
from utils.artifacts import CheckpointFile
from utils.errors import UserError

SETTINGS = TrainingSettings(epochs=1, batch_size=8, learning_rate=0.02, momentum=0.9)
IMAGES = random_images(24, 3)
NETWORKS = {"moda": "simcnn_tiny", "mwt": "mwt:simcnn_tiny"}


def test_the_loss_by_hand() -> None:
    """Two images of class 0 with a cosine of 0.6, one of class 1 with 0 and 0.8; the second layer tells all apart."""
    first = torch.tensor([[2.0, 0.0], [0.6, 0.8], [0.0, 3.0]])
    second = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    labels = torch.tensor([0, 0, 1])
    assert_near(modular_loss([first], labels, 1, 0, 0), torch.tensor(1 - 0.6))
    assert_near(modular_loss([first], labels, 0, 1, 0), torch.tensor((0.0 + 0.8) / 2))
    assert_near(modular_loss([first], labels, 0, 0, 1), torch.tensor((2 + 0.6 + 0.8 + 3) / 6))
    assert_near(
        modular_loss([first, second], labels, 1, 1, 0.3), torch.tensor((0.4 + 0.4 + 0.3 * 6.4 / 6 + 0.3 / 2) / 2)
    )
    assert_near(modular_loss([first[:1]], labels[:1], 1, 1, 1), torch.tensor(1.0))  # no pair of either kind


@pytest.mark.parametrize(
    ("modular", "wrong"),
    [("moda", "expected a network with ReLUs"), ("mwt", "expected a network with mask generators")],
)
def test_a_network_without_what_the_loss_is_of_is_refused(modular: str, wrong: str) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3072, 3))
    with pytest.raises(UserError, match=f"modular={modular}: {wrong}"):
        check_can_be_modular(network, modular, (3, 32, 32))
    check_can_be_modular(network, "none", (3, 32, 32))
    check_can_be_modular(network_of(NETWORKS[modular], 3), modular, (3, 32, 32))


def loss_in_loops(means: list[np.ndarray], labels: np.ndarray, weights: tuple[float, float, float]) -> float:
    parts = []
    for values in means:
        norms = np.linalg.norm(values, axis=1).clip(1e-12)
        cosines: dict[bool, list[float]] = {True: [], False: []}
        for i in range(len(labels)):
            for j in range(i):
                cosines[labels[i] == labels[j]].append(float(values[i] @ values[j] / norms[i] / norms[j]))
        alike = 1 - np.mean(cosines[True]) if cosines[True] else 0
        parts.append(weights[0] * alike + weights[1] * np.mean(cosines[False] or [0]) + weights[2] * values.mean())
    return float(np.mean(parts))


@given(
    values=arrays.arrays(np.float64, (2, 5, 3), elements=st.sampled_from([0.0, 0.25, 1.0, 8.0])),
    labels=arrays.arrays(np.int64, 5, elements=st.integers(0, 2)),
    order=st.permutations(range(5)),
)
def test_the_loss_is_that_of_plain_loops_in_any_order(values: np.ndarray, labels: np.ndarray, order: list[int]) -> None:
    means, weights = [torch.tensor(each) for each in values], (1.0, 0.5, 0.3)
    found = modular_loss(means, torch.tensor(labels), *weights)
    assert_near(found, torch.tensor(loss_in_loops(list(values), labels, weights), dtype=torch.float64))
    assert_near(modular_loss([each[order] for each in means], torch.tensor(labels[order]), *weights), found)


class Ways(nn.Module):
    """ReLUs as modules, functions and methods, in place too; other activations."""

    def forward(self, x: Tensor) -> Tensor:
        maps = nn.ReLU6()(F.relu(x.clone(), inplace=True) + torch.relu(x))
        maps = nn.ReLU(inplace=True)(maps - 0.5)
        return F.hardtanh(F.gelu(maps), -1, 9).sum((2, 3)).sub(1).relu()


def test_relus_of_all_ways_to_call_them_are_found_once() -> None:
    images = torch.randn(4, 3, 5, 5, requires_grad=True)
    with ReluOutputs() as found:
        last = Ways()(images)
    assert [tuple(each.shape) for each in found.means] == [(4, 3)] * 5
    assert torch.equal(found.means[0], images.relu().mean((2, 3))) and torch.equal(found.means[-1], last)
    torch.stack(found.means).sum().backward()
    assert images.grad.abs().sum() > 0
    Ways()(images)
    assert len(found.means) == 5


@pytest.mark.parametrize(("name", "count"), [("simcnn_tiny", 3), ("rescnn_tiny", 3), ("resnet20_x0_25", 19)])
def test_relus_of_networks_are_found(name: str, count: int) -> None:
    with ReluOutputs() as found:
        network_of(name, 3)(torch.zeros(2, 3, 32, 32))
    assert len(found.means) == count


def trained(settings: TrainingSettings, name: str = "simcnn_tiny", **more: object) -> nn.Module:
    torch.manual_seed(0)
    network = network_of(name, 3)
    train(network, IMAGES, IMAGES, settings, device=torch.device("cpu"), dtype=torch.float32, seed=0, **more)
    return network


@pytest.mark.parametrize(("modular", "weights"), [("moda", (1, 1, 0.3)), ("mwt", (0.5, 1.5, 0))])
def test_a_modular_training_separates_classes(modular: str, weights: tuple[float, float, float]) -> None:
    """The same steps with and without the term: with it, it is smaller at the end."""
    losses = []
    for trained_as in ("none", modular):
        network = trained(replace(SETTINGS, epochs=30, modular=trained_as), NETWORKS[modular]).train()
        with activity(network, modular) as found:
            network(torch.tensor(IMAGES.pixels).permute(0, 3, 1, 2) / 255)
        losses.append(float(modular_loss(found, torch.tensor(IMAGES.labels), *weights).detach()))
    assert losses[1] < 0.95 * losses[0]


def test_the_activity_is_collected_while_the_block_runs() -> None:
    network = network_of("mwt:simcnn_tiny", 3)
    with activity(network, "mwt") as masks:
        network(torch.zeros(2, 3, 32, 32))
    network(torch.zeros(2, 3, 32, 32))
    assert [tuple(mask.shape) for mask in masks] == [(2, 16)]
    with activity(network, "none") as nothing:
        network(torch.zeros(2, 3, 32, 32))
    assert not nothing


def test_a_state_says_how_modular_it_is_trained(tmp_path: Path) -> None:
    """Those of ordinary trainings stay as earlier versions wrote them."""
    file = CheckpointFile(tmp_path / "state.pth", "python train.py")
    trained(SETTINGS, state_file=file)
    assert not {name for name in file.load()["description"] if name.startswith("mod")}
    modular = replace(SETTINGS, modular="moda", moda_affinity=0.5)
    with pytest.raises(UserError, match=r"modular: none there, moda now; moda_affinity: none there, 0\.5 now"):
        trained(modular, state_file=file)
    with pytest.raises(UserError, match="--compile: not with modular=moda"):
        trained(modular, compiled=True)
