"""What a gradient search is after: whose modules it learns, from which images, and by which loss."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from configures.base import Config
from search.gradient.batches import any_of


class Goal(Protocol):
    """What a gradient search is after."""

    @property
    def classes(self) -> tuple[int, ...]:
        """The classes whose modules are learned."""

    def settings(self) -> dict[str, Any]:
        """What a search for it is made with."""

    def choose(self, labels: Tensor, size: int, generator: torch.Generator) -> Tensor:
        """Which images a step sees: places (size,) int64, on the CPU, among those of `labels` (n,) int64."""

    def loss(self, logits: Tensor, labels: Tensor, strong_logits: Tensor) -> Tensor:
        """A scalar.

        Args:
            logits: (images, modules) float32.
            labels: (images,) int64.
            strong_logits: (images, all classes) float32, of the strong model.
        """


@dataclass(frozen=True)
class ComposedAnswer:
    """The modules of all classes, which answer together as the strong model does."""

    num_classes: int
    distillation: float  # the share of the loss that is the divergence from the strong model's softmax
    own_class: float  # the weight of what a module's logit does not explain of the strong model's

    @property
    def classes(self) -> tuple[int, ...]:
        """See `Goal`."""
        return tuple(range(self.num_classes))

    def settings(self) -> dict[str, Any]:
        """See `Goal`."""
        return {"distillation": self.distillation, "own_class": self.own_class}

    def choose(self, labels: Tensor, size: int, generator: torch.Generator) -> Tensor:
        """Images of all classes alike."""
        return any_of(len(labels), size, generator)

    def loss(self, logits: Tensor, labels: Tensor, strong_logits: Tensor) -> Tensor:
        """Cross-entropy, and distillation of the strong model's softmax (Hinton et al., arXiv 1503.02531).

        Both are of the modules' answer together, for which a module that always says the same is good enough where all
        others say no. So each is held to the strong model's logit of its own class, too.
        """
        divergence = F.kl_div(
            logits.log_softmax(1), strong_logits.log_softmax(1), log_target=True, reduction="batchmean"
        )
        together = (1 - self.distillation) * F.cross_entropy(logits, labels) + self.distillation * divergence
        return together + self.own_class * unexplained(logits, strong_logits).mean()


@dataclass(frozen=True)
class OwnLogit:
    """One class's module, which says of any image what the strong model's logit of the class says.

    A weak model's images are not the strong model's. It is the logit, and not the decision between classes, that tells
    images of classes apart which the strong model never saw.
    """

    target_class: int
    class_share: float  # of a step's images that are of the class

    @property
    def classes(self) -> tuple[int, ...]:
        """See `Goal`."""
        return (self.target_class,)

    def settings(self) -> dict[str, Any]:
        """See `Goal`."""
        return {"class_share": self.class_share}

    def choose(self, labels: Tensor, size: int, generator: torch.Generator) -> Tensor:
        """Images of the class as its share says, the others alike; fewer where there are not so many."""
        is_own = (labels == self.target_class).cpu()
        num_own = round(self.class_share * size)
        parts = []
        for places, count in ((is_own.nonzero()[:, 0], num_own), ((~is_own).nonzero()[:, 0], size - num_own)):
            parts.append(places[torch.randperm(len(places), generator=generator)[:count]])
        return torch.cat(parts)

    def loss(self, logits: Tensor, labels: Tensor, strong_logits: Tensor) -> Tensor:
        """The share of the strong logit's variance that is not explained."""
        return unexplained(logits, strong_logits[:, [self.target_class]]).mean()


def unexplained(logits: Tensor, strong_logits: Tensor) -> Tensor:
    """The mean squared difference as a share of the strong logits' variance: (images, modules) twice to (modules,)."""
    variance = strong_logits.var(0, correction=0)
    return (logits - strong_logits).square().mean(0) / variance.where(variance > 0, 1)  # of one image there is none


def composed_answer(config: Config) -> ComposedAnswer:
    """The goal of the search for all modules."""
    return ComposedAnswer(config.num_classes, config.mask_distillation, config.mask_own_class)


def own_logit(config: Config, target_class: int) -> OwnLogit:
    """The goal of the search for one class's module."""
    return OwnLogit(target_class, config.patch_class_share)
