"""What a CUDA device computes is what the CPU computes, and the same bits every time. Skipped where there is none.

The scripts need no tests of their own: on such a machine all tests of scripts run on the device.
"""

from typing import Any

import numpy as np
import pytest
import torch
from conftest import random_images as some_images
from exactness import random_images, random_mask
from random_modules import with_random_biases
from torch import Tensor

from models.evaluation import predict
from models.graph import Graph, trace
from models.names import network_of
from models.training import TrainingSettings, train
from modules.kernel_importance import kernel_importance
from modules.population_outputs import population_outputs
from search.genetic.pair_counting import count_greater
from search.gradient.goal import Goal
from search.gradient.trainer import ModuleTraining, ModuleTrainingSettings, Trainer
from utils.device import core_threads, make_deterministic

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
NETWORKS = ("simcnn_x0_25", "rescnn_x0_25", "resnet20")
# TF32, in which CUDA convolves float32, has ten bits of precision.
CLOSE = {"rtol": 2e-2, "atol": 2e-2}


@pytest.fixture(autouse=True)
def deterministic() -> Any:
    make_deterministic(0)
    yield
    torch.use_deterministic_algorithms(False)


def graph_of(name: str) -> Graph:
    torch.manual_seed(1)
    return trace(with_random_biases(network_of(name, 10), seed=1), 32)


def masks_of(graph: Graph, count: int) -> np.ndarray:
    return np.stack([random_mask(graph, seed, 0.6) for seed in range(count)])


def test_a_network_that_is_evaluated_on_the_device_comes_back() -> None:
    network, images = network_of("resnet20_x0_25", 3), some_images(20, 3)
    expected = predict(network, images, CPU)
    before = {name: (value.data_ptr(), value.device) for name, value in network.state_dict().items()}
    found = predict(network, images, CUDA)
    assert before == {name: (value.data_ptr(), value.device) for name, value in network.state_dict().items()}
    torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize("name", NETWORKS)
def test_populations(name: str) -> None:
    graph, images = graph_of(name), random_images(32, 50).float()
    masks, classes = masks_of(graph, 6), [0, 1, 2, 3, 4, 0]
    on_cpu = population_outputs(graph.to(dtype=torch.float32), masks, classes, images)
    on_cuda = [
        population_outputs(graph.to(CUDA, torch.float32), masks, classes, images.to(CUDA), batch_size)
        for batch_size in (None, None, 20)
    ]
    np.testing.assert_allclose(on_cuda[0], on_cpu, rtol=0, atol=2e-2 * np.abs(on_cpu).max())
    assert np.array_equal(on_cuda[0], on_cuda[1])
    np.testing.assert_allclose(on_cuda[0], on_cuda[2], rtol=0, atol=2e-2 * np.abs(on_cpu).max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NETWORKS)
def test_modules_are_trained_there(name: str, dtype: torch.dtype) -> None:
    """Also from the state in the middle of a round; the first losses are those of the CPU."""
    graph, images = graph_of(name).to(dtype=torch.float32), some_images(60, 10)
    settings = ModuleTrainingSettings(steps=6, batch_size=32, step_size=1e-3, mirror=True)

    def trained(device: torch.device, in_pieces: bool = False) -> tuple[list[float], np.ndarray, list[Tensor]]:
        with core_threads(device) as workers:
            training = ModuleTraining.on(device, images, Goal(0.5, 0.1), settings, dtype, seed=0)
            trainers = [Trainer(graph.to(device), [(3,), (7,)], training, workers) for _ in range(1 + in_pieces)]
            losses = []
            for step in range(settings.steps):
                if step == 4 and in_pieces:
                    for before, after in zip(trainers[0].modules, trainers[1].modules, strict=True):
                        after.load_state(before.state())
                losses.append(trainers[-1 if step >= 4 else 0].step(1.0, 0.5))
            trainers[-1].finish_round()
            weights = [value for of_module in trainers[-1].weights() for value in of_module.values()]
            return losses, trainers[-1].masks(), weights

    on_cpu, on_cuda, again = trained(CPU), trained(CUDA), trained(CUDA, in_pieces=True)
    assert on_cuda[0] == again[0] and np.array_equal(on_cuda[1], again[1])
    assert all(map(torch.equal, on_cuda[2], again[2]))
    assert on_cuda[1].mean() <= 0.5 and all(value.isfinite().all() for value in on_cuda[2])
    np.testing.assert_allclose(on_cuda[0][0], on_cpu[0][0], rtol=0.1)


def test_training_gives_the_same_bits_again() -> None:
    settings = TrainingSettings(2, 16, 0.02, momentum=0.9, weight_decay=1e-3, augmented=True, mirror=True)

    def trained(dtype: torch.dtype) -> list[Tensor]:
        torch.manual_seed(0)
        network = network_of("simcnn_x0_25", 3).to(CUDA, memory_format=torch.channels_last)
        train(network, some_images(50, 3), some_images(11, 3, seed=2), settings, device=CUDA, dtype=dtype, seed=0)
        return list(network.state_dict().values())

    for dtype in (torch.float32, torch.bfloat16):
        assert all(map(torch.equal, trained(dtype), trained(dtype)))


def test_importance() -> None:
    graph = graph_of("simcnn_x0_25").to(dtype=torch.float32)
    images = some_images(80, 10)
    pixels, labels = torch.tensor(images.pixels), torch.tensor(images.labels)
    of_devices = [
        kernel_importance(graph.to(d), pixels.to(d), labels.to(d), 0.0, images.normalisation)[0] for d in (CPU, CUDA)
    ]
    np.testing.assert_allclose(of_devices[1], of_devices[0], **CLOSE)


@pytest.mark.parametrize("kind", [np.uint8, np.int32])
def test_counting_pairs(kind: type) -> None:
    random = np.random.default_rng(0)
    values, others = (random.integers(0, 9, (rows, 3000)).astype(kind) for rows in (40, 30))
    expected = (values[:, None] > others[None]).sum(-1)
    with core_threads(CPU) as workers:
        assert np.array_equal(count_greater(values, others, workers=workers, device=CUDA), expected)
