"""Modules that earlier versions wrote, read as module sets: one slot `modules/`, and `for_patch/class_C/modules/`."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from modules.module_set import SetRecord
from modules.source_network import SourceNetwork
from utils.artifacts import Artifacts, JsonFile, RecordFile, record_of
from utils.errors import UserError

SLOT = "modules"
ONE_CLASS = "for_patch_"  # and the class's number


@dataclass(frozen=True)
class EarlierSource(SourceNetwork):
    """What stood next to the modules: which network they come from, and their checksums."""

    is_whole: bool = True  # False while the modules were being written
    files: dict[str, str] = field(default_factory=dict)  # SHA-256 by name


def earlier_folders(artifacts: Artifacts) -> Iterator[tuple[str, Path]]:
    """The names and folders of the sets that earlier versions left; the slot is the last one."""
    for folder in sorted((artifacts.folder / "for_patch").glob("class_*/modules")):
        yield ONE_CLASS + folder.parent.name.removeprefix("class_"), folder
    slot = artifacts.folder / "modules"
    if any((slot / name).exists() for name in ("report.json", "network.json")):
        yield SLOT, slot


def earlier_record(folder: Path, classes: tuple[str, ...], made_by: str) -> SetRecord:
    """What an earlier version's files record.

    Args:
        folder: of the modules.
        classes: the strong model's, by name.
        made_by: the command that makes modules, for messages.

    Raises UserError if they are missing, damaged, or half written.
    """
    source = RecordFile(folder / "network.json", made_by, EarlierSource).load_if_there()
    if source is not None and not source.is_whole:
        raise UserError(
            f"the modules in {folder} are half written: the run that wrote them was interrupted; "
            f"make them again with: {made_by}"
        )
    file = JsonFile(folder / "report.json", made_by)
    report = file.load()
    try:
        record = record_of(_of_one_class(report, classes) if "target_class" in report else report, SetRecord)
    except (KeyError, ValueError) as error:
        raise file.damaged(str(error)) from None
    return record if source is None else replace(record, source=source, files=source.files)


def _of_one_class(report: dict[str, Any], classes: tuple[str, ...]) -> dict[str, Any]:
    """The fields of a `SetRecord` of what was known of one class's module; images were not counted."""
    return {
        "classes": classes,
        "kernels": report["kernels"],
        "kernels_kept": (report["kernels_kept"],),
        "jaccard_distance": 0.0,
        "valid_images": report["valid_images"],
        **{field.name: 0 for field in fields(SetRecord) if field.name.startswith(("valid_right_", "test_"))},
        "search": report["search"],
        "valid_auc_strong": (report["valid_auc_strong"],),
        "valid_auc_modules": (report["valid_auc_module"],),
        "target_classes": (report["target_class"],),
        "flops": (report["flops"],),
        "explained": (report["explained"],),
    }
