"""What cannot be used is refused in one line that says what and where."""

from pathlib import Path

import awkward_networks
import pytest
import torch
from awkward_networks import DecidesByPixels, FixedSizes, conv
from conftest import refusal_of
from torch import Tensor, nn

from models.graph import NetworkRefused, trace

FILE = awkward_networks.__file__


def line_of(code: str) -> int:
    """The number of the line of the networks' file that has this code."""
    return Path(FILE).read_text().splitlines().index(code) + 1


def refusal(network: nn.Module, side: int = 16) -> str:
    """The message, which is one line."""
    assert issubclass(NetworkRefused, ValueError)
    return refusal_of(lambda: trace(network, side))


def test_control_flow_on_pixels() -> None:
    message = refusal(DecidesByPixels())
    line = line_of("        if x.mean() > 0:")
    assert message == (
        f"the network's code decides by what its tensors hold: no one graph ({FILE}:{line}: if x.mean() > 0:)"
    )


def test_a_weight_as_a_number() -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.scale = nn.Conv2d(3, 4, 3), nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).mean((2, 3)) / self.scale.item()

    assert "turns a weight or a buffer into a number" in refusal(Network())


def test_images_of_the_wrong_size() -> None:
    message = refusal(FixedSizes(), side=20)
    line = line_of("        return self.fc(F.max_pool2d(F.relu(self.conv2(x)), 2).view(-1, 128))")
    assert message.startswith("the network does not run on images (2, 3, 20, 20): ")
    assert f"({FILE}:{line}: return self.fc(" in message


def test_images_of_the_wrong_channels() -> None:
    with pytest.raises(NetworkRefused, match=r"does not run on images \(2, 1, 16, 16\)"):
        trace(FixedSizes(), 16, channels=1)


def test_no_convolution() -> None:
    message = refusal(nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 10)))
    assert message == "the network has no convolution: there are no kernels to choose from"


def test_no_logits() -> None:
    message = refusal(nn.Sequential(conv(3, 8), nn.ReLU()))
    assert message == "expected logits (n, classes), the network gives ('n', 8, 16, 16)"


class FixedBatch(nn.Module):
    """The number of images written into the code."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = conv(3, 4), nn.Linear(4 * 256, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).view(2, -1))


def test_a_fixed_number_of_images() -> None:
    assert refusal(FixedBatch()).startswith("the network cannot be traced: ")


class NameThatIsTaken(FixedSizes):
    """A layer with the name of an attribute of the modules that are cut."""

    def __init__(self) -> None:
        super().__init__()
        self.graph_program = conv(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.graph_program(x))


def test_a_name_that_is_taken() -> None:
    message = refusal(NameThatIsTaken())
    assert message.startswith("the network's graph_program.weight cannot keep its name: ")


@pytest.mark.filterwarnings("error")
def test_tracing_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    trace(FixedSizes(), 16)
    refusal(DecidesByPixels())
    assert capfd.readouterr() == ("", "")
