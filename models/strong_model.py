"""The strong model: what it is trained with, and how it comes from its checkpoint."""

import torch

from configures.base import Config
from models import files as model_files
from models.checkpoints import description
from models.cnn import CNN
from models.foreign_files import read_foreign_file
from models.registry import build_network
from models.training import TrainingSettings
from utils.artifacts import Artifacts, CheckpointFile
from utils.errors import UserError
from utils.files import is_foreign_checkpoint

# It may be somebody's own model, which no command of ours makes again.
NEXT_STEP_FOR_FOREIGN = (
    "it was not saved by this project: give the --model, or the class count, that it was saved with, or another file; "
    "python scripts/inspect_network.py --help tells how to look into one"
)


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
    if is_foreign_checkpoint(file.path):
        weights, next_step = read_foreign_file(file.path), NEXT_STEP_FOR_FOREIGN
    else:
        weights, next_step = file.load(), f"make it again with: {file.made_by}"
    if not isinstance(weights, dict):
        raise UserError(f"{file.path} is no state_dict: it holds a {type(weights).__name__}; {next_step}")
    own = model.state_dict()
    for name in [*own, *weights]:
        expected, found = (description(state.get(name)) for state in (own, weights))
        if expected != found:
            raise UserError(
                f"{file.path} is of another width, class count or network: expected {name} to be {expected}, "
                f"found {found}; {next_step}"
            )
    if not all(torch.isfinite(value).all() for value in weights.values()):
        raise UserError(f"{file.path} holds NaN or infinity; {next_step}")
    model.load_state_dict(weights)
