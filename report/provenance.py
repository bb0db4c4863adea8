"""Where a report's numbers come from: settings, seeds, versions, machine, commands and times."""

import dataclasses
import importlib.metadata
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from configures.base import Config

PACKAGES = ("torch", "torchvision", "numpy", "matplotlib", "seaborn", "scikit-learn")


@dataclass(frozen=True)
class StageRun:
    """One stage: the command that runs it, and a file that is there once it has."""

    name: str
    command: str
    file: Path
    seconds: float | None = None  # where its log tells


def stage_rows(stages: Sequence[StageRun]) -> list[tuple[str, str, str, str]]:
    """Stage, command, when it ended, how long it took."""
    rows = []
    for stage in stages:
        took = duration(stage.seconds) if stage.file.exists() or stage.seconds is not None else ""
        rows.append((stage.name, f"`{stage.command}`", ended(stage.file), took))
    return rows


def ended(file: Path) -> str:
    """When a file was written, or that it is not there."""
    try:
        written = datetime.fromtimestamp(file.stat().st_mtime, timezone.utc)
    except (OSError, ValueError, OverflowError):
        return "not run yet"
    return f"{written:%Y-%m-%d %H:%M} UTC"


def duration(seconds: float | None) -> str:
    """A time as people say it."""
    if seconds is None:
        return "not recorded"
    if not 0 <= seconds < 1e9:
        return "unknown"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def setting_rows(config: Config) -> list[tuple[str, str, str, str]]:
    """Setting, its value, the published default (where it differs), what it does."""
    rows = []
    for setting in dataclasses.fields(config):
        value = getattr(config, setting.name)
        default = "" if setting.default in (dataclasses.MISSING, value) else _said(setting.default)
        rows.append((setting.name, _said(value), default, setting.metadata.get("sentence", "")))
    return rows


def _said(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(":".join(map(str, v)) if isinstance(v, tuple) else str(v) for v in value) or "none"
    return str(value) if value != "" else "none"


def machine_rows() -> list[tuple[str, str]]:
    """The machine and the versions that this process runs with."""
    rows = [
        ("Python", platform.python_version()),
        *((package, importlib.metadata.version(package)) for package in PACKAGES),
        ("system", f"{platform.system()} {platform.release()}, {platform.machine()}"),
        ("processor", processor()),
        ("cores", str(os.cpu_count())),
    ]
    return rows


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"
