"""scripts/inspect_network.py says what it found in a network and a checkpoint."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Run, numbers_in

from models.names import network_of

SCRIPT = "scripts/inspect_network.py"
NETS = """from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, x):
        x = self.stem(x)
        x = (x + self.conv(x).relu()).mean((2, 3))
        return self.fc(x)


class Decides(Net):
    def forward(self, x):
        return super().forward(x if x.mean() > 0 else -x)


def of_ten(width=3):
    return Net(10)
"""


@pytest.fixture
def nets(tmp_path: Path) -> Path:
    (tmp_path / "nets.py").write_text(NETS)
    return tmp_path / "nets.py"


@pytest.fixture
def inspect(run_main: Callable[..., Run], root_dir: Path) -> Callable[..., Run]:
    return lambda *arguments: run_main(SCRIPT, *arguments, root=root_dir)


@pytest.mark.slow
def test_a_users_network_and_checkpoint(
    nets: Path,
    inspect: Callable[..., Run],
    root_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_progress_lines: None,
) -> None:
    monkeypatch.chdir(nets.parent)
    network = network_of(f"{nets}:Net", 4)
    torch.save(
        {"ema": {f"module.{name}": value.half() for name, value in network.state_dict().items()}},
        nets.with_name("a.pth"),
    )
    options = ("--network", "nets.py:Net", "--num_classes", 4, "--image_side", 16, "--checkpoint", "a.pth")
    run = inspect(*options)
    assert (run.exit_code, run.stderr) == (0, "")
    multiply_accumulates = 14 * 14 * 8 * 9 * (3 + 8) + 8 * 4
    assert run.stdout.splitlines() == [
        "network: nets.py:Net, 4 classes, images 16x16",
        "checkpoint: a.pth: 6 of the network's 6 tensors; found at ema.module; from float16 to float32",
        f"parameters: {sum(p.numel() for p in network.parameters())}",
        f"FLOPs of an image: {2 * multiply_accumulates:,} (a multiply-accumulate counts 2)",
        "",
        "number  conv layer  kernels  group  can be cut",
        "     0        stem        8      0         yes",
        "     1        conv        8      0         yes",
        "",
        "conv layers that can be cut: 2 of 2",
        "kernels that can be dropped: 16 of 16",
        "units (kernels that go together, for example across an addition): 8",
        "groups (units in the same conv layers): 1",
    ]
    assert sorted(path.name for path in nets.parent.iterdir() if path.suffix) == ["a.pth", "nets.py"]
    assert not list(root_dir.iterdir())


def test_layers_that_cannot_be_cut(inspect: Callable[..., Run]) -> None:
    run = inspect("--network", "torchvision:squeezenet1_1", "--num_classes", 7, "--image_side", 64)
    assert run.exit_code == 0
    assert "classifier.1        7         no: its kernels are the logits" in run.stdout
    assert numbers_in(r"can be cut: (\d+) of 26", run.stdout) == [25]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--network", "{nets}:Decides"), "{nets}:19: return super().forward(x if x.mean() > 0 else -x)"),
        (("--network", "{nets}:Net", "--image_side", "1"), "does not run on images (2, 3, 1, 1)"),
        (("--network", "{nets}:of_ten"), "expected 4 logits, it gives 10 ({nets}:22); give --num_classes 10"),
        (("--network", "{nets}:net"), "did you mean Net?"),
        (("--network", "vgg"), "unknown network vgg"),
        (("--network", "simcnn", "--checkpoint", "no.pth"), "there is no file no.pth"),
        (("--network", "simcnn", "--checkpoint_key", "ema"), "expected a --checkpoint as well"),
        (("--network", "simcnn", "--image_side", "0"), "expected pixels from 1 to 1024"),
        (("--network", "simcnn", "--num_classes", "x"), "invalid int value: 'x'"),
    ],
)
def test_bad_input_is_one_line(
    inspect: Callable[..., Run], nets: Path, arguments: tuple[str, ...], expected: str
) -> None:
    given = [argument.format(nets=nets) for argument in arguments]
    inspect("--num_classes", 4, *given).refused(expected.format(nets=nets))


def test_help_says_that_ones_own_file_runs(inspect: Callable[..., Run]) -> None:
    assert "Your own file runs, with all that it does." in inspect("--help").stdout
