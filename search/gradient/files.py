"""The gradient search's files, below `gradient/`: its rounds, and what it goes on from.

A search for a patch has them in its own place: `Artifacts.for_patch`.
"""

from pathlib import Path

from search.gradient.log import Round, RoundForPatch
from utils.artifacts import ArrayFile, Artifacts, ArtifactsForPatch, CheckpointFile, JsonFile, Role, TableFile
from utils.errors import UserError


def folder(artifacts: Artifacts) -> Path:
    """`gradient`."""
    return artifacts.folder / "gradient"


def role(artifacts: Artifacts) -> Role:
    """Learning the kernel masks by gradient."""
    return artifacts.role("the gradient search", "gradient_search", folder(artifacts) / "*")


def settings(artifacts: Artifacts) -> JsonFile:
    """Settings, seed and strong model that the search's files were made with."""
    return JsonFile(folder(artifacts) / "settings.json", _command(artifacts, "--fresh"))


def log(artifacts: Artifacts) -> TableFile[Round]:
    """One row a round."""
    return TableFile(folder(artifacts) / "search_log.csv", _command(artifacts, "--fresh"), Round)


def log_for_patch(artifacts: ArtifactsForPatch) -> TableFile[RoundForPatch]:
    """The same of a search for one class's module."""
    return TableFile(folder(artifacts) / "search_log.csv", _command(artifacts, "--fresh"), RoundForPatch)


def state(artifacts: Artifacts) -> CheckpointFile:
    """Everything that lets an interrupted round go on."""
    return CheckpointFile(folder(artifacts) / "state.pth", _command(artifacts))


def round_state(artifacts: Artifacts, number: int) -> CheckpointFile:
    """The search's state after a round."""
    return CheckpointFile(folder(artifacts) / f"round_{number:02d}.pth", _command(artifacts))


def round_kernels(artifacts: Artifacts, number: int) -> ArrayFile:
    """(classes, K) bool, True = kept, of the modules after a round."""
    return ArrayFile(folder(artifacts) / f"round_{number:02d}_kernels.npy", _command(artifacts), "bool")


def round_logit_maps(artifacts: Artifacts, number: int) -> ArrayFile:
    """(classes, 2) float32: scale and bias of each module's logit after a round."""
    return ArrayFile(folder(artifacts) / f"round_{number:02d}_logit_maps.npy", _command(artifacts), "float32")


def round_gains(artifacts: Artifacts, number: int) -> ArrayFile:
    """(classes, K) float32: what each kernel's map is multiplied by after a round; 1 = it stays as it is."""
    return ArrayFile(folder(artifacts) / f"round_{number:02d}_gains.npy", _command(artifacts), "float32")


def last_round_kernels(artifacts: Artifacts) -> ArrayFile:
    """The masks of the last round. Raises UserError where no round is done."""
    rounds = log(artifacts).load_if_there()
    if not rounds:
        raise UserError(f"init_pop_mode gradient: missing {log(artifacts).path}; first run: {_command(artifacts)}")
    return round_kernels(artifacts, rounds[-1].number)


def _command(artifacts: Artifacts, *more: str) -> str:
    return artifacts.command("module_gradient_search.py", *more)
