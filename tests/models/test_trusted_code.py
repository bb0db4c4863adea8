"""A user's Python files run where the user names them, and where a file names them only if they ran before."""

import importlib.util
import json
import os
import py_compile
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Run, refusal_of
from image_trees import write_tree

import global_configure
from models import files as model_files
from models.files import NetworkSettings
from models.names import network_of
from models.own_code import named, not_named
from patching.patched_model import load_patched_model
from utils.artifacts import Artifacts
from utils.errors import UserError
from utils.files import save_checkpoint

NET = "def build(num_classes):\n    from torch import nn\n    return nn.Linear(2, num_classes)\n"
RAN = "import pathlib\npathlib.Path(__file__).with_suffix('.ran').touch()\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "net.py"
    path.write_text(RAN + NET)
    return path


def ran(path: Path) -> bool:
    """Whether a file ran since the last time that this was asked."""
    mark = path.with_suffix(".ran")
    was = mark.exists()
    mark.unlink(missing_ok=True)
    return was


def by_a_file(path: Path, function: str = "build") -> None:
    """Make the network of a name that comes from a file."""
    not_named(f"{path}:{function}", "--set network=IT")
    network_of(f"{path}:{function}", 3)


def refusal(path: Path, function: str = "build") -> str:
    message = refusal_of(lambda: by_a_file(path, function))
    assert message.endswith("where you trust it, name the network once: --set network=IT")
    return message


def test_what_was_never_named_does_not_run(file: Path) -> None:
    assert refusal(file).startswith(f"{file} is Python code that never ran on this machine, and its name comes from a")
    assert not ran(file)
    named(f"{file}:build")
    network_of(f"{file}:build", 3)
    assert ran(file)
    by_a_file(file)
    assert ran(file)


def test_what_ran_before_runs_wherever_it_is_now(file: Path, tmp_path: Path) -> None:
    network_of(f"{file}:build", 3)
    (moved := tmp_path / "elsewhere" / "other.py").parent.mkdir()
    file.rename(moved)
    by_a_file(moved)
    assert ran(moved)


def test_what_has_changed_does_not_run(file: Path) -> None:
    network_of(f"{file}:build", 3)
    assert ran(file)
    by_a_file(file)
    assert ran(file)
    file.write_text(f"{file.read_text()}\n")
    assert refusal(file).startswith(f"{file} has changed since it ran on this machine")
    with pytest.raises(UserError, match="has changed since"):
        network_of(f"{file}:build", 3)
    assert not ran(file)


def test_another_function_of_a_file_that_ran(file: Path) -> None:
    file.write_text(f"{file.read_text()}from shutil import rmtree\n")
    network_of(f"{file}:build", 3)
    refusal(file, "rmtree")


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("name", ["trusted_helper.py", "trusted_helper/__init__.py", "trusted_helper/part.py"])
def test_what_it_imports_is_asked_about_too(
    tmp_path: Path, name: str, late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported = "trusted_helper.part" if name.endswith("part.py") else "trusted_helper"
    text = f"import {imported}\n{NET}" if not late else NET.replace(":\n", f":\n    import {imported}\n", 1)
    (tmp_path / "net.py").write_text(text)
    helper = tmp_path / name
    helper.parent.mkdir(exist_ok=True)
    helper.write_text(RAN)

    def forget() -> None:
        for each in [each for each in sys.modules if each.partition(".")[0] == "trusted_helper"]:
            monkeypatch.delitem(sys.modules, each)

    network_of(f"{tmp_path / 'net.py'}:build", 3)
    assert ran(helper)
    forget()
    by_a_file(tmp_path / "net.py")
    assert ran(helper)
    forget()
    helper.write_text(f"{RAN}\n")
    assert refusal(tmp_path / "net.py").startswith(f"{helper} has changed since it ran on this machine")
    assert not ran(helper)


def test_a_file_in_the_way_of_a_standard_module_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net.py").write_text(f"import colorsys\n{NET}")
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    network_of(f"{tmp_path / 'net.py'}:build", 3)
    monkeypatch.delitem(sys.modules, "colorsys")
    (tmp_path / "colorsys.py").write_text(RAN)
    assert refusal(tmp_path / "net.py").startswith(f"{tmp_path / 'colorsys.py'} is Python code that never ran")
    assert not ran(tmp_path / "colorsys.py")


@pytest.mark.parametrize("name", ["net.py", "trusted_helper.py"])
def test_compiled_bytes_that_lie_next_to_a_file_do_not_run(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "net.py").write_text(f"import trusted_helper\n{NET}")
    (tmp_path / "trusted_helper.py").write_text("x = 1\n")
    network_of(f"{tmp_path / 'net.py'}:build", 3)
    monkeypatch.delitem(sys.modules, "trusted_helper", raising=False)
    (other := tmp_path / "other.py").write_text(RAN + NET)
    compiled = Path(importlib.util.cache_from_source(str(tmp_path / name)))
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(str(other), str(compiled), str(tmp_path / name), doraise=True, invalidation_mode=mode)
    by_a_file(tmp_path / "net.py")
    assert not ran(tmp_path / name)
    monkeypatch.delitem(sys.modules, "trusted_helper", raising=False)
    if name != "net.py":
        (tmp_path / name).unlink()
        compiled.rename(tmp_path / f"{name}c")
        assert f"{name}c is Python code that never ran" in refusal(tmp_path / "net.py")


def test_a_record_that_cannot_be_written_or_is_damaged(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(global_configure, "config_dir", Path(os.devnull) / "x")
    network_of(f"{file}:build", 3)
    assert "cannot be written" in capsys.readouterr().out
    refusal(file)
    monkeypatch.setattr(global_configure, "config_dir", tmp_path)
    (record := tmp_path / "networks_that_ran.jsonl").write_bytes(b'\xff[\n[1, 2, 3]\n{"a": 1}\n["x"]\n')
    named(f"{file}:build")
    network_of(f"{file}:build", 3)
    by_a_file(file)
    lines = record.read_text(errors="replace").splitlines()
    by_a_file(file)
    assert len(lines) == 5 and json.loads(lines[-1])[1:] == ["build", str(file)]
    if os.name == "posix":
        assert record.stat().st_mode & 0o022 == 0


@pytest.fixture
def strangers(root_dir: Path, file: Path) -> Path:
    """A data folder whose network.json names a file."""
    write_tree(Path(global_configure.dataset_dir) / "own", ("x", "y"), count=5)
    settings = NetworkSettings(f"{file}:build", 2, 32, "stretch", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    model_files.network_settings(Artifacts(root_dir, "mine", "own")).save(settings)
    return root_dir


def test_a_strangers_data_folder_runs_nothing(strangers: Path, file: Path, run_main: Callable[..., Run]) -> None:
    words = ("train.py", "--model", "mine", "--dataset", "own", "--evaluation")
    expected = f"--set network={file}:build"
    run_main(*words, root=strangers).refused(f"{file} is Python code that never ran on this machine", expected)
    assert not ran(file)
    run_main(*words, "--set", f"network={file}:build", root=strangers).refused("entire_model.pth; first run:")
    assert ran(file)
    run_main(*words, root=strangers).refused("entire_model.pth; first run:")
    assert ran(file)


def test_a_strangers_patched_model_runs_nothing(file: Path, tmp_path: Path) -> None:
    form = {"side": 32, "normalisation": [[0.5] * 3, [0.5] * 3], "resize": "stretch", "is_grey": False}
    state = {"weights": {}, "form": form, "classes": ["x", "y"], "weak_classes": 2, "strong_classes": 2}
    for weak, strong in ((f"{file}:build", "simcnn_tiny"), ("simcnn_tiny", f"{file}:build")):
        save_checkpoint(tmp_path / "patched.pth", state | {"weak_network": weak, "strong_network": strong})
        with pytest.raises(UserError, match=r"never ran .*: python scripts/inspect_network.py --network .*build --num"):
            load_patched_model(tmp_path / "patched.pth")
    assert not ran(file)
