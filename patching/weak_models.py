"""The two kinds of weak models: overly simple networks, and the strong architecture poorly fitted."""

import torch

from configures.base import Config
from models.cnn import CNN
from models.registry import build_network
from models.strong_model import load_weights
from patching import files as patch_files
from utils.artifacts import Artifacts
from utils.errors import UserError
from utils.files import missing

KINDS = ("weak", "poor")


def weak_network_name(config: Config, kind: str) -> str:
    """The network of the weak models of a kind: `weak` = overly simple, `poor` = as the strong model."""
    return config.weak_model if kind == "weak" else config.model


def build_weak_network(config: Config, kind: str) -> CNN:
    """A freshly initialised weak model; a poorly fitted one has no dropout. Its last class is the target class."""
    dropout = None if kind == "weak" else 0.0
    return build_network(weak_network_name(config, kind), len(config.weak_classes) + 1, dropout)


def kept_epochs(artifacts: Artifacts, kind: str, target_class: int) -> list[int]:
    """The epochs of a weak model whose checkpoints are there, ascending."""
    folder = patch_files.weak_model_folder(artifacts, kind, target_class)
    numbers = [path.stem.removeprefix("epoch_") for path in folder.glob("epoch_*.pth")]
    return sorted(int(number) for number in numbers if number.isdecimal())


def check_weak_model(artifacts: Artifacts, kind: str, target_class: int, epoch: int) -> None:
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
    config: Config, artifacts: Artifacts, kind: str, target_class: int, epoch: int, device: torch.device
) -> CNN:
    """A weak model after an epoch, in evaluation mode, on the device.

    Raises UserError where it is missing (naming the epochs that are there), damaged, or of another class count.
    """
    check_weak_model(artifacts, kind, target_class, epoch)
    model = build_weak_network(config, kind)
    load_weights(model, patch_files.weak_model(artifacts, kind, target_class, epoch))
    return model.to(device, memory_format=torch.channels_last).eval()
