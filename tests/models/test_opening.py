"""A stage without a configuration file: its settings are sized to the dataset, its network is what the files say."""

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Run
from image_trees import write_tree

import global_configure
from configures.setting import SettingError
from models import files as model_files
from models.files import NetworkSettings
from models.opening import default_config, sized_config
from utils.artifacts import Artifacts
from utils.errors import UserError

NETWORK = """from torch import nn


def again(num_classes):
    return build(num_classes)


def build(num_classes):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(4, num_classes))
"""


@pytest.fixture
def dataset(root_dir: Path) -> str:
    """Three classes of ten images, called `own`."""
    write_tree(Path(global_configure.dataset_dir) / "own", ("x", "y", "z"), count=10)
    return "own"


def test_the_number_of_classes_is_the_datasets(dataset: str) -> None:
    config = default_config("resnet20", dataset)
    assert (config.network_name, config.num_classes, config.image_side) == ("resnet20", 3, 32)


def test_a_network_of_torchvision_is_found_by_its_name(dataset: str) -> None:
    assert default_config("resnet18", dataset).network_name == "torchvision:resnet18"
    assert default_config("somebodys", dataset).network_name == "somebodys"  # refused where it is made


@pytest.mark.parametrize(("num_images", "epochs", "batch_size"), [(64, 100, 32), (1_437, 46, 32), (40_000, 60, 128)])
def test_few_images_are_seen_more_often(num_images: int, epochs: int, batch_size: int) -> None:
    config = sized_config("m", "d", 5, num_images)
    assert (config.epochs, config.batch_size, config.num_classes) == (epochs, batch_size, 5)


def test_a_name_that_is_no_folder_is_refused(dataset: str) -> None:
    with pytest.raises(SettingError, match=r"--model torchvision:resnet18: expected letters.*network=torchvision:res"):
        default_config("torchvision:resnet18", dataset)


def test_a_dataset_that_is_not_there_is_refused(root_dir: Path) -> None:
    with pytest.raises(UserError, match=r"there is no file configures/simcnn_mnist.py, and dataset mnist is not there"):
        default_config("simcnn", "mnist")


def test_the_strong_models_own_settings_are_taken_up(dataset: str, root_dir: Path) -> None:
    recorded = NetworkSettings("torchvision:alexnet", 3, 64, "crop", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    model_files.network_settings(Artifacts(root_dir, "mine", dataset)).save(recorded)
    config = default_config("mine", dataset)
    assert NetworkSettings.of(config) == recorded


@pytest.mark.slow
def test_a_stage_after_training_knows_the_network(
    dataset: str, root_dir: Path, run_main: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever folder it is started from, and wherever the user's file is now; others are refused."""
    (tmp_path / "net.py").write_text(NETWORK)
    names = ["--model", "mine", "--dataset", dataset]
    form = ["--set", "network=net.py:build", "--set", "image_side=16", "--set", "mean=0.5,0.5,0.5"]
    monkeypatch.chdir(tmp_path)
    done = run_main("train.py", *names, *form, "--epochs", 1, root=root_dir)
    assert done.exit_code == 0, done
    # A training that has ended is not taken for one of another form, nor of another network.
    for setting in ("mean=0.9,0.5,0.5", "network=net.py:again"):
        words = [*names, *form, "--set", setting, "--epochs", 1]
        run_main("train.py", *words, root=root_dir).refused("made with other settings", setting.partition("=")[0])
    assert "no file configures/mine_own.py, so: network=net.py:build, num_classes=3, image_side=16" in done.stdout
    monkeypatch.chdir(root_dir)
    importance = "preprocess/kernel_importance_analyzer.py"
    assert run_main(importance, *names, root=root_dir).exit_code == 0
    moved = tmp_path / "elsewhere" / "net.py"
    moved.parent.mkdir()
    (tmp_path / "net.py").rename(moved)
    run_main(importance, *names, root=root_dir).refused("there is no file", "net.py")
    assert run_main(importance, *names, "--set", f"network={moved}:build", root=root_dir).exit_code == 0
    for setting, difference in (
        ("image_side=32", "image_side: 16 there, 32 now"),
        ("mean=0.4,0.5,0.5", "mean: (0.5, 0.5, 0.5) there, (0.4, 0.5, 0.5) now"),
        ("network=resnet20", "network: "),
    ):
        line = run_main(importance, *names, "--set", setting, root=root_dir).refused("made with other settings")
        assert difference in line


def test_a_dataset_of_one_class_is_refused(root_dir: Path) -> None:
    write_tree(Path(global_configure.dataset_dir) / "one", ("x",), count=10)
    with pytest.raises(UserError, match=r"dataset one has one class, x: expected a folder each of 2 or more"):
        default_config("resnet20", "one")


@pytest.mark.slow
def test_a_network_that_gives_too_few_logits_is_refused_before_training(
    dataset: str, root_dir: Path, run_main: Callable[..., Run], tmp_path: Path
) -> None:
    (tmp_path / "few.py").write_text(
        NETWORK + "\n\nclass Few(nn.Module):\n    def __init__(self, num_classes):\n"
        "        super().__init__()\n        self.net = build(num_classes)\n\n    def forward(self, x):\n"
        "        return self.net(x)[:1]\n"
    )
    words = ["--model", "few", "--dataset", dataset, "--set", f"network={tmp_path / 'few.py'}:Few"]
    run_main("train.py", *words, root=root_dir).refused("expected logits (n, classes), the network gives (1, 3)")
