"""GradSplitter: the kernels of all modules are chosen together, by the cross-entropy of the modules' scores.

After Qi, Sun, Zhang, Zhao and Gao, "Reusing Convolutional Neural Network Models through Modularization and
Composition", TOSEM 2023, arXiv 2311.04438. As published: the strong model's weights are frozen, batch norms have its
statistics; each module has a number for each unit, whose mask multiplies the unit's maps where they are read; a score
is the sigmoid of a module's output, and the loss the cross-entropy of the softmax of all scores, plus `alpha` times the
mean share of the kernels that are kept; Adam, 5 epochs of the heads alone, then 20 cycles of 5 epochs of masks and
heads and 2 of the heads; images are not augmented. Differs in these:

- The published head is two linear layers on all logits of the masked model. A module here has its own logit alone, so
  its head is the class's own row of the last layer, which begins as the strong model's.
- The phases keep their shares of `gradsplitter_steps`, which may be far fewer than 145 epochs have.
- Whole epochs were compared, by hand; here a candidate after each fifth of the cycles.
- The softmax of scores that are between 0 and 1 is never sure: of N classes, the least loss is log(e + N - 1) - 1.
"""

import math
from collections.abc import Mapping
from concurrent.futures import Executor
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from configures.base import Config
from dataset.images import Images
from models.graph import Graph, kernels_share
from models.opening import Stage
from modules.module import MODULES_AT_ONCE
from search.straight_through import (
    CANDIDATES,
    LearningModule,
    MaskLearner,
    MaskLearning,
    Phase,
    check_finite,
    never_empty,
)

EPOCHS, HEADS_FIRST, CYCLES, OF_CYCLE, WITH_MASKS = 145, 5, 20, 7, 5  # as published
FIRST_STEP_SIZE, HEAD_STEP_SIZE = 0.01, 0.001  # Adam's, of the heads: in the first phase, and then


def phase_of(step: int, steps: int, step_size: float) -> Phase:
    """The phase of a step (0 to steps - 1), of which 145 epochs have equal shares."""
    epoch = EPOCHS * step // steps
    if epoch < HEADS_FIRST:
        return Phase(0, FIRST_STEP_SIZE, 0)
    cycle, of_cycle = divmod(epoch - HEADS_FIRST, OF_CYCLE)
    if of_cycle < WITH_MASKS:
        return Phase(2 * cycle + 1, HEAD_STEP_SIZE, step_size)
    return Phase(2 * cycle + 2, HEAD_STEP_SIZE, 0)


class KernelMasks(LearningModule):
    """A module with one number per unit: kernels whose maps are added share one, as published."""

    def __init__(self, graph: Graph, target_class: int) -> None:
        super().__init__(graph, target_class, {"units": [graph.num_units]})
        self._share = kernels_share(graph.units)

    def masked(self, masks: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """See `LearningModule`; the masks are the units' factors."""
        factors = masks["units"] + never_empty(self.graph, masks["units"], self.numbers["units"])
        return {}, factors, self._share(factors)


class ScoresTogether(MaskLearner):
    """Modules that share each step's images and one loss of all their scores."""

    def step(self, number: int) -> float:
        """See `MaskLearner`."""
        config, count = self.stage.config, len(self.modules)
        phase = phase_of(number, config.gradsplitter_steps, config.gradsplitter_step_size)
        places = self.drawn(torch.arange(len(self.labels), device=self.labels.device), self.batch_size, number)
        images, labels = self.images(places), self.labels[places]

        def answer(module: LearningModule) -> tuple[Tensor, Tensor]:
            return module.answer(images, self.stage.dtype, learns_masks=phase.mask_step_size > 0)

        def answer_alone(module: LearningModule) -> Tensor:
            with torch.no_grad():
                return answer(module)[0]

        # Few modules keep their maps until the loss is there; of many each one computes them again.
        answers = list(self.workers.map(answer, self.modules)) if count <= MODULES_AT_ONCE else None
        logits = [each for each, _ in answers] if answers else list(self.workers.map(answer_alone, self.modules))
        together = torch.stack(logits, 1).detach().requires_grad_()
        loss = F.cross_entropy(together.sigmoid(), labels)
        check_finite(float(loss.detach()), number)
        (gradients,) = torch.autograd.grad(loss, together)

        def train(place: int) -> None:
            module = self.modules[place]
            of_logit, share = answers[place] if answers else answer(module)
            # The same gradient as of the loss of all scores, with what this module costs.
            ((of_logit * gradients[:, place]).sum() + config.gradsplitter_alpha / count * share).backward()
            module.update(phase)

        list(self.workers.map(train, range(count)))
        return float(loss.detach())


class GradSplitter(MaskLearning):
    """Kernel masks of all modules, learned together."""

    name = "gradsplitter"

    def settings(self, config: Config) -> dict[str, Any]:
        """See `DrivenMethod`."""
        return config.part_of("GradSplitter")

    def learner(self, stage: Stage, strong: Graph, images: Images, workers: Executor) -> MaskLearner:
        """See `MaskLearning`."""
        modules = [KernelMasks(strong, target_class) for target_class in range(strong.num_classes)]
        return ScoresTogether(stage, images, modules, workers)

    def ends(self, config: Config) -> list[int]:
        """See `MaskLearning`: at the ends of cycles."""
        epochs = [HEADS_FIRST + OF_CYCLE * CYCLES * (number + 1) // CANDIDATES for number in range(CANDIDATES)]
        return [math.ceil(epoch * config.gradsplitter_steps / EPOCHS) for epoch in epochs]
