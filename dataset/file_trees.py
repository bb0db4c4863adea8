"""A folder or a zip file as a list of names and a way to read them. Nothing is unpacked.

Links in a folder are followed: the user made them. A zip file may come from a stranger: its names stay within it.
"""

import contextlib
import copy
import os
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from utils.errors import UserError

MAX_FILE_BYTES = 256 * 1024 * 1024  # of one image file
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
MAX_DEPTH = 100  # of folders in folders
MAX_SHOWN = 100  # characters of a name, in a message
MAX_FOLDERS = 100_000  # links that lead to each other can make more of them than anybody has
SYSTEM_FILES = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "__pycache__", "@eadir"}


@dataclass(frozen=True, order=True)
class Entry:
    """A file or a folder."""

    name: str  # its path below the top of the tree, with slashes
    is_folder: bool
    stamp: str  # changes when a file is changed


def is_passed_over(part: str) -> bool:
    """Whether a name is hidden or one that an operating system writes by itself."""
    return part.startswith(".") or part.lower() in SYSTEM_FILES


def list_tree(path: Path) -> list[Entry]:
    """All files and folders below `path`, sorted by name. Raises UserError where it cannot be listed."""
    return sorted(_list_folder(path) if path.is_dir() else _list_archive(path))


@contextlib.contextmanager
def open_tree(path: Path) -> Iterator[Callable[[str], bytes]]:
    """A function from an entry's name to the file's content; it raises ValueError or OSError where there is none."""
    if path.is_dir():
        yield lambda name: _read_file(path / name)
        return
    with zipfile.ZipFile(path) as archive:
        infos = _infos(path, archive)

        yield lambda name: _read_member(archive, infos[name])


def _list_folder(top: Path) -> Iterator[Entry]:
    waiting: list[tuple[Path, str, tuple[tuple[int, int], ...]]] = [(top, "", ())]
    num_folders = 0
    while waiting:
        folder, prefix, above = waiting.pop()
        status = folder.stat()
        here = (status.st_dev, status.st_ino)
        if here in above:
            raise UserError(f"{folder} is a link to a folder that it lies in; remove it")
        num_folders += 1
        if num_folders > MAX_FOLDERS:
            raise UserError(f"{top}: more than {MAX_FOLDERS} folders: expected {{train,test}}/CLASS/IMAGE")
        with os.scandir(folder) as found:
            for entry in found:
                name = f"{prefix}{entry.name}"
                if not _is_folder(entry):
                    yield Entry(name, False, _stamp(Path(entry.path)))
                    continue
                yield Entry(name, True, "")
                if not is_passed_over(entry.name):
                    waiting.append((Path(entry.path), f"{name}/", (*above, here)))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _stamp(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:  # a link to nothing
        return "no file"
    # Folders whose names are exchanged have the same files: the inode tells that they are others.
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ino}"


def _read_file(path: Path) -> bytes:
    if path.is_symlink() and not path.exists():
        raise ValueError("a link to nothing")
    if not path.is_file():  # a pipe would be waited for without end
        raise ValueError("neither a file nor a folder")
    _check_size(path.stat().st_size)
    return path.read_bytes()


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """A member's content; ValueError for more or less than is announced, without unpacking all of what is more."""
    _check_size(info.file_size)
    one_more = copy.copy(info)
    one_more.file_size += 1  # zipfile itself takes the first bytes of more for the whole
    with archive.open(one_more) as file:
        content = file.read(one_more.file_size)  # given a length, it unpacks no more than that
    if len(content) != info.file_size:
        raise ValueError(
            f"{'more' if len(content) > info.file_size else 'less'} than the {info.file_size} bytes announced"
        )
    return content


def _check_size(num_bytes: int) -> None:
    if num_bytes > MAX_FILE_BYTES:
        raise ValueError(f"{num_bytes} bytes, expected at most {MAX_FILE_BYTES}")
    if num_bytes == 0:
        raise ValueError("an empty file")


def _list_archive(path: Path) -> Iterator[Entry]:
    try:
        with zipfile.ZipFile(path) as archive:
            infos = _infos(path, archive)
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as error:
        raise UserError(f"{path} is not a zip file that opens: {error}; make it again") from None
    for name, info in infos.items():
        if info.flag_bits & 1:
            raise UserError(f"{path} is encrypted: expected a zip file without a password; make it again")
        if info.compress_type not in METHODS:  # what unpacks others ignores a bound of its output
            method = getattr(zipfile, "compressor_names", {}).get(info.compress_type, f"method {info.compress_type}")
            raise UserError(
                f"{path}: {info.filename[:MAX_SHOWN]!r} is packed by {method}: expected deflate or none; make it again"
            )
        is_folder = info.filename.endswith(("/", "\\"))
        yield Entry(name, is_folder, "" if is_folder else f"{info.file_size} {info.CRC}")


def _infos(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The members by their names with slashes, whichever way the program that packed them writes them.

    Of two with one name the last counts, as it does when the archive is unpacked.
    """
    infos = {}
    for info in archive.infolist():
        name, shown = PurePosixPath(info.filename.replace("\\", "/")), info.filename[:MAX_SHOWN]
        if name.is_absolute() or ".." in name.parts or re.match("[A-Za-z]:", str(name)):
            raise UserError(f"{path}: the name {shown!r} leads out of it: expected {{train,test}}/CLASS/IMAGE")
        if len(name.parts) > MAX_DEPTH:
            raise UserError(
                f"{path}: {shown!r} lies in more than {MAX_DEPTH} folders: expected {{train,test}}/CLASS/IMAGE"
            )
        if name.parts:
            infos[str(name)] = info
    return infos
