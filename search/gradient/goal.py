"""The goal of the gradient search: one module takes the place of the strong model's logit of its class.

The other classes answer with the strong model's logits. So the modules need nothing of each other, and no module can
leave its class to the others.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from configures.base import Config
from modules.module import as_answers

BINARY = 3.0  # the weight of the binary loss of log-odds; 1, 3 and 10 gave much the same modules


@dataclass(frozen=True)
class Goal:
    """The loss of one module, of one class or several."""

    distillation: float  # the share of the loss that is the divergence from the strong model's softmax
    own_class: float  # the weight of the part of the strong logit that the module's does not explain
    maps: float = 0  # the same of the strong model's feature maps, at the beginning of a round
    answer: str = "logit"  # what the module gives: its class's logit, or its log-odds against all other classes

    def loss(
        self,
        logits: Tensor,
        classes: Sequence[int],
        labels: Tensor,
        strong_logits: Tensor,
        of_step: Tensor | None = None,
    ) -> Tensor:
        """Cross-entropy, distillation (Hinton et al., arXiv 1503.02531), and the unexplained share of the own logit.

        The first two are of the strong model's logits with the entries of the module's classes replaced. Where the
        other classes' logits are low enough, a constant would be good enough for them: the third holds the module to
        the strong model's logit. Of log-odds the first two are binary: the class against all others.

        Args:
            logits: (images, own classes) float32, of the module.
            classes: of the module.
            labels: (images,) int64.
            strong_logits: (images, classes) float32.
            of_step: the strong logits of all images of the step, where these are a part of it; None = these are all.

        Returns a scalar.
        """
        own = torch.tensor(classes, device=logits.device)
        target = self.answers(strong_logits, classes)
        of_all = target if of_step is None else self.answers(of_step, classes)
        of_own = self.own_class * unexplained(logits, target, dim=1, of_all=of_all)
        if self.answer == "log_odds":
            is_own = (labels[:, None] == own).float()
            likely = (1 - self.distillation) * is_own + self.distillation * target.sigmoid()
            of_odds = BINARY * F.binary_cross_entropy_with_logits(logits, likely)
            return of_odds + of_own
        whole = strong_logits.index_copy(1, own, logits)
        divergence = F.kl_div(
            whole.log_softmax(1), strong_logits.log_softmax(1), log_target=True, reduction="batchmean"
        )
        answer = (1 - self.distillation) * F.cross_entropy(whole, labels) + self.distillation * divergence
        return answer + of_own

    def answers(self, strong_logits: Tensor, classes: Sequence[int]) -> Tensor:
        """(images, own classes) what the module of these classes should give, of strong logits (images, classes)."""
        return as_answers(strong_logits, self.answer)[:, list(classes)]

    def recorded(self) -> dict[str, Any]:
        """As plain values; `logit` is left out, because records of an earlier version do not name it."""
        return {name: value for name, value in asdict(self).items() if (name, value) != ("answer", "logit")}


def unexplained(values: Tensor, strong_values: Tensor, dim: int, of_all: Tensor | None = None) -> Tensor:
    """The mean squared difference of logits or maps as a share of the strong ones' variance within channels: a scalar.

    Of maps after Romero et al., "FitNets", arXiv 1412.6550; since a module's channels are some of the strong model's,
    no regressor is needed in between.

    Args:
        values, strong_values: of the same channels, of equal shapes.
        dim: of the channels.
        of_all: the strong values whose variance counts; None = `strong_values`.
    """
    others = [other for other in range(values.dim()) if other != dim]
    variance = (strong_values if of_all is None else of_all).var(others, correction=0).mean()
    return (values - strong_values).square().mean() / variance.where(variance > 0, 1)  # one image has no variance


def goal_of(config: Config) -> Goal:
    """The goal that the configuration describes."""
    return Goal(config.mask_distillation, config.mask_own_class, config.mask_map_distillation, config.mask_answer)
