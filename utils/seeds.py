"""Random generators, one per purpose: no draw depends on earlier ones for other purposes. Random weights for trials."""

import zlib

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

CALIBRATION_IMAGES = 8


def generator(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
    """The generator of one purpose, for example `generator(seed, "next generation", target_class, generation)`.

    Give a purpose the same count of numbers everywhere: NumPy takes a missing last number for a 0.
    """
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), *numbers])


def torch_seed(seed: int, purpose: str, *numbers: int) -> int:
    """A seed for torch's generators, from the same generator."""
    return int(generator(seed, purpose, *numbers).integers(2**63 - 1))


@torch.no_grad()
def randomise(network: nn.Module, image_side: int, channels: int = 3, seed: int = 0) -> None:
    """Give a network random weights that keep the signal, and batch norms the statistics of random images.

    So the logits of a network that nobody has trained depend on the images. As libraries initialise them, deep networks
    give all images nearly the same logits, and batch norms do nothing: two networks that differ would look equal.

    He initialisation of convolutions and linear layers; scales, which are often initialised to 0 or 1, are uniform
    between 0.5 and 1.5, and biases normal. The network is left in evaluation mode.
    """
    generator = torch.Generator().manual_seed(seed)
    network.eval()
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if name.endswith("bias"):
                values = torch.randn(parameter.shape, generator=generator) * (0.3 if _is_norm(module) else 0.1)
            elif isinstance(module, nn.Conv2d | nn.Linear) and parameter.dim() > 1:
                fan_in = parameter[0].numel()
                values = torch.randn(parameter.shape, generator=generator) * (2 / fan_in) ** 0.5
            elif _is_norm(module) or bool((parameter == parameter.flatten()[:1]).all()):
                values = torch.rand(parameter.shape, generator=generator) + 0.5
            else:
                continue
            parameter.copy_(values)
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    batch_norms = [module for module in norms if module.running_mean is not None]
    momenta = [module.momentum for module in batch_norms]
    for module in batch_norms:
        module.reset_running_stats()
        module.momentum = None  # the mean over all batches: here of one
        module.train()
    like = next(network.parameters())
    images = torch.randn(CALIBRATION_IMAGES, channels, image_side, image_side, generator=generator)
    network(images.to(like))
    for module, momentum in zip(batch_norms, momenta, strict=True):
        module.momentum = momentum
    network.eval()


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()
