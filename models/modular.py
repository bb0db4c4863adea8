"""Training a network to be modular: a loss by which images of a class use the same channels, and other classes others.

`moda`, after Ngo, Hassan, Shafiq and Medvidovic, "DNN Modularization via Activation-Driven Training" (MODA), ICSE 2026,
arXiv 2411.01074: the loss is of the outputs of all ReLUs, wherever the network's code calls them; the network stays as
it is. `mwt`, after Qi et al., "Modularizing while Training" (MwT), ICSE 2024, arXiv 2306.09376: it is of the masks of a
network with mask generators.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from models.mask_generators import observed_masks
from utils.errors import UserError

RELUS = ("relu", "relu_", "relu6", "relu6_")
NOTHING = {
    "moda": "modular=moda: expected a network with ReLUs, it calls none of torch's in training mode",
    "mwt": "modular=mwt: expected a network with mask generators, as --set network=mwt:simcnn_x0_25 names one",
}


class ReluOutputs(TorchFunctionMode):
    """While it is entered, collects what ReLUs give, as modules or as functions: their channels' means.

    ReLU6 counts, which torch's module calls as `hardtanh` from 0.

    Attributes:
        means: of each ReLU that was called, in order, (n, channels) float32: the mean over the pixels of a map, which
            is not negative; of a layer without maps its outputs. Other shapes are left out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.means: list[Tensor] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch, and look at its result if it is a ReLU."""
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        value = func(*args, **kwargs)
        is_relu6 = name == "hardtanh" and (*args[1:2], kwargs.get("min_val"))[0] == 0
        if (name in RELUS or is_relu6) and value.dim() in (2, 4):
            self.means.append(value.mean((2, 3), dtype=torch.float32) if value.dim() == 4 else value.float())
        return value


@contextmanager
def activity(network: nn.Module, modular: str) -> Iterator[Collection[Tensor]]:
    """Collect what the loss is of while a network runs: of each layer (n, channels) float, not negative.

    Args:
        network: images -> logits.
        modular: `moda`: its ReLUs' outputs; `mwt`: its masks; `none`: nothing.
    """
    if modular == "moda":
        with ReluOutputs() as relus:
            yield relus.means
    elif modular == "mwt":
        with observed_masks(network) as masks:
            yield masks.values()
    else:
        yield ()


@torch.no_grad()
def check_can_be_modular(network: nn.Module, modular: str, image_shape: Sequence[int]) -> None:
    """Raises UserError for a network that cannot be trained so; it is left in training mode."""
    if modular != "none":
        with activity(network, modular) as found:
            network.train()(torch.zeros(2, *image_shape))
        if not found:
            raise UserError(NOTHING[modular])


def modular_loss(
    activities: Collection[Tensor], labels: Tensor, affinity: float, dispersion: float, compactness: float
) -> Tensor:
    """The term of the loss that makes a network modular, a scalar; differentiable.

    It is the mean over layers of `affinity` * (1 - mean cosine of the pairs of images of the same class) +
    `dispersion` * (mean cosine of the pairs of different classes) + `compactness` * (mean activity). Without a pair
    of a kind its part is 0; the cosine with a vector of zeros is 0.

    Args:
        activities: of each layer, one or more, (n, channels) float, not negative, as of `activity`.
        labels: (n,) int64.
        affinity, dispersion, compactness: the weights; as published 1, 1 and 0.3 of MODA, 0.5, 1.5 and 0 of MwT, which
            calls the first two cohesion and coupling.
    """
    pairs = torch.ones(len(labels), len(labels), dtype=torch.bool, device=labels.device).triu(1)
    same = labels[:, None] == labels
    parts = []
    for of_layer in activities:
        directions = F.normalize(of_layer)
        cosines = directions @ directions.T
        alike, others = (torch.masked_select(cosines, pairs & kind) for kind in (same, ~same))
        part = compactness * of_layer.mean()
        part = part + (affinity * (1 - alike.mean()) if len(alike) else 0)
        parts.append(part + (dispersion * others.mean() if len(others) else 0))
    return torch.stack(parts).mean()
