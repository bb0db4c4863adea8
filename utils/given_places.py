"""Room for files, and files whose place a user names: nothing that this project did not write is replaced."""

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from utils.errors import UserError, reason
from utils.files import check_writable


def check_place(option: str, path: Path, is_ours: Callable[[Path], bool], inputs: Iterable[Path] = ()) -> None:
    """Raises UserError where a file must not, or cannot, be written.

    Args:
        option: of the command line, for the message.
        path: where the file is to be written.
        is_ours: whether a file that is there carries the mark of this option's files.
        inputs: files that this command reads.
    """
    for given in inputs:
        if _is_same(path, given):
            raise UserError(f"{option}: {path} is an input of this command; give another name")
    if path.is_symlink():
        raise UserError(f"{option}: {path} is a link; give the name of a file")
    if path.exists() and not (path.is_file() and is_ours(path)):
        what = "a folder" if path.is_dir() else "not a file that this option wrote"
        raise UserError(f"{option}: {path} is there, and is {what}: give another name, or move it away")
    check_writable(path.parent)


def check_places_differ(option: str, paths: Iterable[Path]) -> None:
    """Raises UserError for a file that is to be written twice."""
    seen: set[Path] = set()
    for path in paths:
        place = path.parent.resolve() / path.name
        if place in seen:
            raise UserError(f"{option}: {path} is written twice; give every file a name of its own")
        seen.add(place)


@contextlib.contextmanager
def written_aside(folder: Path) -> Iterator[Path]:
    """A temporary folder inside `folder`; the files in it move to `folder` when the block ends without an error.

    So files appear whole, under their names, and after whatever the block checks. Raises UserError where files cannot
    be written.
    """
    aside = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".", suffix=".partial", dir=folder))
        yield aside
        for file in sorted(path for path in aside.iterdir() if path.is_file()):
            file.replace(folder / file.name)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {reason(error)}; make room or change its permissions") from None
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)


def _is_same(path: Path, other: Path) -> bool:
    if path.exists() and other.exists():
        return path.samefile(other)
    return path.resolve() == other.resolve()


def check_room(folder: Path, needed: int, advice: str) -> None:
    """Raises UserError, with the advice, where the disk of `folder` has less than `needed` bytes free."""
    free = free_bytes(folder)
    if free < needed:
        raise UserError(f"{folder}: {readable(needed)} are needed, {readable(free)} are free: {advice}, or make room")


def free_bytes(folder: Path) -> int:
    """What is free on the disk of a folder, which need not be there yet."""
    standing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return shutil.disk_usage(standing).free


def readable(num_bytes: int) -> str:
    """A number of bytes for people."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{-(-num_bytes // 2**10)} KiB"
