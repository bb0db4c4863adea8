"""A traced graph is compared with its network: what torch traces wrongly is refused, and nothing else."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from models.graph import NetworkRefused, trace
from models.graph.agreement import check_answers
from models.graph.tracing import trace_plain

SHAPE = (3, 8, 8)
NOTHING = nn.Identity()


class Small(nn.Module):
    """Begins and ends as it is told to."""

    def __init__(self, end: Callable[[Tensor], Tensor] = NOTHING, begin: Callable[[Tensor], Tensor] = NOTHING) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc, self.end, self.begin = nn.Conv2d(3, 16, 3), nn.Linear(16, 4), end, begin

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.fc(self.conv(self.begin(x)).relu().mean((2, 3))))


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.count.add_(1)
        return x


def writes_into_its_images(x: Tensor) -> Tensor:
    return x.sub_(0.5)


def takes_pixels_alone(x: Tensor) -> Tensor:
    torch._assert_async((x >= 0).all())
    return x


ENDS = {
    "logits": NOTHING,
    "probabilities": nn.Softmax(1),
    "their logarithms": nn.LogSoftmax(1),
    "in float32": lambda x: x.softmax(1, dtype=torch.float32),
    "twice": lambda x: x.softmax(1).log_softmax(1),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_right_graphs(end: str, dtype: torch.dtype) -> None:
    network = Small(ENDS[end]).to(dtype).train()
    trace(network, 8)
    assert network.training and network.conv.training


@pytest.mark.parametrize("begin", [NOTHING, writes_into_its_images])
@pytest.mark.parametrize("end", [end for end in ENDS if end != "twice"])  # which leaves next to nothing of logits
def test_a_wrong_graph_is_refused(end: str, begin: Callable) -> None:
    """One that forgot a write in place, say."""
    network = Small(ENDS[end], begin)
    plain = trace_plain(network, 8, 3)
    right = trace(network, 8).forward
    check_answers(network, right, plain.ends, SHAPE)
    for wrong in (lambda images: right(images.clamp(min=-0.5)), lambda images: torch.zeros(len(images), 4)):
        with pytest.raises(NetworkRefused, match=r"^torch \S+ traces the network wrongly, .*another version of torch$"):
            check_answers(network, wrong, plain.ends, SHAPE)


def test_trace_compares(monkeypatch: pytest.MonkeyPatch) -> None:
    of_another, network = trace_plain(Small(), 8, 3), Small()
    nn.init.ones_(network.fc.weight)
    trace(network, 8)
    monkeypatch.setattr("models.graph.graph.trace_plain", lambda *_: of_another)
    with pytest.raises(NetworkRefused, match="traces the network wrongly"):
        trace(network, 8)


def test_answers_that_are_no_logits() -> None:
    with pytest.raises(NetworkRefused, match=r"the network gives numbers of torch\.int64"):
        trace(Small(lambda x: x.argmax(1, keepdim=True)), 8)


def test_what_cannot_be_compared() -> None:
    """A network that answers otherwise each time, NaN, one without values, and one that takes no random images."""
    broken = Small()
    nn.init.constant_(broken.fc.weight, float("nan"))
    for network, forward in (
        (Small(lambda x: x + torch.randn_like(x)), Small()),
        (broken, broken),
        (Small().to("meta"), Small()),
        (Small(begin=takes_pixels_alone), Small(lambda x: x + 1)),
    ):
        check_answers(network, forward, (), SHAPE)


def test_a_network_is_left_as_it_was() -> None:
    network = Small(Counting())
    before = copy.deepcopy(network.state_dict())
    check_answers(network, copy.deepcopy(network), (), SHAPE)
    assert all(map(torch.equal, network.state_dict().values(), before.values()))
