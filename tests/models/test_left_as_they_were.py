"""No function changes a network that it is given: parameters, buffers, hooks, training flags, devices, precisions."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm

from dataset.images import IMAGENET, Images
from models.evaluation import count_parameters, cpu_state, outputs_of, predict
from models.graph import count_flops, fold_batch_norm, trace, unit_norms
from models.graph.agreement import check_answers, check_repeats
from models.graph.evaluating import evaluating
from models.graph.flops import flops_of
from models.strong_model import trace_classifier
from modules.kernel_importance import kernel_importance
from patching.own_weak_model import OneAnswer, logits_of_network

CPU = torch.device("cpu")
SIDE, CLASSES = 8, 3
RANDOM = np.random.default_rng(0)
IMAGES = Images(RANDOM.integers(0, 256, (7, SIDE, SIDE, 3), np.uint8), np.arange(7) % CLASSES, IMAGENET)


def layers(first: nn.Module, *middle: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    end = nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(8, CLASSES)
    return nn.Sequential(first, *middle, *end)


class Caches(nn.Module):
    """Its forward leaves things in the network: a counter, a new buffer, an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("runs", torch.zeros(()))
        self.register_buffer("last", torch.zeros(()))
        self.grid: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            return x
        self.runs += 1
        self.last = x.mean()
        if self.grid is None:
            self.grid = torch.ones(1)
        return x * self.grid


class Merges(nn.Sequential):
    """Merges weights when it enters evaluation mode, and takes them apart when it leaves it."""

    def train(self, mode: bool = True) -> "Merges":
        if self.training and not mode:
            self[0].weight.data.mul_(2)
        if mode and not self.training:
            self[0].weight.data.div_(2)
        return super().train(mode)


def conv() -> nn.Conv2d:
    return nn.Conv2d(3, 8, 3)


def frozen() -> nn.Module:
    network = layers(conv(), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)).train()
    network[1].eval()
    return network


def in_evaluation_but_for_dropout() -> nn.Module:
    network = layers(conv(), nn.BatchNorm2d(8)).eval()
    network[5].train()
    return network


def with_gradients() -> nn.Module:
    network = layers(conv(), nn.BatchNorm2d(8))
    F.cross_entropy(network(torch.randn(4, 3, SIDE, SIDE)), torch.arange(4) % CLASSES).backward()
    network[0].requires_grad_(False)
    return network


def hooked() -> nn.Module:
    network = layers(conv(), nn.BatchNorm2d(8))
    network[0].register_forward_hook(lambda module, inputs, output: output + 0)
    network.register_forward_pre_hook(lambda module, inputs: None)
    return network


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "batch norm": lambda: layers(conv(), nn.BatchNorm2d(8)),
    "evaluated": lambda: layers(conv(), nn.BatchNorm2d(8)).eval(),
    "frozen": frozen,
    "dropout on": in_evaluation_but_for_dropout,
    "spectral norm by hooks": lambda: layers(spectral_norm(conv())),
    "spectral norm": lambda: layers(parametrizations.spectral_norm(conv())),
    "weight norm": lambda: layers(parametrizations.weight_norm(conv())),
    "gradients": with_gradients,
    "hooks": hooked,
    "caches": lambda: layers(conv(), Caches()),
    "merges": lambda: Merges(*layers(conv())),
    "channels last": lambda: layers(conv()).to(memory_format=torch.channels_last),
    "doubles": lambda: layers(conv(), nn.BatchNorm2d(8)).double(),
}


def observe(network: nn.Module) -> None:
    """Importance, masks, cutting: what is done with the graph of a network, which shares its memory."""
    graph = trace(network, SIDE)
    like = next(iter(graph.constants.values()))
    images = torch.randn(4, 3, SIDE, SIDE).to(like)
    unit_norms(graph, images)
    mask = np.arange(graph.num_units) % 2 == 0
    cut = graph.cut(mask, 0)
    for each in (cut, graph.network, fold_batch_norm(graph).network):
        each.train()
        each(images).sum().backward()
        torch.optim.SGD(each.parameters(), 0.1).zero_grad()
    assert graph.flops
    if like.dtype == torch.float32:
        kernel_importance(graph, torch.tensor(IMAGES.pixels), torch.tensor(IMAGES.labels), 0.5, IMAGENET)


def check_graph(network: nn.Module) -> None:
    graph = trace(network, SIDE)
    check_answers(network, graph.forward, (), graph.image_shape)


def run_and_fail(network: nn.Module) -> None:
    with pytest.raises(ZeroDivisionError), evaluating(network, CPU):
        network(torch.zeros(2, 3, SIDE, SIDE).to(next(network.parameters())))
        raise ZeroDivisionError


FUNCTIONS: dict[str, Callable[[nn.Module], Any]] = {
    "predict": lambda network: predict(OneAnswer(network, CLASSES), IMAGES, CPU),
    "outputs": lambda network: outputs_of([network, network], IMAGES, CPU),
    "weak logits": lambda network: logits_of_network(network, IMAGES, CLASSES, CPU),
    "flops": lambda network: flops_of(network, (3, SIDE, SIDE)),
    "trace": lambda network: trace_classifier(network, "network", CLASSES, SIDE),
    "agreement": check_graph,
    "repeats": lambda network: check_repeats(network, torch.randn(4, 3, SIDE, SIDE).to(next(network.parameters()))),
    "observation": observe,
    "size": lambda network: (count_parameters(network), cpu_state(network)),
    "a failure": run_and_fail,
}


def picture(network: nn.Module) -> dict[str, Any]:
    """All that a function could change."""
    tensors = dict((*network.named_parameters(), *network.named_buffers()))
    return {
        "values": {name: value.detach().clone() for name, value in tensors.items()},
        "gradients": {name: None if value.grad is None else value.grad.clone() for name, value in tensors.items()},
        "objects": {name: id(value) for name, value in tensors.items()},
        "memory": {name: value.data_ptr() for name, value in tensors.items()},
        "forms": {
            name: (value.dtype, value.device, value.stride(), value.requires_grad, value.is_inference())
            for name, value in tensors.items()
        },
        "flags": {name: module.training for name, module in network.named_modules()},
        "hooks": {
            name: {key: dict(value) for key, value in vars(module).items() if "hook" in key and isinstance(value, dict)}
            for name, module in network.named_modules()
        },
        "attributes": {
            name: {key: id(value) for key, value in vars(module).items()} for name, module in network.named_modules()
        },
    }


def assert_same(before: Any, after: Any, place: str = "") -> None:
    if isinstance(before, dict):
        assert before.keys() == after.keys(), place
        for name, value in before.items():
            assert_same(value, after[name], f"{place}.{name}")
    elif isinstance(before, Tensor):
        assert torch.equal(before, after), place
    else:
        assert before == after, place


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("network", NETWORKS)
def test_no_function_changes_a_network(network: str, function: str) -> None:
    given = NETWORKS[network]()
    if network == "doubles" and function in ("predict", "outputs", "weak logits"):
        pytest.skip("images are float32 there")
    before = picture(given)
    FUNCTIONS[function](given)
    assert_same(before, picture(given))


def test_answers_are_those_of_evaluation_mode() -> None:
    network = layers(conv(), nn.BatchNorm2d(8)).train()
    expected = copy.deepcopy(network).eval()
    found = predict(network, IMAGES, CPU)
    assert torch.equal(found, predict(expected, IMAGES, CPU))
    assert flops_of(network, (3, SIDE, SIDE)) == count_flops(expected, torch.zeros(1, 3, SIDE, SIDE))


def test_a_network_is_moved_and_comes_back() -> None:
    """Not to another real device: `meta` is one, too."""
    network = with_gradients()
    before = picture(network)
    with evaluating(network, "meta"):
        assert {value.device.type for value in network.state_dict().values()} == {"meta"}
    assert_same(before, picture(network))
