"""Files are written whole or not at all, and damage of any kind is found when they are read."""

import io
import math
import os
import pickle  # writes only: hostile files that must be refused
import re
import resource
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from conftest import files_below, largest_file
from hypothesis import HealthCheck, given, settings
from image_trees import announce_less

from utils.errors import UserError, reason
from utils.files import (
    load_array,
    load_checkpoint,
    read_array,
    read_text,
    save_array,
    save_checkpoint,
    save_text,
    set_aside,
    sha256_of,
    write_whole,
)

MAKER = "python make_it.py"
SAME_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
ARRAYS = [
    np.arange(12, dtype=np.float32).reshape(3, 4),
    np.array([[1, 0, 1]], np.uint8),
    np.array([True, False, True]),
    np.linspace(0, 1, 7),
    np.arange(5),
]


def load(path: Path, like: np.ndarray, **more: Any) -> np.ndarray:
    return load_array(path, dtype=like.dtype, shape=like.shape, made_by=MAKER, **more)


@pytest.mark.parametrize("array", ARRAYS, ids=str)
@pytest.mark.parametrize("memory_map", [False, True])
def test_array_round_trip(tmp_path: Path, array: np.ndarray, memory_map: bool) -> None:
    path = tmp_path / "new" / "folder" / "a.npy"
    save_array(path, array)
    found = load(path, array, memory_map=memory_map)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)
    np.testing.assert_array_equal(np.load(path), array)  # NumPy reads it too
    assert [file.name for file in path.parent.iterdir()] == ["a.npy"]


def test_arrays_of_others_are_read_where_the_shape_is_known(tmp_path: Path) -> None:
    for array in ARRAYS:
        np.save(tmp_path / "a.npy", array)
        np.testing.assert_array_equal(load(tmp_path / "a.npy", array), array)
        with pytest.raises(UserError, match="it has no checksum"):
            load_array(tmp_path / "a.npy", dtype=array.dtype, shape=(None,) * array.ndim, made_by=MAKER)


def test_a_transposed_array_is_saved_as_it_looks(tmp_path: Path) -> None:
    array = np.arange(6.0).reshape(2, 3).T
    save_array(tmp_path / "a.npy", array)
    np.testing.assert_array_equal(load(tmp_path / "a.npy", array), array)


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """The bytes cut, lengthened, or with a flipped bit."""
    flipped = bytearray(whole)
    flipped[draw(st.integers(0, len(whole) - 1))] ^= 1 << draw(st.integers(0, 7))
    cut = whole[: draw(st.integers(0, len(whole) - 1))]
    return draw(st.sampled_from([cut, whole + draw(st.binary(min_size=1, max_size=40)), bytes(flipped)]))


@SAME_FOLDER
@given(
    rows=st.integers(1, 30), columns=st.integers(1, 3), dtype=st.sampled_from(["f4", "f8", "u1", "i8"]), data=st.data()
)
def test_any_cut_or_flipped_bit_of_an_array_is_found(
    tmp_path: Path, rows: int, columns: int, dtype: str, data: st.DataObject
) -> None:
    path = tmp_path / "a.npy"
    save_array(path, np.arange(rows * columns).reshape(rows, columns).astype(dtype))
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    for memory_map in (False, True):
        with pytest.raises(UserError, match=f"cannot use .*a.npy: .*{MAKER}"):
            load_array(path, dtype=dtype, shape=(None, columns), made_by=MAKER, memory_map=memory_map)


def test_a_flipped_length_does_not_take_the_checksum_for_values(tmp_path: Path) -> None:
    """(10, 2) float32 and its 32 bytes of checksum are as long as (14, 2); 0 and 4 differ in one bit."""
    path = tmp_path / "a.npy"
    save_array(path, np.zeros((10, 2), np.float32))
    path.write_bytes(path.read_bytes().replace(b"(10, 2)", b"(14, 2)"))
    with pytest.raises(UserError, match="it has no checksum"):
        load_array(path, dtype="float32", shape=(None, 2), made_by=MAKER)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 5), np.float32), "expected float32 of shape (3, 4), found float32 of shape (3, 5)"),
        (np.zeros((3, 4)), "expected float32 of shape (3, 4), found float64 of shape (3, 4)"),
        (np.zeros(12, np.float32), "found float32 of shape (12,)"),
        (np.full((3, 4), np.nan, np.float32), "it holds NaN or infinity"),
        (np.full((3, 4), -np.inf, np.float32), "it holds NaN or infinity"),
    ],
)
def test_another_shape_dtype_or_value(tmp_path: Path, array: np.ndarray, message: str) -> None:
    path = tmp_path / "a.npy"
    save_array(path, array)
    with pytest.raises(UserError, match=re.escape(message)) as error:
        load_array(path, dtype="float32", shape=(3, 4), made_by=MAKER)
    assert str(path) in str(error.value)
    assert MAKER in str(error.value)


def header(text: str, version: bytes = b"\1\0") -> bytes:
    length = 2 if version == b"\1\0" else 4
    return b"\x93NUMPY" + version + len(text).to_bytes(length, "little") + text.encode()


HEADERS = [
    header("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 1000000000), }\n"),
    header("{'descr': '<f4', 'fortran_order': False, 'shape': (-3,), }\n"),
    header("{'descr': '<f4', 'fortran_order': True, 'shape': (1, 3), }\n") + bytes(12),
    header("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n") + pickle.dumps(print),
    header("{'descr': '<f4', 'fortran_order': False, 'shape': (True,), }\n") + bytes(4),
    header("{'descr': '<f4', 'fortran_order': False, 'shape': (3L,), }\n") + bytes(12),
    header("{'descr': '|V0', 'fortran_order': False, 'shape': (1000000000000000,), }\n"),
    header("{'descr': [('a', '<f4', (1000000000, 1000000000))], 'fortran_order': False, 'shape': (3,), }\n"),
    header("{'descr': '<f4', 'shape': (3,), 5: 6}\n"),
    header("{'descr': '<f4', 'fortran_order': False, 'shape': (9" + "9" * 5000 + ",), }\n"),
    header("{'descr': '<f4', 'fortran_order': False, 'shape': (1125899906842624,), }\n"),
    header("{'descr': '<f4', 'fortran_order': False, 'shape': (1180591620717411303424, 3), }\n"),
    header("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 1180591620717411303424), }\n"),
    header("{'descr': '<f4', 'fortran_order': False, 'shape': (" + "1," * 3000 + "), }\n") + bytes(4),
    header("{'descr': '<f4', 'fortran_order': False, 'shape': (" + "9" * 4000 + "," + "9" * 4000 + "), }\n"),
    header("{'descr': '|V1000000000', 'fortran_order': False, 'shape': (3,), }\n"),
    header("{'descr': '|S12', 'fortran_order': False, 'shape': (1,), }\n") + bytes(12),
    header("(" * 5000),
    header("[" * 9000),
    header("-" * 9000 + "1"),
    header("[" * 900 + "]" * 900),
    header("'\\d'"),
    header("{'descr': 'a,b', 'fortran_order': False, 'shape': (1,), }"),
    header("x" * 100_000, b"\2\0"),
    b"\x93NUMPY\2\0\xff\xff\xff\xff{}",
    b"\x93NUMPY\1\0\xff\xff{}",
    b"\x93NUMPY\3\0\2\0\0\0{}",
    b"\x93NUMPY\x09\0",
    b"\x93NUM",
    b"",
    b"PK\3\4",
    pickle.dumps([1, 2]),
]


@pytest.mark.parametrize("content", HEADERS, ids=range(len(HEADERS)))
def test_absurd_headers_are_refused_without_allocating(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for shape in ((None,), (3,), (1000000000000, 1000000000)):
        with pytest.raises(UserError, match="cannot use"):
            load_array(path, dtype="float32", shape=shape, made_by=MAKER)
    if b"'fortran_order': True" in content or b"(True,)" in content:
        assert read_array(io.BytesIO(content), len(content)).size == 3 ** (b"(1, 3)" in content)
    else:
        with pytest.raises(ValueError) as refused:
            read_array(io.BytesIO(content), len(content))
        assert len(reason(refused.value)) < 200
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


@given(
    shape=st.lists(st.integers(0, 4), max_size=4),
    fortran=st.booleans(),
    dtype=st.sampled_from(["f2", "f4", ">f8", "u1", "i8", "?"]),
)
def test_arrays_of_others_are_read_as_numpy_reads_them(shape: list[int], fortran: bool, dtype: str) -> None:
    array = np.arange(math.prod(shape)).reshape(shape).astype(dtype)
    array = np.asfortranarray(array) if fortran else array
    file = io.BytesIO()
    np.save(file, array)
    for more in (b"", bytes(32)):
        content = file.getvalue() + more
        found = read_array(io.BytesIO(content), len(content))
        assert found.dtype == array.dtype and found.shape == array.shape and np.array_equal(found, array)


def test_a_file_with_a_large_hole_is_refused_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    with path.open("wb") as file:
        content = header("{'descr': '<f4', 'fortran_order': False, 'shape': (250000000000,), }\n")
        file.write(content)
        file.truncate(len(content) + 10**12)
    with pytest.raises(UserError, match="expected float32 of shape"):
        load_array(path, dtype="float32", shape=(3,), made_by=MAKER)


STATE = {"a": torch.arange(5.0), "b": torch.ones(2, 3), "epoch": 3}


def save_small_checkpoint(path: Path) -> bytes:
    save_checkpoint(path, STATE)
    return path.read_bytes()


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "c.pth"
    content = save_small_checkpoint(path)
    for found in (load_checkpoint(path, MAKER), torch.load(path, weights_only=True)):
        assert found.keys() == STATE.keys()
        assert torch.equal(found["a"], STATE["a"])
        assert torch.equal(found["b"], STATE["b"])
    assert save_small_checkpoint(tmp_path / "d.pth") == content  # the same state, the same bytes
    torch.save(STATE, path)  # torch's own file, without our checksum
    assert torch.equal(load_checkpoint(path, MAKER)["a"], STATE["a"])


@SAME_FOLDER
@given(data=st.data())
def test_any_cut_or_flipped_bit_of_a_checkpoint_is_found(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "c.pth"
    path.write_bytes(data.draw(damaged(save_small_checkpoint(path))))
    with pytest.raises(UserError, match=f"cannot use .*c.pth: not a checkpoint that loads safely: .*{MAKER}"):
        load_checkpoint(path, MAKER)


class Hostile:
    """Would write a file if it were unpickled."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.victim),)


def test_hostile_checkpoints_run_nothing(tmp_path: Path) -> None:
    path, victim = tmp_path / "c.pth", tmp_path / "victim"
    for zipped in (True, False):
        torch.save({"a": Hostile(victim)}, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(UserError, match="not a checkpoint that loads safely"):
            load_checkpoint(path, MAKER)
    path.write_bytes(pickle.dumps(Hostile(victim)))
    with pytest.raises(UserError, match="not a checkpoint that loads safely"):
        load_checkpoint(path, MAKER)
    assert not victim.exists()


def test_a_compressed_checkpoint_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(10_000_000))
    with pytest.raises(UserError, match="it announces more bytes than it holds"):
        load_checkpoint(path, MAKER)


METHODS = (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, zipfile.ZIP_DEFLATED)


@pytest.mark.parametrize("method", METHODS)
def test_a_member_that_holds_more_than_it_announces_is_never_unpacked(tmp_path: Path, method: int) -> None:
    """The bound of zipfile's own reader is what is announced, but only after bzip2 or LZMA has unpacked a block."""
    path = tmp_path / "c.pth"
    announce_less(path, "archive/data.pkl", bytes(2**26), method)
    assert path.stat().st_size < 2**17
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"its member archive/data\.pkl is compressed, expected none to be"):
            load_checkpoint(path, MAKER)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_members_of_one_name_are_refused(tmp_path: Path) -> None:
    """Readers differ in which of them they take."""
    with zipfile.ZipFile(tmp_path / "c.pth", "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("archive/data.pkl", b"1")
        archive.writestr("archive/data.pkl", b"2")
    with pytest.raises(UserError, match="two of its members have the same name"):
        load_checkpoint(tmp_path / "c.pth", MAKER)


def test_something_else_than_a_dict_is_refused(tmp_path: Path) -> None:
    torch.save(torch.ones(3), tmp_path / "c.pth")
    with pytest.raises(UserError, match="expected a state_dict"):
        load_checkpoint(tmp_path / "c.pth", MAKER)


@pytest.mark.parametrize(
    "read",
    [
        lambda path: load_array(path, dtype="u1", shape=(1,), made_by=MAKER),
        lambda path: load_checkpoint(path, MAKER),
        lambda path: read_text(path, MAKER),
    ],
)
def test_a_missing_file_names_its_maker_and_a_folder_is_no_file(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    with pytest.raises(UserError, match=f"missing {tmp_path / 'absent'}; first run: {MAKER}"):
        read(tmp_path / "absent")
    with pytest.raises(UserError, match=f"cannot read {tmp_path}: Is a directory"):
        read(tmp_path)


def test_text(tmp_path: Path) -> None:
    save_text(tmp_path / "a" / "t.json", "é\n")
    assert read_text(tmp_path / "a" / "t.json", MAKER) == "é\n"
    (tmp_path / "t").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UserError, match="cannot use"):
        read_text(tmp_path / "t", MAKER)


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "root").write_text("not a folder")
    with pytest.raises(UserError, match=r"cannot write .*root/data/a.npy: .*; make room or change its permissions"):
        save_array(tmp_path / "root" / "data" / "a.npy", np.ones(3))
    assert files_below(tmp_path) == {"root": b"not a folder"}


def test_a_failing_writer_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    save_text(path, "old")

    def write(file: io.BufferedWriter) -> None:
        file.write(b"half of the new")
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="No space left on device; make room"):
        write_whole(path, write)

    def stop(file: io.BufferedWriter) -> None:
        file.write(b"half of the new")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, stop)
    assert files_below(tmp_path) == {"a.txt": b"old"}


WRITERS = {
    "array": lambda path: save_array(path, np.zeros(10_000)),
    "checkpoint": lambda path: save_checkpoint(path, {"a": torch.zeros(10_000)}),
    "text": lambda path: save_text(path, "x" * 10_000),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_leaves_no_half_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "folder" / "file"
    save_text(path, "old")
    line = f"cannot write {path}: File too large; make room or change its permissions, then try again"
    with pytest.raises(UserError, match=f"^{re.escape(line)}$"), largest_file(1000):
        WRITERS[kind](path)
    assert files_below(tmp_path) == {"folder/file": b"old"}


def test_set_aside_never_overwrites(tmp_path: Path) -> None:
    folder = tmp_path / "ga"
    for number in (1, 2, 3):
        save_text(folder / "a.txt", str(number))
        assert set_aside(folder) == tmp_path / f"ga.old_{number}"
    assert files_below(tmp_path) == {f"ga.old_{n}/a.txt": str(n).encode() for n in (1, 2, 3)}
    with pytest.raises(UserError, match=r"cannot set .* aside"):
        set_aside(folder)


def test_sha256_of(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")  # the example of FIPS 180-2
    assert sha256_of(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
