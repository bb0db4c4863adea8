"""The strong model's folder, where a model comes in whole: nothing of another one may be left in it."""

from models import files
from utils.artifacts import Artifacts, Role
from utils.errors import UserError
from utils.files import set_aside
from utils.locks import check_nobody_holds


def check_is_free(artifacts: Artifacts) -> None:
    """Raises UserError where a strong model is there, or a training that can go on and would write one."""
    for file, what in ((files.entire_model, "a strong model"), (files.training_state, "an interrupted training")):
        if file(artifacts).exists():
            raise UserError(f"{file(artifacts).path} is there, {what}: --fresh sets its folder aside")


def set_folder_aside(artifacts: Artifacts, *mine: Role) -> None:
    """Rename the folder, if it is there, and say so. Raises UserError while a stage that is not one of `mine` runs."""
    if artifacts.folder.exists():
        held_here = {role.lock for role in mine}
        others = (lock for lock in artifacts.locks_folder.glob("*.lock") if lock not in held_here)
        check_nobody_holds(others, "--fresh sets the folder aside")
        print(f"the old folder is now {set_aside(artifacts.folder)}", flush=True)
