"""Masked modules answer what cut ones answer, and their gradient is that of the masks, in any network."""

from concurrent.futures import ThreadPoolExecutor
from functools import cache

import hypothesis.strategies as st
import naive
import pytest
import torch
import torch.nn.functional as F
from awkward_networks import TRACEABLE, SelfAttention
from exactness import random_images, random_mask, random_network, traced
from hypothesis import given, settings
from modules.masked_modules import freeze, gradient_in_one_run, mask_gradient
from random_modules import random_network as small_network
from random_modules import with_random_biases
from random_networks import RandomNetwork
from torch import Tensor, nn

from models.graph import Graph, trace
from models.graph.graph import graph_of
from models.graph.tracing import trace_plain
from models.names import network_of
from models.rescnn import Conv

# Said by torch of a convolution that the tests have for what it says.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")

# Wide enough that convolutions leave maps out, those of an addition too.
SMALL = (Conv(4, pool=True), Conv(12, pool=True), Conv(20), Conv(12, add=1), Conv(3))
BUILT_IN = ("simcnn", "rescnn", "small")
SIDE = 16


class Residual(nn.Module):
    """Batch norms, strides, a shortcut by a convolution, and overlapping pools."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0, self.bn0 = nn.Conv2d(3, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24)
        self.conv1, self.bn1 = nn.Conv2d(24, 20, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(20)
        self.conv2, self.bn2 = nn.Conv2d(20, 20, 3, padding=1, bias=False), nn.BatchNorm2d(20)
        self.shortcut, self.bn3 = nn.Conv2d(24, 20, 1, stride=2, bias=False), nn.BatchNorm2d(20)
        self.last, self.fc = nn.Conv2d(20, 18, 3, padding=2, dilation=2), nn.Linear(18, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn0(self.conv0(x))), 3, stride=2, padding=1)
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        x = F.relu(y + self.bn3(self.shortcut(x)))
        return self.fc(F.max_pool2d(F.relu(self.last(x)), 3, stride=2, ceil_mode=True).mean((2, 3)))


class Dense(nn.Module):
    """Concatenations whose batch norms stand behind them, depthwise convolutions, and other paddings."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0, self.bn1 = nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12)
        self.conv1, self.bn2 = nn.Conv2d(12, 10, 3, padding="same"), nn.BatchNorm2d(22)
        self.depthwise, self.conv2 = nn.Conv2d(22, 22, 3, padding=1, groups=22), nn.Conv2d(22, 17, 2, padding="same")
        self.conv3, self.fc = nn.Conv2d(17, 16, (3, 5), padding=(0, 2)), nn.Linear(16, 10, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.bn1(self.conv0(x)))
        x = F.relu6(self.bn2(torch.cat([self.conv1(x), x], 1)))
        return self.fc(F.relu(self.conv3(F.relu(self.conv2(F.elu(self.depthwise(x)))))).mean((2, 3)))


class Turned(nn.Module):
    """A convolution that takes the maps' height for its channels: it reads all kernels whole."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0, self.conv1 = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 12, 3, padding=1)
        self.conv2, self.fc = nn.Conv2d(SIDE, 18, 3, padding=1), nn.Linear(18, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(F.relu(self.conv0(x)))).transpose(1, 2)
        return self.fc(F.relu(self.conv2(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def workers() -> ThreadPoolExecutor:
    with ThreadPoolExecutor(2, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield pool


@cache
def built_in(name: str) -> Graph:
    if name == "small":
        return trace(small_network(SMALL, 3, seed=1, hidden=(5,)), 32)
    torch.manual_seed(1)
    return trace(with_random_biases(network_of(f"{name}_x0_0625", 3), seed=1), 32)


def loss(logits: Tensor) -> Tensor:
    return F.cross_entropy(logits / logits.detach().abs().max(), torch.arange(len(logits)) % logits.shape[1])


def binary_masks(graph: Graph, share: float, seed: int = 0) -> Tensor:
    masks = [torch.as_tensor(random_mask(graph, seed + c, share)) for c in range(graph.num_classes)]
    return torch.stack(masks).double()


def check_gradient(graph: Graph, images: Tensor, masks: Tensor, workers: ThreadPoolExecutor) -> None:
    """It is what torch finds for the masked graph, of dropped units too, in a run each and in one run."""
    model, (expected_loss, expected) = freeze(graph, torch.float64), naive.mask_gradient(graph, images, masks, loss)
    results = [mask_gradient(model, images, masks, loss, workers)]
    if model.runs_together:
        results.append(gradient_in_one_run(model, images, masks, loss, range(len(masks))))
    for found_loss, found in results:
        torch.testing.assert_close(found_loss, expected_loss)
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-10 * float(expected.abs().max()))
    assert masks.all() or expected[masks == 0].any()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 1.0])
@pytest.mark.parametrize("name", BUILT_IN)
def test_the_gradient_of_built_in_networks(workers: ThreadPoolExecutor, name: str, share: float) -> None:
    graph = built_in(name)
    check_gradient(graph, random_images(32), binary_masks(graph, share), workers)


def test_the_gradient_of_one_module_alone(workers: ThreadPoolExecutor) -> None:
    graph, given = built_in("small"), random_images(32, 5)
    masks, target_class = binary_masks(graph, 0.6), 1

    def of_all(logits: Tensor) -> Tensor:
        return loss(logits[:, [target_class]] / 3 + logits.new_ones(len(logits), 2))

    _, expected = naive.mask_gradient(graph, given, masks, of_all)
    model, own = freeze(graph, torch.float64), masks[[target_class]]
    _, found = mask_gradient(
        model, given, own, lambda logits: loss(logits / 3 + logits.new_ones(len(logits), 2)), workers, [target_class]
    )
    assert found.shape == own.shape
    torch.testing.assert_close(found[0], expected[target_class], rtol=1e-7, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.3, pytest.param(0.7, marks=pytest.mark.long)])
@pytest.mark.parametrize("network", [Residual, Dense, Turned, *TRACEABLE])
def test_the_gradient_of_other_networks(workers: ThreadPoolExecutor, network: type[nn.Module], share: float) -> None:
    graph = traced(network, SIDE)[1]
    masks = binary_masks(graph, share)
    check_gradient(graph, random_images(SIDE), masks, workers)
    check_gradient(graph, random_images(SIDE), masks * (torch.rand_like(masks) + 0.5), workers)


@pytest.mark.long
@settings(max_examples=8)
@given(seed=st.integers(0, 2**32 - 1), share=st.sampled_from([0.3, 0.6]))
def test_the_gradient_of_random_networks(workers: ThreadPoolExecutor, seed: int, share: float) -> None:
    torch.manual_seed(seed % 2**31)
    graph = trace(random_network(RandomNetwork(seed), SIDE), SIDE)
    if graph.num_units:
        check_gradient(graph, random_images(SIDE), binary_masks(graph, share), workers)


class Mixing(nn.Module):
    """Its images' maps depend on each other."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0, self.conv1, self.fc = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 12, 3), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv0(x))
        return self.fc(F.relu(self.conv1(x - x.mean(0))).mean((2, 3)))


@pytest.mark.parametrize("network", [Residual, Dense, Turned, *TRACEABLE])
def test_whether_modules_can_be_one_run(network: type[nn.Module]) -> None:
    """Not where torch's attention takes images second."""
    assert freeze(traced(network, SIDE)[1], torch.float64).runs_together == (network is not SelfAttention)


def test_modules_of_a_network_whose_images_depend_on_each_other_are_no_one_run() -> None:
    graph = graph_of(trace_plain(Mixing().double(), SIDE, 3))  # `trace` refuses such a network
    assert not freeze(graph, torch.float64).runs_together


@pytest.mark.parametrize("network", [Residual, Dense])
def test_the_number_of_workers_changes_nothing(workers: ThreadPoolExecutor, network: type[nn.Module]) -> None:
    graph = traced(network, SIDE)[1]
    model, masks, images = freeze(graph, torch.bfloat16), binary_masks(graph, 0.6).float(), random_images(SIDE, 8)
    with ThreadPoolExecutor(1) as alone:
        results = [mask_gradient(model, images.bfloat16(), masks, loss, pool) for pool in (workers, alone)]
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert results[0][1].dtype == torch.float32
    _, exact = naive.mask_gradient(graph, images, masks.double(), loss)
    assert F.cosine_similarity(results[0][1].double().flatten(), exact.flatten(), dim=0) > 0.9


def test_a_network_without_units_is_refused() -> None:
    whole = nn.Sequential(nn.Conv2d(3, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())  # its kernels are the logits
    with pytest.raises(ValueError, match="expected a network with kernels that can be dropped"):
        freeze(trace(whole, SIDE), torch.float32)
