"""A traced graph is compared with its network: what torch traces wrongly is refused, and nothing else."""

import re
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
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
    """NaN, a network without values, and one that takes no random images."""
    broken = Small()
    nn.init.constant_(broken.fc.weight, float("nan"))
    for network, forward in (
        (broken, broken),
        (Small().to("meta"), Small()),
        (Small(begin=takes_pixels_alone), Small(lambda x: x + 1)),
    ):
        check_answers(network, forward, (), SHAPE)


RANDOM = {
    "dropout": lambda x: F.dropout(x, 0.5),
    "in place": lambda x: F.dropout(x * 1, 0.5, inplace=True),
    "of channels": lambda x: F.dropout2d(x, 0.5),
    "alpha": lambda x: F.alpha_dropout(x, 0.5, training=True),
    "slopes": lambda x: F.rrelu(x, training=True),
    "noise": lambda x: x + torch.randn_like(x),
    "little noise": lambda x: x + 1e-6 * torch.rand(x.shape[1:]),
    "mask": lambda x: x * torch.empty(x.shape[1:]).bernoulli_(0.5),
}


@pytest.mark.parametrize("begin", RANDOM)
def test_random_numbers_are_refused_with_the_line(begin: str) -> None:
    network = Small(begin=RANDOM[begin])
    state = torch.get_rng_state()
    with pytest.raises(NetworkRefused, match="draws random numbers in evaluation mode") as error:
        trace(network, 8)
    assert re.search(rf"\({__file__}:\d+: return self\.end\(.*self\.begin\(x\).*\)$", str(error.value))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "begin",
    [
        nn.Dropout(),
        nn.AlphaDropout(),
        nn.RReLU(),
        lambda x: F.dropout(x, 0.0),
        lambda x: F.dropout(x, training=False),
        lambda x: (F.dropout(x, 0.5), x)[1],
        nn.InstanceNorm2d(3),
        nn.GroupNorm(1, 3),
    ],
)
def test_what_evaluation_turns_off_is_taken(begin: Callable) -> None:
    trace(Small(begin=begin), 8)


@pytest.mark.parametrize(
    "begin", [nn.BatchNorm2d(3, track_running_stats=False), lambda x: F.batch_norm(x, None, None, training=True)]
)
def test_answers_that_depend_on_the_other_images_are_refused(begin: Callable) -> None:
    with pytest.raises(NetworkRefused, match="answer to an image depends on the images next to it"):
        trace(Small(begin=begin), 8)


def test_what_torch_cannot_see_is_seen_by_running_twice() -> None:
    numbers = iter(range(100))
    with pytest.raises(NetworkRefused, match="draws random numbers in evaluation mode"):
        trace(Small(lambda x: x + next(numbers)), 8)


class Region(nn.Module):
    """A part of the network stands in a region that torch exports as a graph of its own."""

    def __init__(self, *regions: Callable[[], Any]) -> None:
        super().__init__()
        self.first, self.second, self.fc = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Linear(16, 4)
        self.regions = regions

    def forward(self, x: Tensor) -> Tensor:
        with ExitStack() as stack:
            for region in self.regions:
                stack.enter_context(region())
            x = self.first(x).relu_()
            doubled = x * 2
            x += 1
        return self.fc(self.second(x + doubled).mean((2, 3)))


@pytest.mark.parametrize(
    "regions",
    [
        (torch.no_grad,),
        (torch.enable_grad,),
        (partial(torch.autocast, "cpu", enabled=False),),
        (torch.no_grad, partial(torch.autocast, "cpu", enabled=False)),
    ],
)
def test_regions_of_autocast_and_no_grad(regions: tuple[Callable[[], Any], ...]) -> None:
    torch.manual_seed(0)
    network, images = Region(*regions).eval(), torch.randn(3, 3, 8, 8)
    graph = trace(network, 8)
    assert graph.num_units == 32
    with torch.no_grad():
        torch.testing.assert_close(graph.forward(images), network(images))


class Ending(nn.Module):
    """A network that ends in its own way."""

    def __init__(self, end: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc, self.end = nn.Conv2d(3, 32, 3), nn.Linear(32, 4), end

    def forward(self, *images: torch.Tensor) -> torch.Tensor:
        return self.end(self.fc(self.conv(images[0]).relu().mean((2, 3))), images[0])


def in_bfloat16(logits: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return logits @ torch.eye(4)


@pytest.mark.parametrize(
    "end",
    [
        lambda logits, images: logits.view(len(images), -1),
        lambda logits, images: torch.cat([logits, torch.zeros(len(images), 1)], 1)[:, :4],
        in_bfloat16,
    ],
)
def test_len_of_images_any_number_of_arguments_and_autocast_at_the_end(end: Callable[..., torch.Tensor]) -> None:
    network = Ending(end).eval()
    graph = trace(network, 8, num_classes=4)
    for count in (1, 5):
        images = torch.randn(count, 3, 8, 8)
        with torch.no_grad():
            torch.testing.assert_close(graph.network(images), network(images).float(), rtol=0.02, atol=0.02)


def test_another_form_of_one_image_alone_is_refused() -> None:
    """Code such as x.squeeze() drops the axis of a single image, and a batch may have one."""
    with pytest.raises(NetworkRefused, match="answer to one image alone has another form"):
        trace(Ending(lambda logits, images: logits[:, :, None].squeeze()).eval(), 8, num_classes=4)
