"""Files between stages: written whole or not at all, checked when they are read, never pickled.

Every file is written beside its place and renamed, so a file that is there is whole. A `.npy` file ends with a SHA-256
of the bytes before, which `np.load` ignores. A checkpoint, which is a zip file, has it as the archive's comment, which
`torch.load` ignores.
"""

import contextlib
import errno
import hashlib
import io
import math
import os
import secrets
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
import torch

from utils.errors import DamagedFile, MissingFile, UserError, reason

DIGEST_BYTES = hashlib.sha256().digest_size
PIECE_BYTES = 2**20  # hashed at a time
MAX_AXES, MAX_VALUES = 32, 2**60  # of an array in a file
NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)  # errors of file systems without them
ZIP_END, ZIP_END_BYTES = b"PK\5\6", 22  # a zip file's last record, which ends with the length of its comment


def write_whole(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Let `write` fill a file beside `path`, then rename it to `path`. Raises UserError where that cannot be done."""
    with _written_beside(path, write) as partial:
        partial.replace(path)


def create_text(path: Path, text: str) -> bool:
    """Write a text file whole and return True; False where it is there already.

    Raises UserError where it cannot be written.
    """
    with _written_beside(path, lambda file: file.write(text.encode())) as partial:
        try:
            path.hardlink_to(partial)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in NO_HARD_LINKS:
                raise
            try:  # exclusive too, but a reader may see the file half written
                with path.open("xb") as file:
                    file.write(text.encode())
            except FileExistsError:
                return False
    return True


@contextlib.contextmanager
def _written_beside(path: Path, write: Callable[[BinaryIO], Any], said: Path | None = None) -> Iterator[Path]:
    """A whole file next to `path`, which the block renames or links; removed afterwards.

    Raises UserError on failure, of `said` where it is given.
    """
    # A random name: processes on two machines, or in two containers, may have the same number.
    partial = path.with_name(f".{path.name}.{secrets.token_hex(6)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        yield partial
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as a RuntimeError
        raise UserError(
            f"cannot write {said or path}: {reason(error)}; make room or change its permissions, then try again"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def remove_leftovers(pattern: Path, *, age: float | None = None) -> None:
    """Remove half-written files of killed processes, of names that match `pattern`, for example `ga/gen_*_exp_3_*`.

    Only the one process that may write these files may call this; others give the `age` in seconds since the last
    change from which no process can be writing a file.
    """
    for leftover in pattern.parent.glob(f".{pattern.name}.*.partial"):
        with contextlib.suppress(OSError):
            if age is None or time.time() - leftover.stat().st_mtime > age:
                leftover.unlink(missing_ok=True)


def check_writable(folder: Path) -> None:
    """Raises UserError where nothing can be written in a folder; one that is not there is not there afterwards."""
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        with _written_beside(folder / "writable", lambda file: file.write(b"yes"), folder):
            pass  # never renamed, so no file of the user is replaced
    finally:
        for each in made:
            with contextlib.suppress(OSError):  # another process may write in it already
                each.rmdir()


def save_text(path: Path, text: str) -> None:
    """Write a text file whole."""
    write_whole(path, lambda file: file.write(text.encode()))


def read_text(path: Path, made_by: str) -> str:
    """A text file's content. Raises UserError where it is missing or not text."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise missing(path, made_by) from None
    except OSError as error:
        raise unreadable(path, error) from None
    except UnicodeDecodeError as error:
        raise damaged(path, made_by, str(error)) from None


def save_array(path: Path, array: np.ndarray) -> None:
    """Write an array as `.npy`, its SHA-256 behind it; one that is memory-mapped is not held in memory."""

    def write(file: BinaryIO) -> None:
        hashing = _Hashing(file)
        # Refuses arrays of objects, which NumPy would pickle otherwise.
        np.lib.format.write_array(hashing, np.ascontiguousarray(array), allow_pickle=False)
        file.write(hashing.digest.digest())

    write_whole(path, write)


class _Hashing:
    """A file whose content is hashed while it is written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.digest = file, hashlib.sha256()

    def write(self, piece: bytes) -> int:
        """Write the next bytes."""
        self.digest.update(piece)
        return self._file.write(piece)


def load_array(
    path: Path,
    *,
    dtype: Any,
    shape: tuple[int | None, ...],
    made_by: str,
    memory_map: bool = False,
    is_compared: bool = False,
) -> np.ndarray:
    """The array in `path`, checked.

    Args:
        path: a `.npy` file with the SHA-256 that `save_array` puts behind it, or without, if all of `shape` is given.
        dtype: what it must hold.
        shape: what it must measure; None = any length along that axis.
        made_by: the command that makes the file, for the error message.
        memory_map: leave the values on disk after comparing the checksum; NaN and infinity are not looked for then.
        is_compared: of a memory map: its checksum was compared since it was written, and need not be again.

    Raises UserError where the file is missing, is not such an array, holds NaN or infinity, or was changed.
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            found_shape, found_dtype, is_transposed = read_array_header(file, size)
            fits = (
                not is_transposed
                and len(found_shape) == len(shape)
                and all(e in (None, f) for e, f in zip(shape, found_shape, strict=True))
            )
            if found_dtype != np.dtype(dtype) or not fits:
                wanted = tuple("any" if length is None else length for length in shape)
                raise ValueError(
                    f"expected {np.dtype(dtype).name} of shape {wanted}, "
                    f"found {found_dtype.name} of shape {found_shape}{' in Fortran order' if is_transposed else ''}"
                )
            offset = file.tell()
            num_bytes = math.prod(found_shape) * found_dtype.itemsize
            num_more = size - offset - num_bytes
            if num_more not in (0, DIGEST_BYTES):
                raise ValueError(f"{num_bytes} bytes of values announced, {num_bytes + num_more} there")
            if not num_more and None in shape:  # a changed length in the header could take the checksum for values
                raise ValueError("it has no checksum")
            file.seek(0)
            if memory_map and is_compared:
                return np.memmap(path, found_dtype, "r", offset, found_shape)
            if memory_map:
                digest = _digest_of(file, offset + num_bytes)
            else:
                content = file.read(offset + num_bytes)
                digest = hashlib.sha256(content).digest()
            if num_more and file.read() != digest:
                raise ValueError("its checksum does not match")
            if memory_map:
                return np.memmap(path, found_dtype, "r", offset, found_shape)
            values = np.frombuffer(content, found_dtype, offset=offset).reshape(found_shape).copy()
    except FileNotFoundError:
        raise missing(path, made_by) from None
    except OSError as error:
        raise unreadable(path, error) from None
    except (ValueError, OverflowError, MemoryError) as error:
        raise damaged(path, made_by, reason(error)) from None
    if found_dtype.kind == "f" and not np.isfinite(values).all():
        raise damaged(path, made_by, "it holds NaN or infinity")
    return values


def _digest_of(file: BinaryIO, num_bytes: int) -> bytes:
    """The SHA-256 of the next bytes, a piece at a time."""
    digest = hashlib.sha256()
    while num_bytes and (piece := file.read(min(num_bytes, PIECE_BYTES))):
        digest.update(piece)
        num_bytes -= len(piece)
    return digest.digest()


def stored_digest(file: IO[bytes]) -> bytes:
    """The SHA-256 that `save_array` put behind an array. Raises OSError where the file is shorter than that."""
    file.seek(-DIGEST_BYTES, os.SEEK_END)
    return file.read()


def read_array(file: IO[bytes], size: int) -> np.ndarray:
    """The array in `.npy` format that anybody may have made; what follows its values is ignored.

    Args:
        file: at its start; a file, or a member of an archive.
        size: of the file, in bytes, which bounds what is allocated.

    Raises:
        ValueError: it is no array of plain numbers, or is shorter than its header announces.
    """
    shape, dtype, is_transposed = read_array_header(file, size)
    content = file.read(math.prod(shape) * dtype.itemsize)
    return np.frombuffer(content, dtype).reshape(shape, order="F" if is_transposed else "C").copy()


def read_array_header(file: IO[bytes], size: int) -> tuple[tuple[int, ...], np.dtype, bool]:
    """Shape, dtype and whether the order is Fortran's, of an array in a `.npy` file whose values are all there.

    Checked before anything is allocated: an absurd header must not exhaust memory. Raises ValueError.
    """
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"unknown .npy version {version}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a header that Python must guess at is not one that we wrote
            shape, fortran_order, dtype = readers[version](file)
    except Exception as error:  # it is parsed as Python's literals: a damaged one raises nearly anything
        raise ValueError(f"its header cannot be read: {reason(error):.100}") from None
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be loaded when allow_pickle=False")  # NumPy's own words
    if dtype.kind not in "biufc":
        raise ValueError(f"expected an array of plain numbers, found {dtype.name}")
    if len(shape) > MAX_AXES or any(length < 0 for length in shape):
        raise ValueError(f"expected at most {MAX_AXES} axes, none of a negative length")
    if math.prod(length for length in shape if length) > MAX_VALUES:
        raise ValueError("it announces more values than any file has")
    announced, there = math.prod(shape) * dtype.itemsize, size - file.tell()
    if announced > there:
        raise ValueError(f"{announced:,} bytes of values announced, {there:,} there")
    return tuple(map(int, shape)), dtype, bool(fortran_order)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a dict of tensors and plain values, so that it loads with `weights_only=True`."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()[:-2] + DIGEST_BYTES.to_bytes(2, "little")
    write_whole(path, lambda file: file.write(content + hashlib.sha256(content).digest()))


def load_checkpoint(path: Path, made_by: str) -> dict[str, Any]:
    """The dict in a checkpoint, on the CPU; nothing in it is executed.

    Raises UserError where it is missing or damaged.
    """
    try:
        content = path.read_bytes()
        # torch's own files have no comment, and so no digest.
        has_digest = content[-ZIP_END_BYTES:][: len(ZIP_END)] != ZIP_END
        if has_digest and hashlib.sha256(memoryview(content)[:-DIGEST_BYTES]).digest() != content[-DIGEST_BYTES:]:
            raise ValueError("its checksum does not match")
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            check_archive(archive, len(content))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's words on what a hostile file asks of it
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise missing(path, made_by) from None
    except OSError as error:
        raise unreadable(path, error) from None
    except Exception as error:  # whatever a damaged or hostile file makes zipfile and torch raise
        raise damaged(path, made_by, f"not a checkpoint that loads safely: {reason(error)[:120]}") from None
    if not isinstance(state, dict):
        raise damaged(path, made_by, "expected a state_dict")
    return state


def check_archive(archive: zipfile.ZipFile, size: int) -> None:
    """Raises ValueError for a zip file that is damaged, or that could exhaust memory: torch and NumPy compress nothing.

    Checksums are compared, which torch itself does not.

    Args:
        archive: of a checkpoint, or of arrays.
        size: of the file, in bytes.
    """
    infos = archive.infolist()
    if sum(info.file_size for info in infos) > size:
        raise ValueError("it announces more bytes than it holds")
    if len({info.filename for info in infos}) < len(infos):
        raise ValueError("two of its members have the same name")
    for info in infos:  # before anything is unpacked: a compressed member can be larger than it is announced to be
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise ValueError(f"its member {info.filename} is compressed, expected none to be")
    if archive.testzip() is not None:
        raise ValueError("its checksum does not match")


def is_foreign_checkpoint(path: Path) -> bool:
    """Whether a file ends as a zip file without our checksum: a whole one that `save_checkpoint` did not write."""
    try:
        with path.open("rb") as file:
            file.seek(-min(ZIP_END_BYTES, path.stat().st_size), os.SEEK_END)
            return file.read(len(ZIP_END)) == ZIP_END
    except OSError:
        return False


def missing(path: Path, made_by: str) -> MissingFile:
    """The error for a file that an earlier stage has not made yet."""
    return MissingFile(f"missing {path}; first run: {made_by}")


def unreadable(path: Path, error: OSError) -> UserError:
    """The error for a file that cannot be read now, and may be whole."""
    return UserError(f"cannot read {path}: {reason(error)}; fix that and try again")


def damaged(path: Path, made_by: str, reason: str) -> DamagedFile:
    """The error for a file whose content is not what its stage writes."""
    return DamagedFile(f"cannot use {path}: {reason}; set it aside and make it again with: {made_by}")


def sha256_of(path: Path) -> str:
    """The hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return _digest_of(file, path.stat().st_size).hex()


def set_aside(path: Path) -> Path:
    """Rename a file or folder to the first free `NAME.old_N` beside it, and return that; nothing is deleted."""
    number = 1
    while (target := path.with_name(f"{path.name}.old_{number}")).exists():
        number += 1
    try:
        path.rename(target)
    except OSError as error:
        raise UserError(f"cannot set {path} aside: {reason(error)}; fix its folder's permissions") from None
    return target
