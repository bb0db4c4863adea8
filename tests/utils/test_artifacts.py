"""The files between the stages have the names, types and makers of the contract."""

from pathlib import Path

import numpy as np
import pytest

from models import files as model_files
from modules import files as module_files
from patching import files as patch_files
from patching.weak_models import WeakKind
from search.genetic import files as genetic_files
from utils.artifacts import Artifacts
from utils.errors import UserError

ARTIFACTS = Artifacts(Path("/root_dir"), "simcnn", "cifar10")


@pytest.mark.parametrize(
    ("file", "name", "dtype", "maker"),
    [
        (model_files.entire_model(ARTIFACTS), "entire_model.pth", None, "train.py"),
        (model_files.trained_on(ARTIFACTS), "strong_model.json", None, "train.py"),
        (
            module_files.kernel_importance(ARTIFACTS),
            "kernel_importance/avg_L1.npy",
            "float32",
            "preprocess/kernel_importance_analyzer.py",
        ),
        (
            module_files.layer_sensitivity(ARTIFACTS, 7),
            "layer_sensitivity/layer_07.npy",
            "float32",
            "run_layer_sensitivity_analyzer",
        ),
        (genetic_files.population(ARTIFACTS, 3, 9), "ga/gen_003_exp_9_pop.npy", "uint8", "module_explorer.py"),
        (genetic_files.outputs(ARTIFACTS, 12, 0), "ga/gen_012_exp_0_outputs.npy", "float32", "module_explorer.py"),
        (genetic_files.fitness(ARTIFACTS, 199), "ga/gen_199_fitness.npy", "float64", "module_recorder.py"),
        (module_files.latest_set(ARTIFACTS), "modules/latest.json", None, "module_gradient_search.py"),
        (
            module_files.module_outputs(ARTIFACTS, 4, "mine"),
            "module_outputs/mine/class_4.npy",
            "float32",
            "preprocess/module_output_collector.py",
        ),
    ],
    ids=str,
)
def test_the_contract(file, name: str, dtype: str | None, maker: str) -> None:
    assert file.path == Path("/root_dir/data/simcnn_cifar10", name)
    assert getattr(file, "dtype", None) == dtype
    assert maker in file.made_by
    assert "--model simcnn --dataset cifar10" in file.made_by
    assert Path(__file__).parents[2].joinpath(file.made_by.split()[1]).is_file()
    assert not file.exists()
    with pytest.raises(UserError, match="first run: python"):
        file.check_is_there()


def test_weak_models_stand_beside() -> None:
    expected = Path("/root_dir/data/patch/weak/simcnn_cifar10/target_class_3/epoch_84.pth")
    assert patch_files.weak_model(ARTIFACTS, WeakKind.SIMPLE, 3, 84).path == expected
    assert genetic_files.log(ARTIFACTS).path == Path("/root_dir/data/simcnn_cifar10/ga/search_log.csv")


def test_an_array_is_saved_in_the_contracts_type(tmp_path: Path) -> None:
    file = module_files.module_kernels(tmp_path, 0, "train.py")
    file.save(np.array([1, 0, 1]))
    file.check_is_there()
    assert file.load(3).tolist() == [True, False, True]
    with pytest.raises(UserError, match=r"expected bool of shape \(4,\), found bool of shape \(3,\)"):
        file.load(4)


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
        with pytest.raises(UserError, match=r"cannot read .*class_0_kernels\.npy: Input/output error; mend that"):
            file.load_if_whole(2)
    assert file.load_if_whole(2).tolist() == [True, False]
    file.path.write_bytes(file.path.read_bytes()[:-1])
    assert file.load_if_whole(2) is None
    assert not file.exists()
    assert "damaged, so removed and made again" in capsys.readouterr().out
