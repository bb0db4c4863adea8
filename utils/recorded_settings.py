"""What a folder's files were made with stands beside them, so that those of two makings are never mixed quietly."""

import json
from typing import Any

from utils.artifacts import JsonFile
from utils.checked_text import json_text
from utils.errors import UserError
from utils.files import create_text
from utils.locks import keep_there


def record_or_compare(file: JsonFile, settings: dict[str, Any]) -> None:
    """Write the settings, or compare them with those that are there; also where many processes start at once.

    Raises UserError listing the differences where the folder's files were made with others, or where it has arrays or
    checkpoints and lost the settings. While this process holds a lock it writes the file again if somebody removes it:
    see `utils.locks.keep_there`. The file's `made_by` is the command that sets the folder aside.
    """
    # Looked for first: whoever wrote one had written the settings before.
    made = (found for pattern in ("*.npy", "*.pth") for found in file.path.parent.glob(pattern))
    found = next((found for found in made if found.is_file()), None)
    if found and not file.exists():
        raise UserError(
            f"missing {file.path}: nobody knows what {found.name} was made with; set it aside with: {file.made_by}"
        )
    settings = json.loads(json.dumps(settings))  # lists instead of tuples, as they come back
    is_new = not file.exists() and create_text(file.path, json_text(settings))
    if not is_new and (different := differences(file.load(), settings)):
        raise UserError(
            f"{file.path.parent} was made with other settings ({different}): "
            f"use the same, or set the old one aside with: {file.made_by}"
        )
    keep_there(file.path, lambda: file.save(settings))


def differences(there: dict[str, Any], now: dict[str, Any]) -> str:
    """What differs, setting by setting, for an error message; empty where nothing does."""
    names = [*now, *(name for name in there if name not in now)]
    absent = "none"
    return "; ".join(
        f"{name}: {there.get(name, absent)} there, {now.get(name, absent)} now"
        for name in names
        if there.get(name, absent) != now.get(name, absent)
    )
