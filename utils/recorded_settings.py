"""What a folder's files were made with stands beside them, so that those of two makings are never mixed quietly."""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from dataset.datasets import Images
from utils.artifacts import Artifacts
from utils.checked_text import json_text, load_json
from utils.errors import UserError
from utils.files import create_text, sha256_of


def agree_on(path: Path, settings: dict[str, Any], *, again: str) -> None:
    """Write the settings to `path`, or compare them with those that are there; also where many start at once.

    Raises UserError listing the differences where the folder's files were made with others, or where it has arrays or
    checkpoints and lost the settings; `again` is the command that sets them aside.
    """
    # Looked for first: whoever wrote one had written the settings before.
    made = (file for pattern in ("*.npy", "*.pth") for file in path.parent.glob(pattern))
    found = next((file for file in made if file.is_file()), None)
    if found and not path.exists():
        raise UserError(f"missing {path}: nobody knows what {found.name} was made with; set it aside with: {again}")
    settings = json.loads(json.dumps(settings))  # lists in place of tuples, as they come back
    if not path.exists() and create_text(path, json_text(settings)):
        return
    if different := differences(load_json(path, again), settings):
        raise UserError(
            f"{path.parent} was made with other settings ({different}): "
            f"use the same, or set the old one aside with: {again}"
        )


def check_importance_fits(artifacts: Artifacts) -> str:
    """The strong model's SHA-256. Raises UserError where the kernels' importance is known to be another one's."""
    path, made_by = artifacts.importance_settings, artifacts.kernel_importance.made_by
    now = sha256_of(artifacts.entire_model.path)
    if path.exists() and (there := load_json(path, made_by).get("strong_model_sha256")) != now:
        raise UserError(
            f"{path.parent} is of another strong model (SHA-256 {there} there, {now} now): "
            f"make it again with: {made_by}"
        )
    return now


def differences(there: dict[str, Any], now: dict[str, Any]) -> str:
    """What differs, setting by setting, for an error message; empty where nothing does."""
    names = [*now, *(name for name in there if name not in now)]
    absent = "none"
    return "; ".join(
        f"{name}: {there.get(name, absent)} there, {now.get(name, absent)} now"
        for name in names
        if there.get(name, absent) != now.get(name, absent)
    )


def fingerprint(images: Images) -> int:
    """A checksum (CRC-32) of images and labels."""
    return zlib.crc32(images.labels.tobytes(), zlib.crc32(np.ascontiguousarray(images.pixels)))
