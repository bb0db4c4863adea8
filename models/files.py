"""The strong model's files, and its folder, where a model comes in whole: nothing of another one may be left in it."""

from dataset.images import SplitRecord
from models.network_settings import NetworkSettings
from models.training import Epoch
from utils.artifacts import ArrayFile, Artifacts, CheckpointFile, RecordFile, Role, TableFile
from utils.errors import UserError
from utils.files import set_aside
from utils.locks import check_nobody_holds


def training_role(artifacts: Artifacts) -> Role:
    """Training the strong model."""
    names = ("entire_model.pth", "strong_model.json", "training_state.pth", "training_log.csv")
    return artifacts.role("the training", "training", *(artifacts.folder / name for name in names))


def entire_model(artifacts: Artifacts) -> CheckpointFile:
    """The strong model's state_dict."""
    return CheckpointFile(artifacts.folder / "entire_model.pth", artifacts.command("train.py"))


def network_settings(artifacts: Artifacts) -> RecordFile[NetworkSettings]:
    """Which network the strong model is, and how it is given images."""
    return RecordFile(artifacts.folder / "network.json", artifacts.command("train.py", "--fresh"), NetworkSettings)


def trained_on(artifacts: Artifacts) -> RecordFile[SplitRecord]:
    """The images that the strong model was trained on, or imported with."""
    return RecordFile(artifacts.folder / "strong_model.json", artifacts.command("train.py"), SplitRecord)


def image_order(artifacts: Artifacts) -> ArrayFile:
    """The `ImageOrder.hashes` (n,) of those images, where the strong model is a published one."""
    made_by = artifacts.command("scripts/take_published_model.py", "--fresh")
    return ArrayFile(artifacts.folder / "image_order.npy", made_by, "uint64")


def training_state(artifacts: Artifacts) -> CheckpointFile:
    """Everything that lets an interrupted training go on."""
    return CheckpointFile(artifacts.folder / "training_state.pth", artifacts.command("train.py"))


def training_log(artifacts: Artifacts) -> TableFile[Epoch]:
    """One row an epoch."""
    return TableFile(artifacts.folder / "training_log.csv", artifacts.command("train.py"), Epoch)


def check_is_free(artifacts: Artifacts) -> None:
    """Raises UserError where a strong model is there, or a training that can go on and would write one."""
    for file, what in ((entire_model, "a strong model"), (training_state, "an interrupted training")):
        if file(artifacts).exists():
            raise UserError(f"{file(artifacts).path} is there, {what}: --fresh sets its folder aside")


def set_folder_aside(artifacts: Artifacts, *mine: Role) -> None:
    """Rename the folder, if it is there, and say so. Raises UserError while a stage that is not one of `mine` runs."""
    if artifacts.folder.exists():
        held_here = {role.lock for role in mine}
        others = (lock for lock in artifacts.locks_folder.glob("*.lock") if lock not in held_here)
        check_nobody_holds(others, "--fresh sets the folder aside")
        print(f"the old folder is now {set_aside(artifacts.folder)}", flush=True)
