"""A traced graph is compared with its network: what torch traces wrongly is refused."""

import pytest
import torch
from torch import Tensor, nn

from models.graph import NetworkRefused, trace
from models.graph.agreement import check_answers

SHAPE = (3, 8, 8)


class Small(nn.Module):
    """Ends as it is told to."""

    def __init__(self, end: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc, self.end = nn.Conv2d(3, 16, 3), nn.Linear(16, 4), end

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.fc(self.conv(x).relu().mean((2, 3))))


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


@pytest.mark.parametrize("end", [nn.Identity(), nn.Softmax(1), nn.LogSoftmax(1)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_right_graphs(end: nn.Module, dtype: torch.dtype) -> None:
    network = Small(end).to(dtype).train()
    trace(network, 8)
    assert network.training and network.conv.training


@pytest.mark.parametrize("end", [nn.Identity(), nn.Softmax(1)])
def test_a_wrong_graph_is_refused(end: nn.Module) -> None:
    """One that forgot a write in place, say."""
    network = Small(end)
    right = trace(network, 8).forward
    check_answers(network, right, SHAPE)
    with pytest.raises(NetworkRefused, match=r"^torch \S+ traces the network wrongly, .*try another version of torch$"):
        check_answers(network, lambda images: right(images.clamp(min=-0.5)), SHAPE)


def test_what_cannot_be_compared() -> None:
    """A network that answers otherwise each time, and one whose answers are NaN."""
    check_answers(Small(Noisy()), Small(nn.Identity()), SHAPE)
    broken = Small(nn.Identity())
    nn.init.constant_(broken.fc.weight, float("nan"))
    check_answers(broken, broken, SHAPE)
