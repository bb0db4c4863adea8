"""Fine-tuning: the weights of a module set's modules are trained towards the goal of the gradient search.

A search chooses kernels and leaves their weights as they are, which were trained to work with those that were dropped.
A short training lets them work without. The kernels of a module, and so its size, stay the same. As in the search, a
step is a function of the state before it and its number alone, and each module is trained by itself.
"""

import math
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from configures.base import Config
from dataset.images import Images, to_device
from models.opening import Stage
from search.gradient.batches import StepBatches
from search.gradient.goal import Goal, goal_of
from search.gradient.scores import step_size
from utils.device import keep_freed_memory
from utils.errors import UserError, reason


class LossNotFinite(UserError):
    """Training with this step size explodes."""


@dataclass(frozen=True)
class FineTuningSettings:
    """How fine-tuning takes its steps."""

    steps: int
    batch_size: int
    step_size: float  # Adam's, at the beginning; it falls as a cosine does
    mirror: bool


def fine_tuning_settings(config: Config) -> FineTuningSettings:
    """The settings that the configuration describes."""
    return FineTuningSettings(
        config.fine_tuning_steps, config.mask_batch_size, config.fine_tuning_step_size, config.mirror
    )


def made_with(stage: Stage) -> dict[str, Any]:
    """What the result depends on in addition to modules, strong model and images, as plain values."""
    config = stage.config
    of_steps = {**asdict(fine_tuning_settings(config)), **asdict(goal_of(config))}
    return {**of_steps, "seed": stage.seed, "precision": stage.precision}


class FineTuner:
    """Modules while their weights are trained.

    Args:
        modules: in evaluation mode, on the device; their parameters change.
        target_classes: of the modules.
        strong: the strong model's network, on the device; it stays as it is.
        goal: of each module.
        images: the strong model's training images.
        settings: how steps are taken.
        device, dtype: bfloat16 runs the networks in autocast; weights stay float32.
        seed: decides the batches and their augmentation.
        workers: run the modules; the result does not depend on how many they are.
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        target_classes: Sequence[int],
        strong: nn.Module,
        goal: Goal,
        images: Images,
        settings: FineTuningSettings,
        *,
        device: torch.device,
        dtype: torch.dtype,
        seed: int,
        workers: Executor,
    ) -> None:
        keep_freed_memory()
        self.modules, self.target_classes = nn.ModuleList(modules), target_classes
        self.strong, self.goal, self.settings = strong, goal, settings
        self.device, self.dtype, self.workers = device, dtype, workers
        self.batches = StepBatches(
            *to_device(images, device), settings.batch_size, settings.mirror, seed, dtype, images.normalisation
        )
        self.steps_done = 0
        # The searches' own memory of the gradients' sizes.
        self.optimizer = torch.optim.Adam(self.modules.parameters(), settings.step_size, betas=(0.9, 0.99))

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on, as a checkpoint holds it."""
        weights = {name: value.detach().cpu() for name, value in self.modules.state_dict().items()}
        return {"weights": weights, "optimizer": self.optimizer.state_dict(), "steps_done": self.steps_done}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state()`'s. Raises ValueError, in one line, for what is not such a state."""
        try:
            if not all(torch.isfinite(value).all() for value in state["weights"].values()):
                raise ValueError("it holds NaN or infinity")
            self.modules.load_state_dict(state["weights"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.steps_done = int(state["steps_done"])
        except (KeyError, TypeError, RuntimeError, AttributeError) as error:
            raise ValueError(reason(error)) from None

    def step(self) -> float:
        """Take one step and return the loss before it. Raises LossNotFinite if that is not finite."""
        progress = self.steps_done / self.settings.steps
        for group in self.optimizer.param_groups:
            group["lr"] = step_size(self.settings.step_size, progress)
        images, labels = self.batches.of_step(self.steps_done)
        of_strong = self.workers.submit(self._strong_logits, images)
        outputs = list(self.workers.map(partial(self._output, images=images), self.modules))
        logits = [output.detach().contiguous().requires_grad_() for output in outputs]
        loss = self.goal.total(logits, self.target_classes, labels, of_strong.result())
        if not math.isfinite(value := float(loss.detach())):
            raise LossNotFinite(f"step {self.steps_done}: the loss is {value}; lower the fine_tuning_step_size")
        loss.backward()
        self.optimizer.zero_grad(set_to_none=True)
        list(self.workers.map(torch.autograd.backward, outputs, [logit.grad for logit in logits]))
        self.optimizer.step()
        self.steps_done += 1
        return value

    def _output(self, module: nn.Module, images: Tensor) -> Tensor:
        """A module's logit (batch,) float32."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            return module(images)[:, 0].float()

    @torch.no_grad()
    def _strong_logits(self, images: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            return self.strong(images).float()
