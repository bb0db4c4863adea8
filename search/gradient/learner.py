"""The gradient search: modules' masks and gains, learned together in rounds that keep less and less.

Each step is a function of the state before it and its number alone, so that a search that was interrupted goes on as if
it had not been.
"""

import math
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from configures.base import Config
from dataset.labelled_images import Normalisation
from models.graph import Graph
from modules.masked_modules import freeze, mask_gradient
from modules.module import Tuning
from search.gradient.batches import StepBatches
from search.gradient.goals import Goal
from search.gradient.on_engine import ModulesOnEngine
from search.gradient.scores import (
    Price,
    gradients_of,
    keep_target,
    kept_share,
    masks_of,
    masks_within,
    mean_similarity,
    sizes_of,
    step_size,
)
from utils.errors import UserError
from utils.memory import keep_freed_memory

# Scores stay within, so that a kernel's past never outweighs what it is good for now. All start at the upper limit: the
# first steps' noise drops no kernel.
SCORE_LIMIT = 0.05
# A round that keeps what the one before kept takes smaller steps, so that noise moves fewer kernels: they settle.
SETTLING = 1 / 3
LOGIT_STEP_SIZE = 0.005  # of each module's logit's scale and bias


@dataclass(frozen=True)
class MaskSettings:
    """What a gradient search is made of."""

    steps: int  # per round
    batch_size: int
    step_size: float  # Adam's, on the scores; at the beginning of a round
    gain_step_size: float  # the same on the gains' logarithms; 0: no gains
    overlap: float  # the weight of the modules' mean Jaccard similarity in the loss
    mirror: bool


def mask_settings(config: Config, steps: int) -> MaskSettings:
    """What a search with so many steps a round is made of, whatever it is after."""
    return MaskSettings(
        steps=steps,
        batch_size=config.mask_batch_size,
        step_size=config.mask_step_size,
        gain_step_size=config.mask_gain_step_size,
        overlap=config.mask_overlap,
        mirror=config.mirror,
    )


class MaskLearner:
    """The masks of some or all modules while they are learned.

    Args:
        graph: the strong model, on the device.
        goal: which modules, from which images, by which loss.
        pixels, labels: (n, side, side, 3) uint8 and (n,) int64 training images, on the device.
        settings: what the search is made of.
        normalisation: of the images.
        dtype: of the convolutions.
        seed: decides the batches and their augmentation.
        workers: run the modules, one core each.
        modules: run them in place of the workers.
    """

    def __init__(
        self,
        graph: Graph,
        goal: Goal,
        pixels: Tensor,
        labels: Tensor,
        settings: MaskSettings,
        *,
        normalisation: Normalisation,
        dtype: torch.dtype,
        seed: int,
        workers: Executor,
        modules: ModulesOnEngine | None = None,
    ) -> None:
        keep_freed_memory()
        self.frozen, self.units, self.goal = freeze(graph, dtype), graph.units, goal
        self.settings = settings
        self.batches = StepBatches(
            pixels, labels, goal.choose, settings.batch_size, settings.mirror, seed, dtype, normalisation
        )
        self.workers, self.modules = workers, modules
        self.folds_gains = torch.as_tensor(graph.folds_gains)
        self.scores = torch.full((len(goal.classes), graph.num_units), SCORE_LIMIT)
        self.log_gains = torch.zeros_like(self.scores)
        self.logit_scale = torch.ones(len(goal.classes), requires_grad=True)
        self.logit_bias = torch.zeros(len(goal.classes), requires_grad=True)
        self.price = Price()
        self.steps_done = 0
        # A short memory of the gradients' sizes: they change as kernels go.
        learned = ([self.scores], [self.log_gains], [self.logit_scale, self.logit_bias])
        self.optimizer = torch.optim.Adam([{"params": group} for group in learned], betas=(0.9, 0.99))

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on, as a checkpoint holds it."""
        return {
            "scores": self.scores,
            "log_gains": self.log_gains,
            "logit_scale": self.logit_scale.detach(),
            "logit_bias": self.logit_bias.detach(),
            "price": self.price.level,
            "steps_done": self.steps_done,
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state()`'s. Raises KeyError, TypeError, ValueError or RuntimeError for another search's."""
        with torch.no_grad():
            for name in ("scores", "log_gains", "logit_scale", "logit_bias"):
                own = getattr(self, name)
                found = state[name]
                if (found.shape, found.dtype) != (own.shape, own.dtype) or not found.isfinite().all():
                    raise ValueError(f"expected {name} to be {own.dtype} of shape {tuple(own.shape)}, all finite")
                own.copy_(found)
        self.optimizer.load_state_dict(state["optimizer"])
        self.price, self.steps_done = Price(float(state["price"])), int(state["steps_done"])

    def step(self, before: float, keep: float) -> float:
        """One step of a round from `before` down to `keep`; returns the loss. Raises UserError if it is not finite."""
        progress = self.steps_done % self.settings.steps / self.settings.steps
        share = SETTLING if keep == before else 1.0
        # The gains go on at full speed where the masks settle: they are what is left to be learned then.
        largest = (share * self.settings.step_size, self.settings.gain_step_size, share * LOGIT_STEP_SIZE)
        for group, of_group in zip(self.optimizer.param_groups, largest, strict=True):
            group["lr"] = step_size(of_group, progress)
        images, labels = self.batches.of_step(self.steps_done)
        strong_logits = self.workers.submit(self._strong_logits, images)

        def loss(logits: Tensor) -> Tensor:
            logits = logits.to(labels.device)  # an engine's come to the CPU
            logits = logits * self.logit_scale.to(logits.device) + self.logit_bias.to(logits.device)
            return self.goal.loss(logits, labels, strong_logits.result())

        masks = masks_of(self.scores, self.units)
        self.optimizer.zero_grad(set_to_none=True)
        factors = masks * self.log_gains.exp()
        if self.modules is None:
            factors = factors.to(images.device)
            value, gradient = mask_gradient(self.frozen, images, factors, loss, self.workers, self.goal.classes)
        else:
            value, gradient = self.modules.mask_gradient(self.steps_done, factors, loss)
        if not math.isfinite(value):
            raise UserError(f"step {self.steps_done}: the loss is {value}; retrain the strong model, or use float32")
        kept, target = kept_share(masks, self.units), keep_target(before, keep, progress)
        of_masks, self.log_gains.grad = gradients_of(masks, self.log_gains, gradient.cpu(), self.folds_gains)
        self.scores.grad = of_masks + self._penalty_gradient(masks, kept, target)
        self.optimizer.step()
        self.scores.clamp_(-SCORE_LIMIT, SCORE_LIMIT)
        self.price = self.price.next(kept, target)
        self.steps_done += 1
        return float(value)

    def masks(self, keep: float) -> np.ndarray:
        """The masks (modules, K) bool, within `keep` of their kernels."""
        return self.units.spread(masks_within(self.scores, self.units, keep).numpy())

    def tuning(self, masks: np.ndarray) -> Tuning:
        """What was learned of the modules beside their masks (modules, K) bool."""
        gains = self.units.spread(self.log_gains.exp().numpy())
        logit_maps = torch.stack([self.logit_scale, self.logit_bias], 1).detach().numpy()
        return Tuning(np.where(masks, gains, np.float32(1)), logit_maps)

    def _penalty_gradient(self, masks: Tensor, kept: float, target: float) -> Tensor:
        """Of the price of the kept kernels and of the modules' overlap, with respect to the masks (modules, units)."""
        gradient = self.price.now(kept, target) * sizes_of(self.units) / self.units.num_kernels
        if self.settings.overlap == 0:
            return gradient
        values = masks.float().requires_grad_()
        (of_overlap,) = torch.autograd.grad(mean_similarity(values, self.units), values)
        return gradient + self.settings.overlap * of_overlap

    @torch.no_grad()
    def _strong_logits(self, images: Tensor) -> Tensor:
        return self.frozen.graph.forward(images).float()
