"""SeaM: the weights of each module are chosen one by one, for its class against the others.

After Qi, Sun, Gao, Zhang, Li and Liu, "Reusing Deep Neural Network Models through Model Re-engineering", ICSE 2023, for
binary tasks. As published: the strong model's weights are frozen, batch norms have its statistics; each weight and bias
of a convolution or linear layer has a number, whose mask multiplies it; the loss is the cross-entropy of the class
against as many images of the others, plus `alpha` times the share of the weights that are kept; Adam, in each 5 epochs
one of the head alone; images are cropped at random (and flipped, with `mirror`). Differs in these:

- The published head is a linear layer from all logits to two. A module here has its own logit alone, so its head is the
  class's own row of the last layer, which begins as the strong model's, is not masked, and takes smaller steps.
- The phases keep their shares of `seam_steps`, which may be far fewer than 300 epochs have.
- A kernel without weights is dropped, with its bias, and does not come back. Its maps are 0 while masks are learned,
  too, so that cutting it out changes nothing.
- Each step draws new images of the other classes. The candidate is chosen on validation images of all classes, not on
  test images.
"""

from collections.abc import Mapping
from concurrent.futures import Executor
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from configures.base import Config
from dataset.images import Images
from models.graph import Graph
from models.opening import Stage
from search.gradient.weight_places import head_rows, weights_of
from search.straight_through import (
    CANDIDATES,
    LearningModule,
    MaskLearner,
    MaskLearning,
    Phase,
    check_finite,
    never_empty,
)
from utils.seeds import torch_seed

EPOCHS, OF_CYCLE = 300, 5  # as published
HEAD_STEP_SIZE = 0.001


def phase_of(step: int, steps: int, step_size: float) -> Phase:
    """The phase of a step (0 to steps - 1): the first one of five epochs is of the head alone."""
    is_of_head = (EPOCHS * step // steps) % OF_CYCLE == 0
    return Phase(CANDIDATES * step // steps, HEAD_STEP_SIZE, 0 if is_of_head else step_size)


class WeightMasks(LearningModule):
    """A module with one number per weight and bias of convolutions and linear layers, all but the last one."""

    def __init__(self, graph: Graph, target_class: int) -> None:
        last = head_rows(graph, target_class)
        layers = [layer for layer in graph.channels.layers if not last.keys() & set(weights_of(graph, layer.value))]
        names = dict.fromkeys(name for layer in layers for name in weights_of(graph, layer.value))
        super().__init__(graph, target_class, {name: graph.constants[name].shape for name in names})
        self._count = sum(value.numel() for value in self.numbers.values())
        # Of each conv layer the name of its weight, and the units of its kernels.
        self._kernels = [
            (layer.value.given.weight.name, torch.as_tensor(graph.units.unit_of_channel[layer.channels]))
            for layer in graph.channels.layers
            if layer.has_kernels
        ]

    def masked(self, masks: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """See `LearningModule`: masks multiply weights, and units without weights are dropped."""
        weights = {name: self.graph.constants[name] * mask for name, mask in masks.items()}
        share = torch.stack([mask.sum() for mask in masks.values()]).sum() / self._count
        return weights, self._factors(masks), share

    @torch.no_grad()
    def _factors(self, masks: Mapping[str, Tensor]) -> Tensor:
        """(units,) float32: 1 = a kernel of the unit has a weight."""
        kept = torch.zeros(self.graph.num_units + 1, device=next(iter(masks.values())).device)  # unit -1: the last one
        for name, units in self._kernels:
            counts = masks[name].flatten(1).sum(1) if name in masks else kept.new_ones(len(units))
            kept.index_add_(0, units.to(kept.device) % len(kept), counts)
        factors = (kept[:-1] > 0).float()
        return factors + never_empty(self.graph, factors, kept[:-1])


class OneAgainstOthers(MaskLearner):
    """Modules that learn by themselves, each on images of its own."""

    def step(self, number: int) -> float:
        """See `MaskLearner`."""
        config = self.stage.config
        phase = phase_of(number, config.seam_steps, config.seam_step_size)

        def train(module: LearningModule) -> float:
            is_own = self.labels == module.target_class
            own, others = is_own.nonzero()[:, 0], (~is_own).nonzero()[:, 0]
            numbers = number, module.target_class
            own = self.drawn(own, max(1, self.batch_size // 2), *numbers)
            places = torch.cat([own, self.drawn(others, len(own), *numbers)])
            images = self.images(places, augmented_by=torch_seed(self.stage.seed, "learned masks, crops", *numbers))
            logits, share = module.answer(images, self.stage.dtype, learns_masks=phase.mask_step_size > 0)
            loss = F.binary_cross_entropy_with_logits(logits, is_own[places].float())
            check_finite(float(loss.detach()), number)
            (loss + config.seam_alpha * share).backward()
            module.update(phase)
            return float(loss.detach())

        losses = list(self.workers.map(train, self.modules))
        return sum(losses) / len(losses)


class SeaM(MaskLearning):
    """Weight masks of each module."""

    name = "seam"

    def settings(self, config: Config) -> dict[str, Any]:
        """See `DrivenMethod`."""
        return config.part_of("SeaM")

    def learner(self, stage: Stage, strong: Graph, images: Images, workers: Executor) -> MaskLearner:
        """See `MaskLearning`."""
        modules = [WeightMasks(strong, target_class) for target_class in range(strong.num_classes)]
        return OneAgainstOthers(stage, images, modules, workers)

    def ends(self, config: Config) -> list[int]:
        """See `MaskLearning`."""
        return [-(-config.seam_steps * (number + 1) // CANDIDATES) for number in range(CANDIDATES)]
