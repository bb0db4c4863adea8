"""Weak models and the reports on their patches, read from the disk and checked."""

from dataclasses import replace

import torch
from torch import nn

from configures.base import Config
from models.strong_model import load_weights
from modules import files as module_files
from modules.module_sets import RECORD
from patching import files as patch_files
from patching.report import BEFORE, PatchedWeakModel
from patching.weak_models import WeakKind, build_weak_network
from utils.artifacts import Artifacts, RecordFile
from utils.errors import UserError
from utils.files import missing, sha256_of
from utils.progress import say


def kept_epochs(artifacts: Artifacts, kind: WeakKind, target_class: int) -> list[int]:
    """The epochs of a weak model whose checkpoints are there, ascending."""
    folder = patch_files.weak_model_folder(artifacts, kind, target_class)
    numbers = [path.stem.removeprefix("epoch_") for path in folder.glob("epoch_*.pth")]
    return sorted(int(number) for number in numbers if number.isdecimal())


def check_weak_model(artifacts: Artifacts, kind: WeakKind, target_class: int, epoch: int) -> None:
    """Raises UserError if a weak model's epoch is not there, naming the epochs that are, or the command."""
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

    Raises UserError if it is missing (naming the epochs that are there), damaged, or of another class count.
    """
    check_weak_model(artifacts, kind, target_class, epoch)
    model = build_weak_network(config, kind)
    load_weights(model, patch_files.weak_model(artifacts, kind, target_class, epoch))
    return model.to(device).to(memory_format=torch.channels_last).eval()


def load_patched_weak_models(artifacts: Artifacts, kind: WeakKind) -> list[PatchedWeakModel]:
    """All weak models of a kind that were patched, by class, epoch and module set, with all calibrations of each.

    Reports on module sets that were removed or made again since are left out, and so are those on other images or
    classes than the newest one on the same weak model. Raises UserError if there is none, or a report is damaged.
    """
    found: dict[tuple[int, int, str], PatchedWeakModel] = {}
    for file in sorted(patch_files.reports(artifacts, kind), key=lambda file: file.path.stat().st_mtime_ns):
        model = load_report(file)
        if is_outdated(artifacts, model):
            say(f"left out: {file.path}: module set {model.modules} was removed or made again since")
            continue
        key = (model.target_class, model.epoch, model.modules)
        known = found.get(key, replace(model, methods={}))
        if known.methods and _judged_on(known) != _judged_on(model):
            say(f"left out: reports that are older than {file.path}, on other images or classes")
            known = replace(model, methods={})
        found[key] = replace(model, methods={**known.methods, **model.methods})
    if not found:
        folder = patch_files.weak_models_folder(artifacts, kind)
        absent = folder / "target_class_C" / "patch_SET_epoch_E_CALIBRATION.json"
        raise missing(absent, patch_files.patch_command(artifacts, kind))
    return [found[key] for key in sorted(found)]


def _judged_on(model: PatchedWeakModel) -> tuple[object, ...]:
    """What reports on the same weak model have in common: its classes, and how many images of each."""
    return model.classes, model.validation_images, model.confusion(BEFORE).sum(1).tolist()


def load_own_patches(artifacts: Artifacts) -> dict[str, PatchedWeakModel]:
    """All patches of weak models that were not made here, by name. Raises UserError if one is damaged."""
    return {file.path.stem: load_report(file) for file in patch_files.own_reports(artifacts)}


def load_report(file: RecordFile[PatchedWeakModel]) -> PatchedWeakModel:
    """A report that is whole. Raises UserError if it is missing or damaged."""
    model = file.load()
    try:
        if len(model.target_classes) != len(model.targets) or not set(model.targets) <= {*range(len(model.classes))}:
            raise ValueError("expected target classes among the classes")
        for method in model.methods:
            for number in range(len(model.targets)):
                model.scores(method, number)
                model.change(method, number)
                model.over_no_module(method, number)
        for calibration in model.calibrations:
            model.rule(calibration)
        model.confusion(BEFORE)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
        raise file.damaged(f"not a report on a patch: {error}") from None
    return model


def set_checksum(artifacts: Artifacts, modules: str) -> str:
    """Of the record of a module set; empty if there is none."""
    path = module_files.sets_folder(artifacts) / modules / RECORD
    return sha256_of(path) if path.exists() else ""


def is_outdated(artifacts: Artifacts, model: PatchedWeakModel) -> bool:
    """Whether the module set was removed or made again since a weak model was patched.

    It also was if its strong model was set aside, with which module sets go, but not patches.
    """
    return set_checksum(artifacts, model.modules) != model.modules_sha256
