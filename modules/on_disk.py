"""The modules that the search left on the disk, checked: one number, the class's logit, for each image."""

import numpy as np
import torch

from configures.base import Config
from models.cnn import CNN
from models.registry import architecture_of
from modules.module import kept_kernels, module_of_weights
from utils.artifacts import Artifacts
from utils.files import damaged


def load_kernel_mask(config: Config, artifacts: Artifacts, target_class: int) -> np.ndarray:
    """(K,) bool, True = kept, of one module. Raises UserError where it is missing or fits no module."""
    file = artifacts.module_kernels(target_class)
    architecture = architecture_of(config.model)
    kernel_mask = file.load(sum(architecture.num_kernels))
    try:
        kept_kernels(architecture, kernel_mask)
    except ValueError as error:
        raise damaged(file.path, file.made_by, str(error)) from None
    return kernel_mask


def load_module(config: Config, artifacts: Artifacts, target_class: int, device: torch.device) -> CNN:
    """The module of one class, in evaluation mode, channels-last, on the device.

    Its forward: normalised images (batch, 3, 32, 32) -> the class's logit (batch, 1). Raises UserError where its
    checkpoint or kernel mask is missing or damaged, or they are of different modules.
    """
    file = artifacts.module(target_class)
    weights = file.load()
    kernel_mask = load_kernel_mask(config, artifacts, target_class)
    architecture = architecture_of(config.model)
    if any(getattr(value, "dtype", None) != torch.float32 for value in weights.values()):
        raise damaged(file.path, file.made_by, f"not a module of {config.model}: expected float32 weights")
    try:
        module = module_of_weights(architecture, weights)
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise damaged(file.path, file.made_by, f"not a module of {config.model}: {error}") from None
    widths = tuple(len(kernels) for kernels in kept_kernels(architecture, kernel_mask))
    found = tuple(convolution.out_channels for convolution in module.convs)
    num_outputs = module.fcs[-1].out_features
    if (found, num_outputs) != (widths, 1):
        reason = f"expected kernels {widths} and 1 output as its mask says, found {found} and {num_outputs}"
        raise damaged(file.path, file.made_by, reason)
    if not all(torch.isfinite(value).all() for value in weights.values()):
        raise damaged(file.path, file.made_by, "it holds NaN or infinity")
    return module.to(device, memory_format=torch.channels_last)
