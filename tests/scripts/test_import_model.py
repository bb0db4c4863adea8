"""A trained model from elsewhere becomes the strong model, or one line says why not."""

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Run
from PIL import Image
from torch import nn

import global_configure
from models import files as model_files
from utils.artifacts import Artifacts

SCRIPT = "scripts/import_model.py"
NETWORK = """from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.fc = nn.Linear(3, num_classes)

    def forward(self, x):
        return self.fc(self.conv(x).relu().mean((2, 3)))
"""
CLASSES = ("black", "blue", "green", "red")  # each image is of its class's colour


@pytest.fixture
def home(root_dir: Path) -> Path:
    """A dataset `colours` of 16x16 images, and a network's file."""
    random = np.random.default_rng(0)
    for part in ("train", "valid", "test"):
        for name in CLASSES:
            for number in range(8):
                pixels = random.integers(0, 60, (16, 16, 3), dtype=np.uint8)
                if name != "black":
                    pixels[..., ("red", "green", "blue").index(name)] += 150
                path = Path(global_configure.dataset_dir) / "colours" / part / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    (root_dir / "net.py").write_text(NETWORK)
    return root_dir


def colour_network(order: tuple[int, ...] = (0, 1, 2, 3)) -> dict[str, torch.Tensor]:
    """Weights that tell the colours, for values from 0 to 1; logit i is that of class order[i]."""
    weight = torch.tensor([[-10.0, -10, -10], [0, 0, 20], [0, 20, 0], [20, 0, 0]])
    bias = torch.tensor([8.0, 0, 0, 0])
    return {
        "conv.weight": torch.eye(3)[:, :, None, None],
        "conv.bias": torch.zeros(3),
        "fc.weight": weight[list(order)],
        "fc.bias": bias[list(order)],
    }


FORM = ["--set", "image_side=16", "--set", "mean=0,0,0", "--set", "std=1,1,1"]


def named_settings(line: str) -> list[str]:
    """The options --set that a message says to give."""
    words = shlex.split(line[line.index("give --set") :].split(" (")[0].split(";")[0])
    return [word for word in words if word == "--set" or "=" in word]


@pytest.fixture
def import_model(home: Path, run_main: Callable[..., Run]) -> Callable[..., Run]:
    def run(weights: object, *more: object) -> Run:
        torch.save(weights, home / "best.pth")
        names = ["--model", "mine", "--dataset", "colours", "--network", f"{home / 'net.py'}:Net"]
        return run_main(SCRIPT, *names, "--checkpoint", home / "best.pth", *more, root=home)

    return run


def test_what_people_save_becomes_the_strong_model(import_model: Callable[..., Run], home: Path) -> None:
    state = {f"module.{name}": value.half() for name, value in colour_network().items()}
    done = import_model({"epoch": 3, "state_dict": state}, *FORM)
    assert done.exit_code == 0, done
    for line in (
        "4 of the network's 4 tensors; found at state_dict.module; from float16 to float32",
        "conv layers that can be cut: 1 of 1",
        "images: 32 train, 32 valid, 32 test; 4 classes: black, blue, green, red",
        "warning: decisions rest on 32 validation images, 8 of class black",
        "valid accuracy 100.00% (32 of 32)",
        "test accuracy 100.00% (32 of 32)",
    ):
        assert line in done.stdout
    assert "drawn from the training images" not in done.stdout
    saved = model_files.entire_model(Artifacts(home, "mine", "colours")).load()
    assert all(torch.equal(saved[name], value) for name, value in colour_network().items())


def test_the_form_that_fits_is_named(import_model: Callable[..., Run]) -> None:
    wrong = ["--set", "image_side=16", "--set", "mean=1,1,1", "--set", "std=1,1,1"]
    line = import_model(colour_network(), *wrong).refused("hardly better than chance", "--anyway takes it over")
    hint = "it is right on 32 of 32: give --set mean=0.485,0.456,0.406 --set std=0.229,0.224,0.225"
    assert hint in line
    done = import_model(colour_network(), *wrong, "--anyway")
    assert done.exit_code == 0, done
    assert hint in done.stdout


def test_another_order_of_classes_is_named_and_can_be_given(
    import_model: Callable[..., Run], home: Path, run_main: Callable[..., Run]
) -> None:
    line = import_model(colour_network((1, 2, 3, 0)), *FORM).refused("0 of 32 validation images right", "--anyway")
    assert "its classes stand in another order: its outputs 3,0,1,2 are right on 32 of 32" in line
    assert not model_files.entire_model(Artifacts(home, "mine", "colours")).exists()
    classes = named_settings(line)
    assert classes == ["--set", "classes=blue,green,red,black"]
    done = import_model(colour_network((1, 2, 3, 0)), *FORM, *classes)
    assert done.exit_code == 0 and "test accuracy 100.00% (32 of 32)" in done.stdout, done
    later = run_main("train.py", "--model", "mine", "--dataset", "colours", "--evaluation", *classes, root=home)
    assert later.exit_code == 0 and "test accuracy 100.00% (32 of 32)" in later.stdout, later


def test_a_wrong_form_and_a_wrong_order_at_once(import_model: Callable[..., Run]) -> None:
    wrong = ["--set", "image_side=16", "--set", "mean=1,1,1", "--set", "std=1,1,1"]
    line = import_model(colour_network((1, 2, 3, 0)), *wrong).refused("hardly better than chance", "another order")
    assert "are right on 32 of 32" in line and "with colours" in line
    done = import_model(colour_network((1, 2, 3, 0)), *FORM[:2], *named_settings(line))
    assert done.exit_code == 0 and "valid accuracy 100.00% (32 of 32)" in done.stdout, done
    assert "give --set" not in done.stdout


def test_what_is_hardly_better_than_chance_is_said_and_not_only_with_hints(import_model: Callable[..., Run]) -> None:
    nothing = {**colour_network(), "fc.weight": torch.zeros(4, 3)}
    import_model(nothing, *FORM).refused("8 of 32 validation images right, hardly better than chance; likely reasons:")
    done = import_model(nothing, *FORM, "--anyway")
    assert done.exit_code == 0 and "8 of 32 validation images right, hardly better than chance" in done.stdout, done


def test_a_model_that_is_there_is_not_overwritten(
    import_model: Callable[..., Run], home: Path, run_main: Callable[..., Run]
) -> None:
    assert import_model(colour_network(), *FORM).exit_code == 0
    train = ("train.py", "--model", "mine", "--dataset", "colours")
    run_main(*train, root=home).refused("was not trained here: --fresh")
    import_model(colour_network(), *FORM).refused("entire_model.pth is there, a strong model: --fresh")
    done = import_model(colour_network(), *FORM, "--fresh")
    assert done.exit_code == 0 and "the old folder is now" in done.stdout


def test_validation_images_that_the_model_may_know_are_said(import_model: Callable[..., Run], home: Path) -> None:
    shutil.rmtree(Path(global_configure.dataset_dir) / "colours" / "valid")
    done = import_model(colour_network(), *FORM)
    assert done.exit_code == 0, done
    assert "drawn from the training images, so this model was trained on them" in done.stdout


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"fc.weight": torch.zeros(4, 3)}, "of another network: expected conv.weight"),
        (nn.Conv2d(3, 3, 1), "is a whole pickled object"),
        ({"model": colour_network(), "ema": {**colour_network(), "fc.bias": torch.ones(4)}}, "--checkpoint_key"),
    ],
)
def test_bad_checkpoints_are_one_line(
    import_model: Callable[..., Run], home: Path, weights: object, message: str
) -> None:
    import_model(weights, *FORM).refused(message)
    assert not model_files.entire_model(Artifacts(home, "mine", "colours")).exists()


def test_fewer_outputs_than_classes_have_a_way_in(import_model: Callable[..., Run]) -> None:
    weights = colour_network((0, 1, 2))
    import_model(weights, *FORM).refused("with 3 classes", "--set num_classes=3 --set classes=A,B,...")
    done = import_model(weights, *FORM, "--set", "num_classes=3", "--set", "classes=black,blue,green")
    assert done.exit_code == 0 and "test accuracy 100.00% (24 of 24)" in done.stdout, done


def test_probabilities_are_said(import_model: Callable[..., Run], home: Path) -> None:
    """Those that tracing does not see: a softmax at the end would be taken off."""
    (home / "net.py").write_text(
        NETWORK.replace("self.fc(", "(lambda x: x.exp() / x.exp().sum(1, keepdim=True))(self.fc(", 1).replace(
            "mean((2, 3)))", "mean((2, 3))))"
        )
    )
    done = import_model(colour_network(), *FORM)
    assert done.exit_code == 0 and "test accuracy 100.00% (32 of 32)" in done.stdout, done
    assert "from 0 to 1, as probabilities" in done.stdout


def test_a_network_that_is_another_one_when_it_is_made_again(import_model: Callable[..., Run], home: Path) -> None:
    made = NETWORK.replace("        self.fc =", "        self.noise = torch.rand(3) * 20\n        self.fc =")
    text = made.replace("mean((2, 3))", "mean((2, 3)) + self.noise")
    (home / "net.py").write_text(f"import torch\n{text}")
    import_model(colour_network(), *FORM, "--anyway").refused("made again with the same weights it gives other logits")
    assert not model_files.entire_model(Artifacts(home, "mine", "colours")).exists()
