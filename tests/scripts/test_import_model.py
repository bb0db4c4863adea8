"""A trained model from elsewhere becomes the strong model, or one line says why not."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from conftest import Run
from PIL import Image
from torch import nn

import global_configure
from configures.base import Config
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


WRONG = ["--set", "image_side=16", "--set", "mean=1,1,1", "--set", "std=1,1,1"]
TAKEN = (
    "8 of 32 validation images right in the form that was given, 32 with mean=0.485,0.456,0.406 std=0.229,0.224,0.225"
)


@pytest.fixture
def evaluate(home: Path, run_main: Callable[..., Run]) -> Callable[..., Run]:
    """A later stage."""
    return lambda *more: run_main(
        "train.py", "--model", "mine", "--dataset", "colours", "--evaluation", *more, root=home
    )


def test_the_form_that_fits_is_taken_and_later_stages_have_it(
    import_model: Callable[..., Run], evaluate: Callable[..., Run]
) -> None:
    done = import_model(colour_network(), *WRONG)
    assert done.exit_code == 0, done
    assert f"{TAKEN} (ImageNet's): that is taken; --as_given keeps what was given" in done.stdout
    assert "test accuracy 100.00% (32 of 32)" in done.stdout
    later = evaluate()
    assert later.exit_code == 0 and "test accuracy 100.00% (32 of 32)" in later.stdout, later
    evaluate("--set", "mean=1,1,1").refused("not those that the strong model was trained on")


def test_the_form_that_was_given_can_be_kept(
    import_model: Callable[..., Run], evaluate: Callable[..., Run], home: Path
) -> None:
    line = import_model(colour_network(), *WRONG, "--as_given").refused("hardly better than chance", "--anyway takes")
    assert "32 with mean=0.485,0.456,0.406 std=0.229,0.224,0.225 (ImageNet's): leave out --as_given" in line
    assert not list((home / "data").glob("mine_colours*"))
    done = import_model(colour_network(), *WRONG, "--as_given", "--anyway")
    assert done.exit_code == 0 and "leave out --as_given to take that" in done.stdout, done
    later = evaluate()
    assert later.exit_code == 0 and "test accuracy 25.00% (8 of 32)" in later.stdout, later


def test_another_order_of_outputs_is_taken(
    import_model: Callable[..., Run], evaluate: Callable[..., Run], home: Path
) -> None:
    done = import_model(colour_network((1, 2, 3, 0)), *FORM)
    assert done.exit_code == 0, done
    assert "0 of 32 validation images right in the form that was given, 32 with its outputs 3,0,1,2" in done.stdout
    assert "net.py:Net[4:3,0,1,2], which later stages read from network.json" in done.stdout
    later = evaluate()
    assert later.exit_code == 0 and "test accuracy 100.00% (32 of 32)" in later.stdout, later


def test_a_configuration_file_has_to_say_what_is_taken(
    import_model: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    written = ModuleType("configures.mine_colours")
    written.config = Config(model="mine", dataset="colours", num_classes=4, mean=(1, 1, 1), std=(1, 1, 1))
    monkeypatch.setitem(sys.modules, written.__name__, written)
    for room in ("configures.base", "models.opening"):
        monkeypatch.setattr(f"{room}.known_configurations", lambda: ["mine_colours"])
    done = import_model(colour_network(), *FORM[:2])
    line = (
        "for later stages, write into configures/mine_colours.py: mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)"
    )
    assert line in done.stdout, done


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


def colours_of_two(home: Path) -> None:
    """A dataset `two` of the same images: red, and other."""
    source = Path(global_configure.dataset_dir) / "colours"
    for path in source.glob("*/*/*.png"):
        name = path.parent.name if path.parent.name == "red" else "other"
        target = source.with_name("two") / path.parent.parent.name / name / f"{path.parent.name}{path.name}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


@pytest.fixture
def import_two(home: Path, run_main: Callable[..., Run]) -> Callable[..., Run]:
    colours_of_two(home)
    torch.save(colour_network(), home / "best.pth")
    names = ["--model", "mine", "--dataset", "two", "--network", f"{home / 'net.py'}:Net"]
    return lambda *more: run_main(SCRIPT, *names, "--checkpoint", home / "best.pth", *FORM, *more, root=home)


def test_groups_of_outputs_become_the_classes(
    import_two: Callable[..., Run], home: Path, run_main: Callable[..., Run]
) -> None:
    """From the import to a module of one class, which has one row of the last layer."""
    done = import_two("--outputs", "red=3,other=rest")
    assert done.exit_code == 0 and "test accuracy 100.00% (32 of 32)" in done.stdout, done
    assert "net.py:Net[4:0-2,3], which later stages read from network.json" in done.stdout
    artifacts, names = Artifacts(home, "mine", "two"), ("--model", "mine", "--dataset", "two")
    # The form and the network stand in network.json; `--set network=` without the outputs would be another network.
    assert "class: python module_gradient_search.py --model mine --dataset two --target_class CLASS" in done.stdout
    assert import_two("--outputs", "red=3,other=rest", "--fresh").exit_code == 0  # nothing of the first import counts
    strong = model_files.entire_model(artifacts).load()
    assert strong["module.fc.weight"].shape == (4, 3)
    search = ("--target_class", "red", "--keep", "1", "--set", "mask_keeps=1", "--set", "mask_steps=1")
    done = run_main("module_gradient_search.py", *names, *search, root=home)
    assert done.exit_code == 0, done
    (path,) = artifacts.folder.glob("modules/*/class_1.pth")
    module = torch.load(path, weights_only=True)
    assert module["module.fc.weight"].shape == (1, 3)
    name = model_files.network_settings(artifacts).load().network
    shown = run_main("scripts/inspect_network.py", "--network", name, "--image_side", 16, root=home)
    assert shown.exit_code == 0 and "4:0-2,3], 2 classes" in shown.stdout, shown
    again = run_main(SCRIPT, *names, "--checkpoint", home / "best.pth", "--network", name, *FORM, "--fresh", root=home)
    assert again.exit_code == 0 and "test accuracy 100.00% (32 of 32)" in again.stdout, again


def test_exchanged_colours_are_taken(import_two: Callable[..., Run], home: Path, run_main: Callable[..., Run]) -> None:
    """No order of two classes explains that red images are other, and blue ones red."""
    weights = colour_network()
    torch.save({**weights, "fc.weight": weights["fc.weight"].flip(1)}, home / "best.pth")
    done = import_two("--outputs", "red=3,other=rest")
    assert done.exit_code == 0, done
    assert "16 of 32 validation images right in the form that was given, 32 with red and blue exchanged" in done.stdout
    assert "net.py:Net[bgr,4:0-2,3], which later stages read from network.json" in done.stdout
    later = run_main("train.py", "--model", "mine", "--dataset", "two", "--evaluation", root=home)
    assert later.exit_code == 0 and "test accuracy 100.00% (32 of 32)" in later.stdout, later


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ("blue=1,other=rest", "--outputs: the images have no class blue; Expected other, red"),
        ("red=3", "--outputs: expected outputs for each class, given none for other"),
    ],
)
def test_wrong_outputs_are_one_line(import_two: Callable[..., Run], home: Path, outputs: str, message: str) -> None:
    import_two("--outputs", outputs).refused(message)
    assert not model_files.entire_model(Artifacts(home, "mine", "two")).exists()


def test_outputs_are_said_once(import_two: Callable[..., Run], home: Path) -> None:
    name = f"{home / 'net.py'}:Net[4:0-2,3]"
    import_two("--network", name, "--outputs", "3,rest").refused("the name of the network says outputs already")


def test_outputs_that_the_user_says_are_not_put_in_another_order(import_two: Callable[..., Run]) -> None:
    import_two("--outputs", "red=rest,other=3").refused("0 of 32 validation images right, hardly better than chance")


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
