"""What a folder's files were made with stands beside them, so that those of two makings are never mixed quietly."""

import contextlib
import json
from collections.abc import Mapping
from typing import Any

from configures.base import KINDS, renamed
from configures.setting import SettingError, check_value
from utils.artifacts import JsonFile, json_text
from utils.errors import UserError
from utils.files import create_text
from utils.locks import keep_there


def record_or_compare(file: JsonFile, settings: dict[str, Any], configured: dict[str, Any] | None = None) -> None:
    """Write the settings, or compare them with those that are there; also where many processes start at once.

    The settings of the configuration that they follow from (`configured`) are written, too, and not compared.

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
    record = settings if configured is None else {**settings, "configured": configured}
    is_new = not file.exists() and create_text(file.path, json_text(record))
    there = settings if is_new else {name: value for name, value in file.load().items() if name != "configured"}
    if different := differences(there, settings):
        raise UserError(
            f"{file.path.parent} was made with other settings ({different}): "
            f"use the same, or set the old one aside with: {file.made_by}"
        )
    keep_there(file.path, lambda: file.save(record))


def differences(there: dict[str, Any], now: dict[str, Any]) -> str:
    """What differs, setting by setting, for an error message; empty where nothing does."""
    there = renamed(there)
    names = [*now, *(name for name in there if name not in now)]
    absent = "none"
    return "; ".join(
        f"{name}: {there.get(name, absent)} there, {now.get(name, absent)} now"
        for name in names
        if there.get(name, absent) != now.get(name, absent)
    )


def configured_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration's settings among recorded values, with tuples as the configuration has them.

    Values that a setting cannot have are left out.
    """
    found = {}
    content = renamed(content)
    for name in filter(KINDS.__contains__, content):
        with contextlib.suppress(SettingError):
            value = _as_setting(content[name])
            check_value(name, value, KINDS[name])
            found[name] = value
    return found


def _as_setting(value: Any) -> Any:
    return tuple(map(_as_setting, value)) if isinstance(value, list) else value
