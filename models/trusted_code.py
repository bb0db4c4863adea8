"""Which Python files of users may run although the user does not name them: those that ran on this machine before.

A network's name comes from the user, who names it on the command line or in a configuration, or from a file between
stages, which may be a stranger's. What the user names may run; the SHA-256 of every file that runs then is recorded,
in a file of the user's own that no data folder brings along. A name from a file runs what is recorded, nothing else.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

import global_configure
from utils.errors import UserError, reason
from utils.progress import say

Entry = tuple[str, str, str]  # SHA-256 of a file, the function that was called in it or "", and the file's path


class NotTrusted(UserError):
    """Code that the user did not name, and that did not run on this machine before."""


def entry_of(path: Path, content: bytes, function: str = "") -> Entry:
    """What is recorded of a file, or of a file whose function is called."""
    return hashlib.sha256(content).hexdigest(), function, str(path)


def check_trusted(entry: Entry, how: str) -> None:
    """Raises NotTrusted, which says how to name a network, for a file that did not run on this machine before."""
    sha256, function, path = entry
    recorded = _recorded()
    if any(each[:2] == (sha256, function) for each in recorded):
        return
    what = "has changed since it" if any(each[2] == path for each in recorded) else "is Python code that never"
    raise NotTrusted(
        f"{path} {what} ran on this machine, and its name comes from a file, not from you: read it, and where you "
        f"trust it, name the network once: {how}"
    )


def record(entries: Iterable[Entry]) -> None:
    """Remember that files ran, because the user named their network."""
    new = sorted(set(entries) - _recorded())
    if not new:
        return
    file = _file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "w", encoding="utf-8") as record:
            record.write("".join(f"{json.dumps(entry)}\n" for entry in new))
    except OSError as error:
        say(f"{file} cannot be written ({reason(error)}): later stages have to be told the network, too")


def _recorded() -> set[Entry]:
    try:
        lines = _file().read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    return {entry for line in lines if (entry := _entry(line)) is not None}


def _entry(line: str) -> Entry | None:
    """The entry of a line; None where it is damaged, as by a full disk."""
    try:
        sha256, function, path = json.loads(line)
    except (ValueError, TypeError):
        return None
    return (sha256, function, path) if all(isinstance(each, str) for each in (sha256, function, path)) else None


def _file() -> Path:
    return Path(global_configure.config_dir) / "networks_that_ran.jsonl"
