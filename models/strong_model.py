"""The strong model from its checkpoint."""

import torch

from configures.base import Config
from models.cnn import CNN
from models.registry import build_network
from utils.artifacts import Artifacts, CheckpointFile
from utils.errors import UserError


def load_strong_model(config: Config, artifacts: Artifacts, device: torch.device) -> CNN:
    """The trained strong model, in evaluation mode, channels-last, on the device.

    Raises UserError where it is missing, damaged, or of another width or class count.
    """
    model = build_network(config.model, config.num_classes)
    load_weights(model, artifacts.entire_model)
    return model.to(device, memory_format=torch.channels_last).eval()


def load_weights(model: torch.nn.Module, file: CheckpointFile) -> None:
    """Load a checkpoint into `model`. Raises UserError, with the first difference, where it does not fit."""
    weights = file.load()
    for name, value in model.state_dict().items():
        found = weights.get(name)
        shape = tuple(found.shape) if isinstance(found, torch.Tensor) else "nothing"
        if shape != tuple(value.shape):
            raise UserError(
                f"{file.path} is of another width, class count or network: expected {name} of shape "
                f"{tuple(value.shape)}, found {shape}; make it again with: {file.made_by}"
            )
    if not all(torch.isfinite(value).all() for value in weights.values()):
        raise UserError(f"{file.path} holds NaN or infinity; make it again with: {file.made_by}")
    model.load_state_dict(weights, strict=False)
