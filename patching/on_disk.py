"""Weak models and the reports on their patches, read from the disk and checked."""

from dataclasses import dataclass, replace

import torch
from torch import nn

from configures.base import Config
from models.strong_model import load_weights
from modules import files as module_files
from patching import files as patch_files
from patching.from_arrays import PatchReport
from patching.report import PatchedWeakModel
from patching.weak_models import WeakKind, build_weak_network
from utils.artifacts import Artifacts
from utils.errors import UserError
from utils.files import missing, sha256_of
from utils.progress import say


def kept_epochs(artifacts: Artifacts, kind: WeakKind, target_class: int) -> list[int]:
    """The epochs of a weak model whose checkpoints are there, ascending."""
    folder = patch_files.weak_model_folder(artifacts, kind, target_class)
    numbers = [path.stem.removeprefix("epoch_") for path in folder.glob("epoch_*.pth")]
    return sorted(int(number) for number in numbers if number.isdecimal())


def check_weak_model(artifacts: Artifacts, kind: WeakKind, target_class: int, epoch: int) -> None:
    """Raises UserError where a weak model's epoch is not there, naming the epochs that are, or the command."""
    file = patch_files.weak_model(artifacts, kind, target_class, epoch)
    if file.exists():
        return
    epochs = kept_epochs(artifacts, kind, target_class)
    if not epochs:
        raise missing(file.path, file.made_by)
    raise UserError(
        f"--target_epoch {epoch}: {file.path} is not there; expected one of the epochs kept: "
        f"{', '.join(map(str, epochs))}; to keep another, train again with --keep_epochs {epoch} --fresh"
    )


def load_weak_model(
    config: Config, artifacts: Artifacts, kind: WeakKind, target_class: int, epoch: int, device: torch.device
) -> nn.Module:
    """A weak model after an epoch, in evaluation mode, on the device.

    Raises UserError where it is missing (naming the epochs that are there), damaged, or of another class count.
    """
    check_weak_model(artifacts, kind, target_class, epoch)
    model = build_weak_network(config, kind)
    load_weights(model, patch_files.weak_model(artifacts, kind, target_class, epoch))
    return model.to(device, memory_format=torch.channels_last).eval()


@dataclass(frozen=True)
class OwnPatch:
    """A patch of a weak model that was not made here."""

    weak_model: str
    report: PatchReport
    controls: dict[str, PatchReport]  # by name; empty where no module helped
    seconds: float | None  # None in reports that do not say it
    for_patch: bool  # whether its modules were searched each alone
    modules_sha256: dict[int, str]  # of the checkpoints of the modules that were tried, by class of the strong model


def load_own_patches(artifacts: Artifacts) -> list[OwnPatch]:
    """All that are there, by name. Raises UserError where one is damaged."""
    found = []
    for file in patch_files.own_reports(artifacts):
        content = file.load()
        try:
            controls = {name: PatchReport.from_json(values) for name, values in content.get("controls", {}).items()}
            seconds = content.get("seconds")
            seconds = None if seconds is None else float(seconds)
            checksums = {int(number): str(value) for number, value in content.get("modules_sha256", {}).items()}
            report = PatchReport.from_json(content["test"])
            found.append(OwnPatch(file.path.stem, report, controls, seconds, bool(content.get("for_patch")), checksums))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise file.damaged(f"not a report on a patch: {error}") from None
    return found


def load_patched_weak_models(artifacts: Artifacts, kind: WeakKind) -> list[PatchedWeakModel]:
    """All weak models of a kind that were patched, by class and epoch, whatever calibrations were tried on each.

    Reports on a module that was made again since are left out.
    Raises UserError where there is none, or a report is damaged.
    """
    found: dict[tuple[int, int], PatchedWeakModel] = {}
    for file in patch_files.reports(artifacts, kind):
        model = file.load()
        try:
            for method in model.methods:
                model.confusion(method)
                model.change(method)
                model.over_no_module(method)
            for calibration in model.calibrations:
                model.rule(calibration)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise file.damaged(f"not a report on a patch: {error}") from None
        if model.module_sha256 not in ("", _sha256_of_module(artifacts, model)):
            say(f"left out: {file.path} is of another module than the one that is there")
            continue
        key = (model.target_class, model.epoch)
        known = found.get(key, replace(model, methods={}))
        if known.classes != model.classes:
            raise file.damaged("its classes are not those of the other reports on the same weak model")
        found[key] = replace(model, methods={**known.methods, **model.methods})
    if not found:
        folder = patch_files.weak_models_folder(artifacts, kind)
        absent = folder / "target_class_C" / "patch_epoch_E_CALIBRATION.json"
        raise missing(absent, patch_files.patch_command(artifacts, kind))
    return [found[key] for key in sorted(found)]


def _sha256_of_module(artifacts: Artifacts, model: PatchedWeakModel) -> str:
    """The checksum of the module that is there now; where none is, that of the report's own."""
    file = module_files.module(artifacts, model.target_class)
    return sha256_of(file.path) if file.exists() else model.module_sha256
