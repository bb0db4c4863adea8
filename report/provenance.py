"""Where a report's numbers come from: commands and times, seeds, versions, machine, settings."""

import contextlib
import dataclasses
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from configures.base import Config
from models import files as model_files
from models.training import best_epoch
from modules import files as module_files
from patching import files as patch_files
from patching.on_disk import load_report
from patching.weak_models import WeakKind
from report.data import ReportData
from report.made_with import (
    IMPORTANCE,
    SENSITIVITY,
    TRAINING,
    MadeWith,
    dict_in,
    last_step,
    of_network,
    script_of,
    set_in_words,
)
from report.page import Block, Note, Table
from report.words import duration
from search.methods import METHODS
from utils.artifacts import Artifacts
from utils.device import machine_facts
from utils.errors import MissingFile, UserError

PACKAGES = ("torch", "torchvision", "numpy", "matplotlib", "seaborn", "scikit-learn")
SEARCH_SETTINGS = {
    "seed of the search": "seed",
    "precision of the search": "precision",
    "strong model of the search, SHA-256": "strong_model_sha256",
}
# What decides which images a patch is fitted and judged on.
OF_PATCHING = ("weak_model", "weak_classes", "weak_train_images", "weak_target_images", "weak_test_images")
REPORT_NAME = re.compile(r"patch_(.+)_epoch_(\d+)_(\w+)")

StageRow = tuple[str, str, str, str]  # name, command, when it ended, how long it took


def provenance_blocks(data: ReportData) -> Iterator[Block]:
    """Settings, seeds, versions, machine, commands and times."""
    yield Table(
        "The commands that made these files, with every setting that differs from the configuration file, and with the "
        "seed and precision where they are not 0 and float32. Run in this order, on the same images and in an empty "
        "root_dir, they reproduce the results.",
        ("stage", "command", "ended", "took"),
        [*stage_rows(data), *weak_rows(data)],
    )
    now = f"{data.stage.device}, {data.stage.precision}"
    rows = [("seed now", str(data.stage.seed)), ("device and precision now", now)]
    damage = [Note(text) for text in data.damaged_records]
    try:
        search, made_with = data.record.search, data.record.made_with
    except UserError as error:
        damage += [] if isinstance(error, MissingFile) else [Note(str(error))]
    else:
        settings = dict_in(search, "settings")
        rows += [(name, str(settings.get(key, "not recorded"))) for name, key in SEARCH_SETTINGS.items()]
        rows += [(f"{name} of the module set", str(value)) for name, value in made_with.items()]
        if mixed := search.get("mixed_processors"):
            rows.append(("processors of the search differ, so the last bits of its outputs may differ", str(mixed)))
    caption = "Seeds, and the versions and machine that made the modules and this report."
    yield Table(caption, ("what", "value"), [*rows, *machine_facts(*PACKAGES).items()])
    yield from damage
    of_kinds = {f"{kind.words} models": list(found.values()) for kind, found in data.weak_made_with.items()}
    first_weak_models = {name: found[0] for name, found in of_kinds.items() if found}
    yield Table(
        "All settings, as the stages recorded them. A setting that none recorded has its value in the configuration "
        f"{data.config.name}, with `--set` as given to this report.",
        ("setting", "value used", "recorded by", "configured now, if different", "default, if different", "meaning"),
        setting_rows(data.config, {**data.made_with, **first_weak_models}),
        folded=True,
    )


def stage_rows(data: ReportData) -> list[StageRow]:
    """The stages from the strong model to the modules' outputs that have run."""
    artifacts = data.artifacts
    rows, importance = _strong_model_row(data), module_files.kernel_importance(artifacts)
    if importance.exists():
        command = _command(data, IMPORTANCE, "preprocess/kernel_importance_analyzer.py")
        settings = module_files.importance_settings(artifacts)
        rows.append(_row(IMPORTANCE, command, importance.path, lambda: settings.load().get("seconds")))
    sensitivity = module_files.layer_sensitivity(artifacts, list(data.layer_names)[-1])
    if sensitivity.exists():
        command = _command(data, SENSITIVITY, "scripts/run_layer_sensitivity_analyzer.py")
        rows.append(_row(SENSITIVITY, command, sensitivity.path))
    return [*rows, *_search_rows(data)]


def _strong_model_row(data: ReportData) -> list[StageRow]:
    """How the strong model came to be: trained, taken or imported; none where there is no strong model."""
    artifacts, file = data.artifacts, model_files.entire_model(data.artifacts)
    if not file.exists():
        return []
    if model_files.training_log(artifacts).exists():
        return [
            _row(
                TRAINING,
                _command(data, TRAINING, "train.py"),
                file.path,
                partial(_seconds_in, [model_files.training_log(artifacts)]),
            )
        ]
    if model_files.image_order(artifacts).exists():
        command = _command(data, "", "scripts/take_published_model.py")
        return [_row("pretrained model", command, file.path)]
    options = ("--network", shlex.quote(data.config.network_name), "--checkpoint", "FILE", "--as_given")
    form = {name: value for name, value in of_network(data.config, artifacts).items() if name != "network"}
    configured = data.configured_without_files
    command = MadeWith(form).command(_unrecorded(data), "scripts/import_model.py", configured, options)
    return [_row("import of FILE, whose name is not recorded", command, file.path)]


def _search_rows(data: ReportData) -> Iterator[StageRow]:
    """What made each module set, the collected outputs of its modules, and the searches that have written none yet."""
    for each in data.sets:
        name, target_class = set_in_words(each), each.target_classes[0]
        command = _command(data, name, script_of(each))
        yield _row(name, command, each.file(target_class).path, partial(last_step(each).get, "seconds"))
        if (outputs := module_files.module_outputs(data.artifacts, target_class, each.name)).exists():
            command = _command(data, "", "preprocess/module_output_collector.py", "--modules", each.name)
            yield _row(f"outputs of {name}", command, outputs.path)
    for method in METHODS.values():
        log = method.files(data.artifacts).log
        if log.exists() and all(each.record.method != method.name for each in data.sets):
            command = _command(data, "", method.script)
            yield _row(f"{method.name} search", command, log.path, partial(_seconds_in, [log]))


def weak_rows(data: ReportData) -> Iterator[StageRow]:
    """Training and patching of either kind of weak model, as far as they have run, and of the user's own."""
    for kind in data.patched_kinds:
        logs = {c: patch_files.weak_model_log(data.artifacts, kind, c) for c in range(data.config.num_classes)}
        known = data.weak_made_with[kind]
        made_with = {c: known.get(c, MadeWith({})) for c, log in logs.items() if log.exists()}
        script = f"experiments/patch/patch_for_{kind}_model/train.py"
        for classes in _runs(made_with, data):
            command = made_with[classes[0]].command(_unrecorded(data), script, data.configured, _target_option(classes))
            seconds = partial(_seconds_in, [logs[c] for c in classes])
            yield _row(f"{kind.words} models", command, logs[classes[-1]].path, seconds)
        yield from _patch_rows(data, kind)
    yield from _own_patch_rows(data)


def _patch_rows(data: ReportData, kind: WeakKind) -> Iterator[StageRow]:
    """What patched the weak models of a kind: one command for all target classes where it is the same for them."""
    runs: dict[tuple[str, str, str], dict[int, Path]] = {}
    for file in patch_files.reports(data.artifacts, kind):
        if named := REPORT_NAME.fullmatch(file.path.stem):
            target_class = int(file.path.parent.name.removeprefix("target_class_"))
            epoch = _epoch_option(data, kind, target_class, int(named[2]))
            runs.setdefault((named[1], named[3], epoch), {})[target_class] = file.path
    script = "experiments/patch/apply_patch.py"
    for (modules, calibration, epoch), files in runs.items():
        known = data.weak_made_with[kind]
        recorded = {c: known[c].settings if c in known else {} for c in files}
        made_with = {c: MadeWith({n: of[n] for n in OF_PATCHING if n in of}) for c, of in recorded.items()}
        for classes in _runs(made_with, data):
            options = ["--exp_type", kind.option, "--calibration", calibration, "--modules", modules]
            options += [*_target_option(classes), *(["--target_epoch", epoch] if epoch != "best" else [])]
            command = made_with[classes[0]].command(_unrecorded(data), script, data.configured, options)
            yield _row(f"patching {kind.words} models", command, max((files[c] for c in classes), key=_time))


def _epoch_option(data: ReportData, kind: WeakKind, target_class: int, epoch: int) -> str:
    """What `--target_epoch` of apply_patch.py an epoch is: the best one by default."""
    try:
        history = patch_files.weak_model_log(data.artifacts, kind, target_class).load()
    except UserError:
        return str(epoch)
    return "best" if best_epoch(history) == epoch else str(epoch)


def _own_patch_rows(data: ReportData) -> Iterator[StageRow]:
    """What patched each weak model of the user's own, as far as its report says it."""
    for file in patch_files.own_reports(data.artifacts):
        with contextlib.suppress(UserError):  # its own section says so
            details = load_report(file).details
            command, seed = details.get("command", "not recorded"), details.get("seed", 0)
            given = f"CNNMOD_SEED={seed} {command}" if seed else str(command)
            yield _row("patching your own model", given, file.path, details.get("seconds"))


def _command(data: ReportData, stage: str, script: str, *more: str) -> str:
    """A stage's command line with what it recorded."""
    configured = data.configured_without_files if stage == TRAINING else data.configured
    return data.made_with.get(stage, MadeWith({})).command(_unrecorded(data), script, configured, more)


def _unrecorded(data: ReportData) -> Artifacts:
    """The artifacts with those settings that were given to the report and that no stage recorded: all need them."""
    every = [*data.made_with.values(), *(one for of_kind in data.weak_made_with.values() for one in of_kind.values())]
    recorded = {name for made_with in every for name in made_with.settings}
    kept = [text for text in data.artifacts.assignments if text.partition("=")[0] not in recorded]
    return dataclasses.replace(data.artifacts, assignments=tuple(kept))


def _runs(made_with: Mapping[int, Any], data: ReportData) -> list[list[int]]:
    """The target classes of each command: all where all were made alike, since a command takes one class or all."""
    classes = list(made_with)
    is_one = len(classes) == data.config.num_classes and all(made_with[c] == made_with[classes[0]] for c in classes)
    return [classes] if is_one else [[target_class] for target_class in classes]


def _target_option(classes: Sequence[int]) -> list[str]:
    """The option of a run; all classes are its default."""
    return ["--target_class", str(classes[0])] if len(classes) == 1 else []


def _row(name: str, command: str, file: Path, seconds: Any = None) -> StageRow:
    """A stage that has run; `seconds` are a number, or a function that raises UserError where they are not recorded."""
    try:
        took = seconds() if callable(seconds) else seconds
    except UserError:
        took = None
    return name, f"`{command}`", _ended(file), duration(took if isinstance(took, int | float) else None)


def _seconds_in(logs: Sequence[Any]) -> float:
    return sum(row.seconds for log in logs for row in log.load())


def _time(file: Path) -> float:
    return file.stat().st_mtime


def _ended(file: Path) -> str:
    try:
        written = datetime.fromtimestamp(_time(file), timezone.utc)
    except (OSError, ValueError, OverflowError):
        return "unknown"
    return f"{written:%Y-%m-%d %H:%M} UTC"


def setting_rows(config: Config, recorded: Mapping[str, MadeWith]) -> list[tuple[str, ...]]:
    """A row for each setting of the configuration that the report is made with; `recorded` is by stage.

    Returns rows of the setting's name, the values used, the stages that recorded it, the configuration's value and the
    default where they differ from what was used, and what the setting means.
    """
    rows = []
    for setting in dataclasses.fields(config):
        now = getattr(config, setting.name)
        stages: dict[Any, list[str]] = {}
        for stage, made_with in recorded.items():
            if setting.name in made_with.settings:
                stages.setdefault(made_with.settings[setting.name], []).append(stage)
        used = list(stages) or [now]
        said = [f"{_said(value)} ({', '.join(stages[value])})" if len(used) > 1 else _said(value) for value in used]
        unlike = [None if used == [value] else value for value in (now, setting.default)]
        others = ["" if value in (None, dataclasses.MISSING) else _said(value) for value in unlike]
        by = ", ".join(stage for names in stages.values() for stage in names)
        rows.append((setting.name, "; ".join(said), by, *others, setting.metadata.get("sentence", "")))
    return rows


def _said(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(":".join(map(str, v)) if isinstance(v, tuple) else str(v) for v in value) or "none"
    return str(value) if value != "" else "none"
