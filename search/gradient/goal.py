"""The goal of the gradient search: one module takes the place of the strong model's logit of its class.

The other classes answer with the strong model's logits. So the modules need nothing of each other, and no module can
leave its class to the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from configures.base import Config


@dataclass(frozen=True)
class Goal:
    """The loss of one module."""

    distillation: float  # the share of the loss that is the divergence from the strong model's softmax
    own_class: float  # the weight of the part of the strong logit that the module's does not explain

    def loss(self, logit: Tensor, target_class: int, labels: Tensor, strong_logits: Tensor) -> Tensor:
        """Cross-entropy, distillation (Hinton et al., arXiv 1503.02531), and the unexplained share of the own logit.

        The first two are of the strong model's logits with the entry of the target class replaced. Where the other
        classes' logits are low enough, a constant would be good enough for them: the third holds the module to the
        strong model's logit.

        Args:
            logit: (images,) float32, of the module.
            target_class: of the module.
            labels: (images,) int64.
            strong_logits: (images, classes) float32.

        Returns a scalar.
        """
        logits = strong_logits.index_copy(1, torch.tensor([target_class], device=logit.device), logit[:, None])
        divergence = F.kl_div(
            logits.log_softmax(1), strong_logits.log_softmax(1), log_target=True, reduction="batchmean"
        )
        answer = (1 - self.distillation) * F.cross_entropy(logits, labels) + self.distillation * divergence
        return answer + self.own_class * unexplained(logit, strong_logits[:, target_class])

    def total(
        self, logits: Sequence[Tensor], target_classes: Sequence[int], labels: Tensor, strong_logits: Tensor
    ) -> Tensor:
        """The sum of the losses of modules, whose logits are (images,) each."""
        of_modules = zip(logits, target_classes, strict=True)
        return torch.stack([self.loss(logit, number, labels, strong_logits) for logit, number in of_modules]).sum()


def unexplained(logit: Tensor, strong_logit: Tensor) -> Tensor:
    """The mean squared difference of two logits (images,) as a share of the strong one's variance: a scalar."""
    variance = strong_logit.var(correction=0)
    return (logit - strong_logit).square().mean() / variance.where(variance > 0, 1)  # one image has no variance


def goal_of(config: Config) -> Goal:
    """The goal that the configuration describes."""
    return Goal(config.mask_distillation, config.mask_own_class)
