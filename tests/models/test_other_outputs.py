"""Networks whose outputs are not one logit for each class: what is taken, and the ways in that the documents show."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TOP, refusal_of
from torch import Tensor, nn

from models.checkpoints import load_foreign_checkpoint
from models.graph import trace
from models.names import network_of
from models.strong_model import trace_classifier
from utils.errors import UserError

IMAGES = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(
        self, num_classes: int, end: Callable[[Tensor, Tensor], Any] = lambda features, logits: logits
    ) -> None:
        super().__init__()
        torch.manual_seed(num_classes)
        self.conv, self.fc, self.end = nn.Conv2d(3, 16, 3), nn.Linear(16, num_classes), end

    def forward(self, x: Tensor) -> Any:
        features = self.conv(x).relu().mean((2, 3))
        return self.end(features, self.fc(features))


ENDS = {
    "features, logits": lambda features, logits: (features, logits),
    "by name": lambda features, logits: {"features": features, "logits": logits, "mask": features > 0},
    "several logits": lambda features, logits: (features, logits, logits[:, :2], -logits),
    "softmax": lambda features, logits: (features, logits.softmax(1)),
    "sigmoid": lambda features, logits: logits.sigmoid(),
    "sigmoid behind features": lambda features, logits: (features, torch.sigmoid_(logits)),
}


@pytest.mark.parametrize("end", ENDS)
def test_the_logits_are_taken(end: str) -> None:
    graph = trace(Net(5, ENDS[end]).eval(), 8, num_classes=5)
    assert torch.allclose(graph.network(IMAGES), Net(5).eval()(IMAGES), atol=1e-5)


def test_features_as_wide_as_the_classes_come_first() -> None:
    """As they always did: nothing tells which of the two is meant."""
    graph = trace(Net(5, lambda features, logits: (features[:, :5], logits)).eval(), 8, num_classes=5)
    assert (graph.network(IMAGES) >= 0).all()


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """The file that the documents show, around the network here."""
    text = (TOP / "docs" / "your_network.md").read_text(encoding="utf-8")
    (block,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "class Around" in block)
    text, found = re.subn(r"from torchvision.models import resnet18 as build .*", "from net import Net as build", block)
    assert found == 1
    net = "import torch\nfrom torch import nn\n\n\nclass Net(nn.Module):\n    def __init__(self, num_classes):\n"
    net += (
        "        super().__init__()\n        self.conv, self.fc = nn.Conv2d(3, 16, 3), nn.Linear(16, num_classes)\n\n"
    )
    net += "    def forward(self, x):\n        return self.fc(self.conv(x).relu().mean((2, 3)))\n"
    (tmp_path / "net.py").write_text(net)
    path = tmp_path / "outputs.py"
    path.write_text(text)
    return path


def saved(num_outputs: int, folder: Path) -> tuple[Path, Tensor]:
    """A trained network's checkpoint, and its outputs."""
    network, path = Net(num_outputs).eval(), folder / "best.pth"
    torch.save(network.state_dict(), path)
    return path, network(IMAGES).detach()


@pytest.mark.parametrize(
    ("name", "given", "num_classes", "of_outputs"),
    [
        ("net.py:Net[6:1,2,3,4]", 6, 4, lambda outputs: outputs[:, 1:5]),
        ("outputs.py:two_of_one", 1, 2, lambda logit: torch.cat([1 - logit.sigmoid(), logit.sigmoid()], 1).log()),
    ],
)
def test_the_ways_in_of_the_documents(
    outputs: Path,
    tmp_path: Path,
    name: str,
    given: int,
    num_classes: int,
    of_outputs: Callable[[Tensor], Tensor],
) -> None:
    path, trained = saved(given, tmp_path)
    name = f"{outputs.parent}/{name}"
    network = network_of(name, num_classes).eval()
    load_foreign_checkpoint(network, path)
    graph = trace_classifier(network, name, num_classes, 8)
    expected = of_outputs(trained)
    assert torch.allclose(graph.network(IMAGES).log_softmax(1), expected.log_softmax(1), atol=1e-5)
    mask = np.ones(graph.num_units, bool)
    mask[::2] = False
    whole = graph.cut(mask)(IMAGES)
    for target_class in range(num_classes):
        module = graph.cut(mask, target_class)
        assert torch.allclose(module(IMAGES)[:, 0], whole[:, target_class], atol=1e-5)


def test_one_output_without_its_axis_is_refused_with_a_way_in() -> None:
    with pytest.raises(UserError, match=r"network net: expected logits .* gives \('n',\); docs/your_network.md shows"):
        trace_classifier(Net(1, lambda features, logits: logits[:, 0]), "net", 2, 8)


@pytest.mark.parametrize(
    ("given", "num_classes", "way"),
    [
        (6, 4, "say which of the 6 are the classes, by --outputs of import_model.py or behind the network's name"),
        (512, 5, "which of the 512 are the classes, by --outputs of import_model.py or behind the network's name"),
        (3, 4, "--set num_classes=3 --set classes=A,B,..."),
        (1, 2, "a FILE.py:FUNCTION that makes two of the one"),
    ],
)
def test_other_numbers_are_refused_with_a_way_in(tmp_path: Path, given: int, num_classes: int, way: str) -> None:
    """Of a checkpoint, and of a network that decides itself."""
    path, _ = saved(given, tmp_path)
    for refused in (
        lambda: load_foreign_checkpoint(Net(num_classes), path),
        lambda: trace_classifier(Net(given), "net", num_classes, 8),
    ):
        message = refusal_of(refused)
        assert f"{way}, as docs/your_network.md shows under Other outputs" in message
        assert f"give --num_classes {given} to inspect_network.py" in message
