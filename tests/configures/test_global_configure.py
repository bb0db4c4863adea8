"""The environment's variables beside the lines of `global_configure.py`."""

import runpy
from pathlib import Path
from typing import Any

import pytest
from conftest import TOP


def configured(monkeypatch: pytest.MonkeyPatch, **variables: str) -> dict[str, Any]:
    """Read from the file itself, because the tests put folders of their own in its place."""
    for name in ("CNNMOD_ROOT_DIR", "CNNMOD_DATASET_DIR", "CNNMOD_SEED"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return runpy.run_path(str(TOP / "global_configure.py"))


def test_root_dir_defaults_to_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    found = configured(monkeypatch)
    assert (found["root_dir"], found["dataset_dir"]) == (TOP, TOP / "data" / "dataset")
    assert (found["split_seed"], found["seed"]) == (1009, 0)


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    found = configured(monkeypatch, CNNMOD_ROOT_DIR="~/here")
    assert (found["root_dir"], found["dataset_dir"]) == (tmp_path / "here", tmp_path / "here" / "data" / "dataset")
    found = configured(monkeypatch, CNNMOD_ROOT_DIR="here/~", CNNMOD_DATASET_DIR="~")
    assert (found["root_dir"], found["dataset_dir"]) == (Path("here/~"), tmp_path)


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("CNNMOD_ROOT_DIR", "", "the path of a folder"),
        ("CNNMOD_DATASET_DIR", "", "the path of a folder"),
        ("CNNMOD_ROOT_DIR", "~no_such_user/x", "a home folder that is known"),
        ("CNNMOD_SEED", "", "a whole number of at most nine digits"),
        ("CNNMOD_SEED", "-1", "a whole number of at most nine digits"),
        ("CNNMOD_SEED", "1" + "0" * 30, "a whole number of at most nine digits"),
    ],
)
def test_what_cannot_be_is_one_line(
    variable: str, value: str, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        configured(monkeypatch, **{variable: value})
    assert end.value.code == 2
    assert capsys.readouterr().err == f"error: environment variable {variable}: expected {expected}, given {value!r}\n"
