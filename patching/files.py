"""The weak models' files, and the reports on their patches, below `data/patch`."""

from pathlib import Path

from models.training import Epoch
from patching.report import PatchedWeakModel
from patching.weak_models import WeakKind
from utils.artifacts import Artifacts, CheckpointFile, JsonFile, RecordFile, Role, TableFile


def weak_models_folder(artifacts: Artifacts, kind: WeakKind) -> Path:
    """One folder per target class, and the tables over all of them."""
    return artifacts.root_dir / "data" / "patch" / kind.folder / artifacts.folder.name


def weak_model_folder(artifacts: Artifacts, kind: WeakKind, target_class: int) -> Path:
    """The checkpoints and reports of one weak model."""
    return weak_models_folder(artifacts, kind) / f"target_class_{target_class}"


def weak_training_role(artifacts: Artifacts, kind: WeakKind, target_class: int) -> Role:
    """Training one weak model, or patching it."""
    name = f"the training or patching of the {kind} model of target class {target_class}"
    return artifacts.role(name, f"{kind}_{target_class}", weak_model_folder(artifacts, kind, target_class) / "*")


def weak_model_command(artifacts: Artifacts, kind: WeakKind, target_class: int) -> str:
    """What trains one weak model."""
    script = f"experiments/patch/patch_for_{kind}_model/train.py"
    return artifacts.command(script, "--target_class", str(target_class))


def weak_model(artifacts: Artifacts, kind: WeakKind, target_class: int, epoch: int) -> CheckpointFile:
    """A weak model's state_dict after an epoch, counted from 0."""
    path = weak_model_folder(artifacts, kind, target_class) / f"epoch_{epoch}.pth"
    return CheckpointFile(path, weak_model_command(artifacts, kind, target_class))


def weak_model_state(artifacts: Artifacts, kind: WeakKind, target_class: int) -> CheckpointFile:
    """Everything that lets an interrupted training go on; removed when the training is over."""
    path = weak_model_folder(artifacts, kind, target_class) / "training_state.pth"
    return CheckpointFile(path, weak_model_command(artifacts, kind, target_class))


def weak_model_settings(artifacts: Artifacts, kind: WeakKind, target_class: int) -> JsonFile:
    """What a weak model is trained with."""
    path = weak_model_folder(artifacts, kind, target_class) / "settings.json"
    return JsonFile(path, f"{weak_model_command(artifacts, kind, target_class)} --fresh")


def weak_model_log(artifacts: Artifacts, kind: WeakKind, target_class: int) -> TableFile[Epoch]:
    """One row an epoch; written when the training is over."""
    path = weak_model_folder(artifacts, kind, target_class) / "training_log.csv"
    return TableFile(path, weak_model_command(artifacts, kind, target_class), Epoch)


def patch_command(artifacts: Artifacts, kind: WeakKind) -> str:
    """What patches all weak models of a kind."""
    return artifacts.command("experiments/patch/apply_patch.py", "--exp_type", kind.option)


def report(
    artifacts: Artifacts, modules: str, kind: WeakKind, target_class: int, epoch: int, calibration: str
) -> RecordFile[PatchedWeakModel]:
    """Every metric before and after one patch by a module set."""
    path = weak_model_folder(artifacts, kind, target_class) / f"patch_{modules}_epoch_{epoch}_{calibration}.json"
    return RecordFile(path, patch_command(artifacts, kind), PatchedWeakModel)


def reports(artifacts: Artifacts, kind: WeakKind) -> list[RecordFile[PatchedWeakModel]]:
    """The reports that are there, by path; none of a folder that was set aside."""
    paths = sorted(weak_models_folder(artifacts, kind).glob("target_class_*/patch_*_epoch_*_*.json"))
    numbered = [path for path in paths if path.parent.name.removeprefix("target_class_").isdecimal()]
    return [RecordFile(path, patch_command(artifacts, kind), PatchedWeakModel) for path in numbered]


def table(artifacts: Artifacts, modules: str, kind: WeakKind, epoch: str, calibration: str) -> Path:
    """The patches of all target classes, as CSV; next to it stands a Markdown file of the same name."""
    return weak_models_folder(artifacts, kind) / f"patch_all_{modules}_epoch_{epoch}_{calibration}.csv"


def trade_off(artifacts: Artifacts, kind: WeakKind, part: str, *only: str) -> Path:
    """F1 against the size of modules for patches, on the images of a part, as CSV; its figure is next to it.

    `only` says what alone was measured: a module set, target classes.
    """
    return weak_models_folder(artifacts, kind) / f"{'_'.join(['patch_trade_off', part, *only])}.csv"


def baselines(artifacts: Artifacts, modules: str, kind: WeakKind, target_class: int, epoch: int) -> JsonFile:
    """A patch compared with what a user may do instead."""
    path = weak_model_folder(artifacts, kind, target_class) / f"baselines_{modules}_epoch_{epoch}.json"
    command = artifacts.command("experiments/trade_off/patch_baselines.py", "--exp_type", kind.option)
    return JsonFile(path, command)


def own_report(artifacts: Artifacts, name: str) -> RecordFile[PatchedWeakModel]:
    """What a patch of a weak model that was not made here did, and its rule."""
    path = _own_folder(artifacts) / f"{name}.json"
    return RecordFile(path, artifacts.command("scripts/patch_weak_model.py"), PatchedWeakModel)


def own_reports(artifacts: Artifacts) -> list[RecordFile[PatchedWeakModel]]:
    """Those that are there, by name."""
    return [own_report(artifacts, path.stem) for path in sorted(_own_folder(artifacts).glob("*.json"))]


def _own_folder(artifacts: Artifacts) -> Path:
    return artifacts.root_dir / "data" / "patch" / "own" / artifacts.folder.name
