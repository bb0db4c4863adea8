"""`--tensorboard`: the numbers of a stage, and nothing else; with a writer that stands in for TensorBoard's."""

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
from conftest import Run, files_below
from image_trees import write_tree

from utils.errors import UserError
from utils.tensorboard import check_tensorboard, scalar, tensorboard

TRAIN = ("train.py", "--model", "simcnn_tiny", "--dataset", "tiny", "--set", "batch_size=4", "--epochs", 2)
NAMES = ("--model", "simcnn_x0_25", "--dataset", "digits_5")
RUN_SEARCH = "scripts/run_module_search.py"
WEAK, POOR = (f"experiments/patch/patch_for_{kind}_model/train.py" for kind in ("weak", "poor"))
SEARCH = ("module_gradient_search.py", *TRAIN[1:5], "--set", "mask_steps=3", "--set", "mask_keeps=0.8,0.6")


class Writer:
    """Keeps what SummaryWriter would write."""

    made: ClassVar[list["Writer"]] = []

    def __init__(self, folder: str) -> None:
        self.folder, self.scalars, self.is_closed = Path(folder), [], False
        self.made.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        assert not self.is_closed
        self.scalars.append((name, value, step))

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Writer]]:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    monkeypatch.setattr(Writer, "made", [])
    yield Writer.made
    assert all(writer.is_closed for writer in Writer.made)


def test_numbers_are_written_where_that_is_asked_for(made: list[Writer], tmp_path: Path) -> None:
    assert scalar("loss", 1.5, 0) == 1.5
    with tensorboard(tmp_path, False):
        scalar("loss", 1.0, 0)
    with tensorboard(tmp_path, True):
        assert not made  # what is refused before its first number leaves nothing
        assert scalar("loss", 0.5, 1) == 0.5
        scalar("loss", 0.25, 2)
    scalar("loss", 9.0, 3)
    (writer,) = made
    assert (writer.folder, writer.scalars) == (tmp_path / "tensorboard", [("loss", 0.5, 1), ("loss", 0.25, 2)])


def test_without_the_package_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=r"--tensorboard needs tensorboard \(.+\); first run: pip install -e \.\[tens"):
        check_tensorboard()


@pytest.mark.parametrize(
    "command",
    ["train.py", "module_gradient_search.py", "module_fine_tuner.py", f"{RUN_SEARCH} --method moda", WEAK, POOR],
)
def test_stages_refuse_before_the_work(
    command: str, run_main: Callable[..., Run], root_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    done = run_main(*command.split(), *NAMES, "--tensorboard", root=root_dir)
    done.refused("--tensorboard needs tensorboard")
    assert not done.stdout and not list((root_dir / "data").glob("simcnn*"))


def test_where_nothing_would_be_written_it_is_refused(run_main: Callable[..., Run], root_dir: Path) -> None:
    run_main(RUN_SEARCH, *NAMES, "--tensorboard", root=root_dir).refused("--tensorboard: not with --method genetic")
    done = run_main(WEAK, *NAMES, "--tensorboard", "--engine", "local", root=root_dir)
    done.refused("--tensorboard: not with --engine")


@pytest.mark.slow
def test_a_weak_model_has_curves_of_its_own(made: list[Writer], run_main: Callable[..., Run], root_dir: Path) -> None:
    done = run_main(WEAK, *NAMES, "--epochs", 2, "--target_class", 1, "--tensorboard", root=root_dir)
    assert done.exit_code == 0, done
    (writer,) = made
    assert writer.folder.parent.name == "target_class_1"
    assert {(name, step) for name, _, step in writer.scalars} == {
        (name, step) for name in ("loss/train", "accuracy/train", "accuracy/valid") for step in range(2)
    }


@pytest.mark.slow
def test_a_training_and_a_search_are_the_same_with_it(
    made: list[Writer], run_main: Callable[..., Run], root_dir: Path, tmp_path: Path
) -> None:
    write_tree(root_dir / "data" / "dataset" / "tiny", classes=("a", "b", "c"), count=20)
    other = Path(shutil.copytree(root_dir, tmp_path / "other"))
    for command in (TRAIN, (*SEARCH, "--max_loss", 100)):
        for root, options in ((root_dir, ()), (other, ("--tensorboard",))):
            done = run_main(*command, *options, root=root)
            assert done.exit_code == 0, done
    folders = [root / "data" / "simcnn_tiny_tiny" for root in (root_dir, other)]
    done = run_main(RUN_SEARCH, *TRAIN[1:5], "--method", "moda", "--tensorboard", root=other)
    assert done.exit_code == 0, done
    one_shot = made.pop()
    assert one_shot.is_closed and one_shot.folder == folders[1] / "moda" / "tensorboard"
    assert {name for name, *_ in one_shot.scalars} >= {"candidate/kernels_kept", "candidate/points_lost"}
    shutil.rmtree(folders[1] / "moda")
    shutil.rmtree(folders[1] / "modules" / "moda")
    arrays = [
        {name: content for name, content in files_below(each).items() if name.endswith(("kernels.npy", "weights.pth"))}
        | {"strong": (each / "entire_model.pth").read_bytes()}  # the training's state has its seconds
        for each in folders
    ]
    assert arrays[0] == arrays[1] and files_below(folders[0]).keys() == files_below(folders[1]).keys()
    training, search = made
    assert [writer.folder for writer in made] == [folders[1] / "tensorboard", folders[1] / "gradient" / "tensorboard"]
    assert {(name, step) for name, _, step in training.scalars} == {
        (name, step) for name in ("loss/train", "accuracy/train", "accuracy/valid") for step in range(2)
    }
    assert [step for name, _, step in search.scalars if name == "step/loss"] == list(range(6))
    kept = [value for name, value, _ in search.scalars if name == "round/kernels_kept"]
    assert len(kept) == 2 and 0 < kept[1] < kept[0] < 1
    assert {name for name, *_ in search.scalars} >= {"round/points_lost", "round/auc_mean"}
