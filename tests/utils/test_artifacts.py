"""Files between stages are saved in the type of the contract, and damaged ones are made again."""

from pathlib import Path

import numpy as np
import pytest

from modules import files as module_files
from utils.artifacts import Artifacts
from utils.errors import UserError


def test_hints_repeat_this_runs_settings() -> None:
    artifacts = Artifacts(Path("/root_dir"), "simcnn", "cifar10", ("epochs=3", "weak_classes=a b,c"))
    assert artifacts.command("train.py", "--fresh") == (
        "python train.py --model simcnn --dataset cifar10 --set epochs=3 --set 'weak_classes=a b,c' --fresh"
    )


def test_what_is_damaged_is_made_again_and_what_cannot_be_read_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = module_files.module_kernels(tmp_path, 0, "train.py")
    file.save(np.array([True, False]))

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", fail)
        with pytest.raises(UserError, match=r"cannot read .*class_0_kernels\.npy: Input/output error; fix that"):
            file.load_if_whole(2)
    assert file.load_if_whole(2).tolist() == [True, False]
    file.path.write_bytes(file.path.read_bytes()[:-1])
    assert file.load_if_whole(2) is None
    assert not file.exists()
    assert "damaged, so removed and made again" in capsys.readouterr().out
