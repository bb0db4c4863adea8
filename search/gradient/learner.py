"""The gradient search: modules' masks and gains, learned in rounds that keep fewer and fewer kernels.

Each module is learned by itself, with a kernel budget of its own. Modules that are learned in one process take their
steps together, because they share a step's images. A step is a function of the state before it and its number alone, so
that an interrupted search goes on as if it had not been, and each module is the same wherever it is learned.
"""

import math
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from configures.base import Config
from dataset.images import Normalisation
from models.graph import Graph
from modules.masked_modules import freeze, mask_gradient
from modules.module import Tuning
from search.gradient.batches import StepBatches
from search.gradient.goal import Goal
from search.gradient.scores import (
    Price,
    gradients_of,
    keep_target,
    kept_share,
    masks_of,
    masks_within,
    sizes_of,
    step_size,
)
from utils.device import keep_freed_memory
from utils.errors import UserError

# Scores stay within, so that a kernel's past never outweighs what it is good for now. All start at the upper limit: the
# first steps' noise drops no kernel.
SCORE_LIMIT = 0.05
# A round that keeps what the one before kept takes smaller steps, so that noise moves fewer kernels: they settle.
SETTLING = 1 / 3
LOGIT_STEP_SIZE = 0.005  # of each module's logit's scale and bias


@dataclass(frozen=True)
class MaskSettings:
    """How a gradient search takes its steps."""

    steps: int  # per round
    batch_size: int
    step_size: float  # Adam's, on the scores; at the beginning of a round
    gain_step_size: float  # the same on the gains' logarithms; 0: no gains
    mirror: bool


def mask_settings(config: Config) -> MaskSettings:
    """The settings that the configuration describes."""
    return MaskSettings(
        steps=config.mask_steps,
        batch_size=config.mask_batch_size,
        step_size=config.mask_step_size,
        gain_step_size=config.mask_gain_step_size,
        mirror=config.mirror,
    )


class LearnedModule:
    """One module's mask, gains, and logit scale and bias while they are learned.

    Args:
        graph: the strong model.
        target_class: of the module.
    """

    def __init__(self, graph: Graph, target_class: int) -> None:
        self.units, self.target_class = graph.units, target_class
        self.folds_gains = torch.as_tensor(graph.folds_gains)
        self.scores = torch.full((1, graph.num_units), SCORE_LIMIT)
        self.log_gains = torch.zeros_like(self.scores)
        self.logit_scale = torch.ones(1, requires_grad=True)
        self.logit_bias = torch.zeros(1, requires_grad=True)
        self.price, self.steps_done = Price(), 0
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

    def update(self, masks: Tensor, of_factors: Tensor, step_sizes: Sequence[float], target: float) -> None:
        """Take a step; the gradients of the logit's scale and bias are there already.

        Args:
            masks: (1, units) bool, of this step.
            of_factors: (1, units): the loss's gradient with respect to the masks times the gains.
            step_sizes: Adam's, of the scores, of the gains' logarithms, and of the logit's scale and bias.
            target: the share of the kernels to keep now.
        """
        for group, of_group in zip(self.optimizer.param_groups, step_sizes, strict=True):
            group["lr"] = of_group
        kept = kept_share(masks, self.units)
        of_masks, self.log_gains.grad = gradients_of(masks, self.log_gains, of_factors, self.folds_gains)
        self.scores.grad = of_masks + self.price.now(kept, target) * sizes_of(self.units) / self.units.num_kernels
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.scores.clamp_(-SCORE_LIMIT, SCORE_LIMIT)
        self.price = self.price.next(kept, target)
        self.steps_done += 1


class MaskLearner:
    """Some or all modules of a strong model while their masks are learned.

    Args:
        graph: the strong model, on the device.
        target_classes: of the modules.
        goal: of each module.
        pixels, labels: (n, side, side, 3) uint8 and (n,) int64 training images, on the device.
        settings: how steps are taken.
        normalisation: of the images; None = they are normalised already.
        dtype: of the convolutions.
        seed: decides the batches and their augmentation.
        workers: run the modules, one core each.
    """

    def __init__(
        self,
        graph: Graph,
        target_classes: Sequence[int],
        goal: Goal,
        pixels: Tensor,
        labels: Tensor,
        settings: MaskSettings,
        *,
        normalisation: Normalisation | None,
        dtype: torch.dtype,
        seed: int,
        workers: Executor,
    ) -> None:
        keep_freed_memory()
        self.frozen, self.units = freeze(graph, dtype), graph.units
        self.goal, self.settings, self.workers = goal, settings, workers
        self.batches = StepBatches(pixels, labels, settings.batch_size, settings.mirror, seed, dtype, normalisation)
        self.modules = [LearnedModule(graph, target_class) for target_class in target_classes]

    @property
    def steps_done(self) -> int:
        """The steps that all modules have taken."""
        return min(module.steps_done for module in self.modules)

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on, as a checkpoint holds it."""
        return {"modules": [module.state() for module in self.modules]}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state()`'s. Raises KeyError, TypeError, ValueError or RuntimeError for another search's."""
        for module, of_module in zip(self.modules, state["modules"], strict=True):
            module.load_state(of_module)

    def step(self, before: float, keep: float) -> float:
        """One step of a round from `before` down to `keep`, of the modules that have taken the fewest steps.

        Returns the mean loss. Raises UserError where it is not finite.
        """
        number = self.steps_done
        modules = [module for module in self.modules if module.steps_done == number]
        progress = number % self.settings.steps / self.settings.steps
        share = SETTLING if keep == before else 1.0
        # The gains go on at full speed where the masks settle: they are what is left to be learned then.
        largest = (share * self.settings.step_size, self.settings.gain_step_size, share * LOGIT_STEP_SIZE)
        images, labels = self.batches.of_step(number)
        strong_logits = self.workers.submit(self._strong_logits, images)

        def loss(logits: Tensor) -> Tensor:
            own = [
                logit.contiguous() * module.logit_scale.to(logit.device) + module.logit_bias.to(logit.device)
                for logit, module in zip(logits.unbind(1), modules, strict=True)
            ]
            return self.goal.total(own, target_classes, labels, strong_logits.result())

        target_classes = [module.target_class for module in modules]
        masks = [masks_of(module.scores, self.units) for module in modules]
        factors = [mask * module.log_gains.exp() for mask, module in zip(masks, modules, strict=True)]
        value, gradient = mask_gradient(
            self.frozen, images, torch.cat(factors).to(images.device), loss, self.workers, target_classes
        )
        if not math.isfinite(value):
            raise UserError(f"step {number}: the loss is {value}; retrain the strong model, or use float32")
        step_sizes = [step_size(of_group, progress) for of_group in largest]
        target = keep_target(before, keep, progress)
        for module, mask, of_factors in zip(modules, masks, gradient.cpu().split(1), strict=True):
            module.update(mask, of_factors, step_sizes, target)
        return float(value) / len(modules)

    def masks(self, keep: float) -> np.ndarray:
        """The masks (modules, K) bool, each within `keep` of its kernels."""
        rows = [masks_within(module.scores, self.units, keep) for module in self.modules]
        return self.units.spread(torch.cat(rows).numpy())

    def tuning(self, masks: np.ndarray) -> Tuning:
        """What was learned of the modules in addition to their masks (modules, K) bool."""
        gains = self.units.spread(torch.cat([module.log_gains.exp() for module in self.modules]).numpy())
        logit_maps = [torch.stack([module.logit_scale, module.logit_bias], 1).detach() for module in self.modules]
        return Tuning(np.where(masks, gains, np.float32(1)), torch.cat(logit_maps).numpy())

    @torch.no_grad()
    def _strong_logits(self, images: Tensor) -> Tensor:
        return self.frozen.graph.forward(images).float()
