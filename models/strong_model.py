"""The strong model: what it is trained with, and how it comes from its checkpoint."""

import torch

from configures.base import Config
from models import files as model_files
from models.cnn import CNN
from models.registry import build_network
from models.training import TrainingSettings
from utils.artifacts import Artifacts, CheckpointFile
from utils.errors import UserError


def strong_model_training(config: Config) -> TrainingSettings:
    """The strong model's part of the configuration."""
    return TrainingSettings(
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        schedule=config.schedule,
        milestones=config.milestones,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        augmented=True,
        mirror=config.mirror,
    )


def load_strong_model(config: Config, artifacts: Artifacts, device: torch.device) -> CNN:
    """The trained strong model, in evaluation mode, channels-last, on the device.

    Raises UserError where it is missing, damaged, or of another width or class count.
    """
    model = build_network(config.model, config.num_classes)
    load_weights(model, model_files.entire_model(artifacts))
    return model.to(device, memory_format=torch.channels_last).eval()


def load_weights(model: torch.nn.Module, file: CheckpointFile) -> None:
    """Load a checkpoint into `model`. Raises UserError, with the first difference, where it does not fit."""
    weights, own = file.load(), model.state_dict()
    for name in [*own, *weights]:
        expected, found = (_description(state.get(name)) for state in (own, weights))
        if expected != found:
            raise UserError(
                f"{file.path} is of another width, class count or network: expected {name} to be {expected}, "
                f"found {found}; make it again with: {file.made_by}"
            )
    if not all(torch.isfinite(value).all() for value in weights.values()):
        raise UserError(f"{file.path} holds NaN or infinity; make it again with: {file.made_by}")
    model.load_state_dict(weights)


def _description(value: object) -> str:
    if not isinstance(value, torch.Tensor):
        return "absent" if value is None else type(value).__name__
    layout = "" if value.layout == torch.strided else f"{value.layout} "
    return f"{layout}{value.dtype} of shape {tuple(value.shape)}".replace("torch.", "")
