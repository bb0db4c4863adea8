"""Room on the disk, checked before work is spent on files that would not fit."""

import shutil
from pathlib import Path

from utils.errors import UserError


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
