"""A block that may not write outside of a folder, start a program, open a connection, or take a GiB of memory."""

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

MORE_MEMORY = 2**30  # bytes of address space beyond what the process has
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate", "os.chmod")
PROGRAMS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect")
_BLOCKS: list[tuple[Path, list[str]]] = []  # the folders of the blocks that are open, and what was done elsewhere


@contextmanager
def confined(folder: Path) -> Iterator[None]:
    """Raises AssertionError at the end of the block if it did one of these, MemoryError within it."""
    folder, elsewhere = folder.resolve(), list[str]()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    _BLOCKS.append((folder, elsewhere))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", True)
        if (statm := Path("/proc/self/statm")).exists():
            now = int(statm.read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (now + MORE_MEMORY, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, limits)
            _BLOCKS.pop()
    assert not elsewhere, elsewhere


def _watch(event: str, values: tuple[Any, ...]) -> None:
    if not _BLOCKS:
        return
    folder, elsewhere = _BLOCKS[-1]
    if event in PROGRAMS:
        elsewhere.append(f"{event} {values!r}")
    elif event in CHANGES or (event == "open" and isinstance(values[2], int) and values[2] & WRITES):
        path = values[0]
        if isinstance(path, int) or os.fsdecode(path) == os.devnull:
            return
        if not f"{os.path.realpath(os.fsdecode(path))}{os.sep}".startswith(f"{folder}{os.sep}"):
            elsewhere.append(f"{event} {path!r}")


sys.addaudithook(_watch)
