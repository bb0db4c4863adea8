"""The gradient search's files: its rounds, and the state that it goes on from.

A search of all classes has them in the folder `gradient`, one of some classes in a folder of its own. In the functions
below, no `classes` means all.
"""

import zlib
from collections.abc import Sequence
from pathlib import Path

from search.gradient.log import Round
from utils.artifacts import ArrayFile, Artifacts, CheckpointFile, JsonFile, Role, TableFile
from utils.errors import UserError

LONGEST = 60  # characters of a folder's name


def name_of(classes: Sequence[int]) -> str:
    """The name of the folder of a search of these classes, and of the module set that it finds."""
    if not classes:
        return "gradient"
    numbers = "_".join(map(str, classes))
    name = f"gradient_class_{numbers}"
    return name if len(name) <= LONGEST else f"gradient_{len(classes)}_classes_{zlib.crc32(numbers.encode()):08x}"


def folder(artifacts: Artifacts, classes: Sequence[int] = ()) -> Path:
    """`gradient`, or for example `gradient_class_2_5`."""
    return artifacts.folder / name_of(classes)


def role(artifacts: Artifacts, classes: Sequence[int] = ()) -> Role:
    """Learning the kernel masks by gradient."""
    return artifacts.role("the gradient search", name_of(classes), folder(artifacts, classes) / "*")


def settings(artifacts: Artifacts, classes: Sequence[int] = ()) -> JsonFile:
    """Settings, seed and strong model that the search's files were made with."""
    return JsonFile(folder(artifacts, classes) / "settings.json", _command(artifacts, classes, "--fresh"))


def log(artifacts: Artifacts, classes: Sequence[int] = ()) -> TableFile[Round]:
    """One row per round."""
    return TableFile(folder(artifacts, classes) / "search_log.csv", _command(artifacts, classes, "--fresh"), Round)


def state(artifacts: Artifacts, classes: Sequence[int] = ()) -> CheckpointFile:
    """Everything that lets an interrupted round go on."""
    return CheckpointFile(folder(artifacts, classes) / "state.pth", _command(artifacts, classes))


def round_state(artifacts: Artifacts, number: int, classes: Sequence[int] = ()) -> CheckpointFile:
    """The search's state after a round."""
    return CheckpointFile(folder(artifacts, classes) / f"round_{number:02d}.pth", _command(artifacts, classes))


def round_kernels(artifacts: Artifacts, number: int, classes: Sequence[int] = ()) -> ArrayFile:
    """(modules, K) bool, True = kept, of the modules after a round."""
    return _of_round(artifacts, number, classes, "kernels", "bool")


def round_logit_maps(artifacts: Artifacts, number: int, classes: Sequence[int] = ()) -> ArrayFile:
    """(modules, 2) float32: scale and bias of each module's logit after a round."""
    return _of_round(artifacts, number, classes, "logit_maps", "float32")


def round_gains(artifacts: Artifacts, number: int, classes: Sequence[int] = ()) -> ArrayFile:
    """(modules, K) float32: what each kernel's map is multiplied by after a round; 1 = it stays as it is."""
    return _of_round(artifacts, number, classes, "gains", "float32")


def fine_tuning_role(artifacts: Artifacts, parent: str) -> Role:
    """Fine-tuning the modules of a set."""
    return artifacts.role(
        f"the fine-tuning of {parent}", f"fine_tuning_{parent}", fine_tuning_state(artifacts, parent).path
    )


def fine_tuning_state(artifacts: Artifacts, parent: str) -> CheckpointFile:
    """Everything that lets an interrupted fine-tuning of a module set go on; there only while one is not done."""
    path = artifacts.folder / "fine_tuning" / f"{parent}.pth"
    return CheckpointFile(path, artifacts.command("module_fine_tuner.py", "--modules", parent))


def last_round_kernels(artifacts: Artifacts) -> ArrayFile:
    """The masks of the last round of the search of all classes. Raises UserError where no round is done."""
    rounds = log(artifacts).load_if_there()
    if not rounds:
        raise UserError(f"init_pop_mode gradient: missing {log(artifacts).path}; first run: {_command(artifacts, ())}")
    return round_kernels(artifacts, rounds[-1].number)


def _of_round(artifacts: Artifacts, number: int, classes: Sequence[int], name: str, dtype: str) -> ArrayFile:
    path = folder(artifacts, classes) / f"round_{number:02d}_{name}.npy"
    return ArrayFile(path, _command(artifacts, classes), dtype)


def _command(artifacts: Artifacts, classes: Sequence[int], *more: str) -> str:
    chosen = ["--target_class", *map(str, classes)] if classes else []
    return artifacts.command("module_gradient_search.py", *chosen, *more)
