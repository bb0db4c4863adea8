"""Files that people take for checkpoints: read without running what is in them, or refused in one line."""

import argparse
import contextlib
import pickle  # writes only: hostile files that must be refused
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import refusal_of
from hypothesis import given
from image_trees import announce_less
from torch import nn

from models.foreign_files import read_foreign_file
from utils.errors import UserError

SAVE = "torch.save(model.state_dict(), FILE)"


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))


def refusal(path: Path) -> str:
    message = refusal_of(lambda: read_foreign_file(path))
    assert str(path) in message
    return message


def save_old(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("save", [torch.save, save_old])
def test_both_formats_of_torch(save: Callable[[Any, Path], None], tmp_path: Path) -> None:
    state = network().state_dict()
    save({"state_dict": state, "epoch": 3, "history": [0.5, 0.25]}, tmp_path / "a.pth")
    content = read_foreign_file(tmp_path / "a.pth")
    assert (content["epoch"], content["history"]) == (3, [0.5, 0.25])
    assert all(torch.equal(content["state_dict"][name], value) for name, value in state.items())


def test_safetensors_whatever_the_file_is_called(tmp_path: Path) -> None:
    state = network().state_dict()
    safetensors.torch.save_file(state, tmp_path / "model.bin")
    content = read_foreign_file(tmp_path / "model.bin")
    assert all(torch.equal(content[name], value) for name, value in state.items())
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "model.bin").read_bytes()[:-5])
    assert "is a damaged safetensors file" in refusal(tmp_path / "cut.safetensors")


def test_safetensors_without_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = b"{}      "
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b" ")
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    assert refusal(tmp_path / "a.safetensors").endswith("first run: pip install safetensors")


class Sabotage:
    """What a hostile checkpoint holds: it would end the test if it were unpickled."""

    def __reduce__(self) -> tuple:
        return sys.exit, ("unpickled",)


@pytest.mark.parametrize("save", [torch.save, save_old])
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (network(), "is a whole pickled object of class torch.nn.modules.container.Sequential"),
        ({"model": network()}, "an object of class torch.nn.modules.container.Sequential in it"),
        ({"args": argparse.Namespace(epochs=3)}, "an object of class argparse.Namespace in it"),
        ({"accuracy": np.float64(0.5), "state_dict": network().state_dict()}, "with an object of class numpy."),
        ({"state_dict": network().state_dict(), "sabotage": Sabotage()}, "an object of class sys.exit in it"),
        (Sabotage(), "is a whole pickled object of class sys.exit"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_objects_that_only_running_code_could_load(
    save: Callable[[Any, Path], None], content: Any, expected: str, tmp_path: Path
) -> None:
    save(content, tmp_path / "a.pth")
    message = refusal(tmp_path / "a.pth")
    assert expected in message
    assert SAVE in message
    assert "weights_only" not in message


@pytest.mark.filterwarnings("ignore")  # torch.jit is deprecated
def test_programs(tmp_path: Path) -> None:
    torch.jit.trace(network(), torch.zeros(1, 2)).save(tmp_path / "script.pth")
    assert "is a TorchScript program; " in refusal(tmp_path / "script.pth")
    assert "torch.save(torch.jit.load('script.pth').state_dict(), FILE)" in refusal(tmp_path / "script.pth")
    torch.export.save(torch.export.export(network(), (torch.zeros(1, 2),)), tmp_path / "program.pt2")
    assert "is an exported program (.pt2)" in refusal(tmp_path / "program.pt2")
    assert SAVE in refusal(tmp_path / "program.pt2")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty; copy or download it again"),
        (b"\n <!DOCTYPE html>\n<html><body>Sign in</body></html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 44\n", "git lfs pull"),
        (b'{"error": "not found"}', 'is a text file that starts with \'{"error": "not found"}\''),
        (b"\x1f\x8b\x08\x00rest", "is a gzip file; unpack it"),
        (b"\x89HDF\r\n\x1a\n", "is an HDF5 file, as Keras saves it"),
        (b"a" * 257 + b"ustar\x00", "is a tar archive"),
        (pickle.dumps({"a": 1}), "is a pickle of Python, not saved by torch"),
        (bytes(range(256)), "is no checkpoint of torch, nor a whole safetensors file"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_other_kinds_of_files(content: bytes, expected: str, tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(content)
    assert expected in refusal(tmp_path / "a.pth")


def test_other_zip_files(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("photos/1.png", b"pixels")
    assert "is a zip file of something else (it holds photos/1.png)" in refusal(tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "a.pth", "w"):
        pass
    assert refusal(tmp_path / "a.pth")


def test_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save(network().state_dict(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "is damaged, or cut off; copy or download it again" in refusal(path)
    middle = whole.index(network().state_dict()["0.weight"].numpy().tobytes())
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    assert "is damaged; copy or download it again" in refusal(path)
    save_old(network().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-9])
    assert "is damaged (" in refusal(path)


@pytest.mark.parametrize("announced", [100, 2**26])
@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, zipfile.ZIP_DEFLATED])
def test_a_compressed_file_is_not_unpacked(tmp_path: Path, method: int, announced: int) -> None:
    """Whether it holds more than it announces or not."""
    path = tmp_path / "a.pth"
    announce_less(path, "a/data.pkl", bytes(2**26), method, announced)
    tracemalloc.start()
    try:
        assert "is damaged or compressed, and torch compresses nothing; unpack it, and pack" in refusal(path)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_folders(tmp_path: Path) -> None:
    assert "is a folder without a checkpoint; expected a file (.safetensors, .pth" in refusal(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").write_bytes(b"")
    assert f"is a folder; give one of its files, for example {tmp_path}/checkpoints/last.ckpt" in refusal(tmp_path)
    (tmp_path / "data.pkl").write_bytes(b"")
    assert f"zip -0 -r FILE.pth {tmp_path.name}" in refusal(tmp_path)
    (tmp_path / ".metadata").write_bytes(b"")
    assert f"format_utils dcp_to_torch {tmp_path} FILE.pth" in refusal(tmp_path)


def test_no_file(tmp_path: Path) -> None:
    assert "there is no file" in refusal(tmp_path / "a.pth")
    assert "is no file; expected a checkpoint" in refusal(Path("/dev/null"))


@pytest.fixture(scope="module")
def old_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file of torch's old format, which has no checksum."""
    path = tmp_path_factory.mktemp("old") / "a.pth"
    save_old({"state_dict": network().state_dict(), "epoch": 3}, path)
    return path.read_bytes()


@given(data=st.data())
def test_any_change_of_an_old_file_is_refused_or_loads(
    data: st.DataObject, old_file: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(old_file[: data.draw(st.integers(0, len(old_file)))] + data.draw(st.binary(max_size=9)))
    for place in data.draw(st.lists(st.integers(0, max(0, len(content) - 1)), max_size=3)):
        content[place : place + 1] = data.draw(st.binary(max_size=2))
    path = tmp_path_factory.getbasetemp() / "changed.pth"
    path.write_bytes(content)
    with contextlib.suppress(UserError):
        read_foreign_file(path)
