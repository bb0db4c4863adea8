"""Where a report's numbers come from: commands and times, seeds, versions, machine, settings."""

import dataclasses
import importlib.metadata
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from configures.base import Config
from models import files as model_files
from models.training import Epoch
from modules import files as module_files
from patching import files as patch_files
from patching.weak_models import WeakKind
from report.data import ReportData
from report.page import Block, Note, Table
from report.words import duration
from search.methods import METHODS
from utils.errors import UserError

PACKAGES = ("torch", "torchvision", "numpy", "matplotlib", "seaborn", "scikit-learn")
SEARCH_SETTINGS = {
    "seed of the search": "seed",
    "precision of the search": "precision",
    "strong model of the search, SHA-256": "strong_model_sha256",
}

StageRow = tuple[str, str, str, str]  # name, command, when it ended, how long it took


def provenance_blocks(data: ReportData) -> Iterator[Block]:
    """Settings, seeds, versions, machine, commands and times."""
    yield Table(
        "Stages: the command of each, without the options given to it; when it ended and how long it took, as far "
        "as its log tells.",
        ("stage", "command", "ended", "took"),
        [*stage_rows(data), *weak_rows(data)],
    )
    rows = [
        ("seed now", str(data.stage.seed)),
        ("device and precision now", f"{data.stage.device}, {data.stage.precision}"),
    ]
    damage = []
    try:
        settings = data.settings_of_modules
        rows += [(name, str(settings.get(key, "not recorded"))) for name, key in SEARCH_SETTINGS.items()]
        if module_files.report(data.artifacts).exists() and (
            mixed := data.modularization.search.get("mixed_processors")
        ):
            rows.append(("processors of the search: mixed, so the last bits of its outputs may differ", str(mixed)))
    except UserError as error:
        damage.append(Note(str(error)))
    caption = "Seeds, and the versions and machine that made this report."
    yield Table(caption, ("what", "value"), [*rows, *machine_rows()])
    yield from damage
    yield Table(
        f"All settings of `configures/{data.config.name}.py`, with `--set` as given to the report.",
        ("setting", "value", "default, where it differs", "what it does"),
        setting_rows(data.config),
        folded=True,
    )


def stage_rows(data: ReportData) -> list[StageRow]:
    """The stages from the strong model to the modules' outputs that have run."""
    artifacts = data.artifacts
    last_layer, last_class = list(data.layer_names)[-1], data.config.num_classes - 1
    # Two searches write the modules: the command is that of theirs.
    search = artifacts.command(METHODS[data.method].script or "scripts/run_module_search.py")
    searched = dataclasses.replace(module_files.report(artifacts), made_by=search)
    stages = (
        ("training", model_files.entire_model(artifacts), lambda: _sum(data.history)),
        ("kernel importance", module_files.kernel_importance(artifacts), lambda: _importance_seconds(data)),
        ("layer sensitivity", module_files.layer_sensitivity(artifacts, last_layer), lambda: None),
        (f"{data.method} search", searched, lambda: data.modularization.search.get("seconds")),
        ("module outputs", module_files.module_outputs(artifacts, last_class), lambda: None),
    )
    return [_row(name, file.made_by, file.path, seconds) for name, file, seconds in stages if file.exists()]


def weak_rows(data: ReportData) -> Iterator[StageRow]:
    """Training and patching of either kind of weak model, as far as they have run, and of the user's own."""
    artifacts = data.artifacts
    for kind in WeakKind if data.config.weak_classes else ():
        command = patch_files.weak_model_command(artifacts, kind, 0).replace("--target_class 0", "--target_class all")
        logs = [patch_files.weak_model_log(artifacts, kind, c) for c in range(data.config.num_classes)]
        there = [log for log in logs if log.exists()]
        if there:
            seconds = lambda there=there: sum(_sum(log.load()) for log in there)  # noqa: E731
            yield _row(f"{kind.words} models", command, there[-1].path, seconds)
        reports = [file.path for file in patch_files.reports(artifacts, kind)]
        if reports:
            name, command = f"patching {kind.words} models", patch_files.patch_command(artifacts, kind)
            yield _row(name, command, _newest(reports), lambda: None)
    if own := patch_files.own_reports(artifacts):
        newest = _newest([file.path for file in own])
        yield _row("patching your own models", own[0].made_by, newest, lambda: _own_seconds(data))


def _row(name: str, command: str, file: Path, seconds: Callable[[], Any]) -> StageRow:
    """A stage that has run; `seconds` gives None, or raises UserError, where they are not recorded."""
    try:
        took = seconds()
    except UserError:
        took = None
    return name, f"`{command}`", _ended(file), duration(took if isinstance(took, int | float) else None)


def _sum(rows: Sequence[Epoch]) -> float:
    return sum(row.seconds for row in rows)


def _importance_seconds(data: ReportData) -> Any:
    return module_files.importance_settings(data.artifacts).load().get("seconds")


def _own_seconds(data: ReportData) -> float | None:
    known = [own.seconds for own in data.own_patches if own.seconds is not None]
    return sum(known) if known else None


def _newest(paths: Sequence[Path]) -> Path:
    return max(paths, key=lambda path: path.stat().st_mtime)


def _ended(file: Path) -> str:
    try:
        written = datetime.fromtimestamp(file.stat().st_mtime, timezone.utc)
    except (OSError, ValueError, OverflowError):
        return "unknown"
    return f"{written:%Y-%m-%d %H:%M} UTC"


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
    return [
        ("Python", platform.python_version()),
        *((package, importlib.metadata.version(package)) for package in PACKAGES),
        ("system", f"{platform.system()} {platform.release()}, {platform.machine()}"),
        ("processor", _processor()),
        ("cores", str(os.cpu_count())),
    ]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"
