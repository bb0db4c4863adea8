"""Modules are trained towards their goal, by themselves, while units are dropped or all stay.

A group of modules takes its steps together, because they share a step's images and the strong model's logits of them.
A step is a function of the state before it and its number alone, so that an interrupted search goes on as if it had not
been, and each module is the same wherever and with whichever others it is trained.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from configures.base import Config
from dataset.images import Crop, Images, Normalisation, normalise, to_device
from models.evaluation import cpu_state
from models.graph import (
    STATISTICS_IMAGES,
    Graph,
    Observed,
    Size,
    estimate_statistics,
    flops_share,
    fold_batch_norm,
    kernels_share,
    statistics_batches,
    stream_maps,
)
from modules.module import module_of_weights
from search.gradient.batches import StepBatches
from search.gradient.goal import Goal
from search.gradient.pruning import drops_after, keep_target
from search.gradient.trained_module import TrainedModule, answer_and_maps
from search.gradient.weight_places import WeightPlaces
from utils.device import keep_freed_memory
from utils.errors import UserError
from utils.tensorboard import scalar

PIXELS_AT_ONCE = 64 * 128**2  # of a step's images, which bounds the memory: 20 images of 224 pixels a side


class LossNotFinite(UserError):
    """Training with this step size explodes."""


@dataclass(frozen=True)
class ModuleTrainingSettings:
    """How modules are trained."""

    steps: int  # of a round
    batch_size: int
    step_size: float  # Adam's, at the beginning of a round
    mirror: bool
    budget: str = "kernels"  # what shares to keep are of: "kernels" or "flops"
    crop: Crop = "shifted"

    def recorded(self) -> dict[str, Any]:
        """As plain values; `shifted` crops are left out, because records of an earlier version do not name them."""
        return {name: value for name, value in asdict(self).items() if (name, value) != ("crop", "shifted")}


def search_settings(config: Config, budget: str) -> ModuleTrainingSettings:
    """The settings of a search that the configuration describes."""
    steps, step_size = config.mask_steps, config.mask_step_size
    return ModuleTrainingSettings(steps, config.mask_batch_size, step_size, config.mirror, budget, config.crop)


def fine_tuning_settings(config: Config) -> ModuleTrainingSettings:
    """The settings of a fine-tuning, which is one round."""
    steps, step_size = config.fine_tuning_steps, config.fine_tuning_step_size
    return ModuleTrainingSettings(steps, config.mask_batch_size, step_size, config.mirror, crop=config.crop)


@dataclass(frozen=True)
class ModuleTraining:
    """Towards what modules are trained, how, and on which images.

    Attributes:
        goal: of each module.
        settings: how steps are taken.
        pixels, labels: (n, side, side, 3) uint8 and (n,) int64 training images, on the device.
        normalisation: of the images; None = they are normalised already.
        dtype: bfloat16 runs the networks in autocast; weights stay float32.
        seed: decides the batches and their augmentation.
    """

    goal: Goal
    settings: ModuleTrainingSettings
    pixels: Tensor
    labels: Tensor
    normalisation: Normalisation | None
    dtype: torch.dtype
    seed: int

    @classmethod
    def on(
        cls,
        device: torch.device,
        images: Images,
        goal: Goal,
        settings: ModuleTrainingSettings,
        dtype: torch.dtype,
        seed: int,
    ) -> "ModuleTraining":
        """A training on images, which are brought to the device; the other arguments are the attributes."""
        return cls(goal, settings, *to_device(images, device), images.normalisation, dtype, seed)


class Trainer:
    """Some or all modules of a strong model while they are trained.

    Args:
        graph: the strong model, on the device.
        classes: of each module.
        training: of the modules.
        workers: run the modules, one core each; the result does not depend on how many they are.
    """

    def __init__(
        self, graph: Graph, classes: Sequence[tuple[int, ...]], training: ModuleTraining, workers: Executor
    ) -> None:
        keep_freed_memory()
        goal, settings = training.goal, training.settings
        self.goal, self.settings, self.workers, self.dtype = goal, settings, workers, training.dtype
        self.batches = StepBatches(
            training.pixels,
            training.labels,
            settings.batch_size,
            settings.mirror,
            settings.crop,
            training.seed,
            torch.float32,
            training.normalisation,
        )
        self.graph = graph = graph.channels_last()  # rounding depends on the layout, and workers get plain weights
        self._strong, places = fold_batch_norm(graph).network, WeightPlaces(graph)
        computed = {step.name for step in self._strong.graph_program.steps}
        self._observed = [each for each in stream_maps(graph) if goal.maps and each.name in computed]
        self.modules = [TrainedModule(graph, places, of_module) for of_module in classes]
        for module in self.modules if goal.answer == "log_odds" else ():
            module.begin_with_difference()
        self._sizes: dict[int | None, Size] = {
            module.target_class: flops_share(graph, module.target_class)
            if settings.budget == "flops"
            else kernels_share(graph.units)
            for module in self.modules
        }

    def begin_with(self, modules: Iterable[tuple[np.ndarray, Mapping[str, Tensor]]], steps_done: int = 0) -> None:
        """Begin a round with modules of these masks (K,) bool and state_dicts.

        `steps_done` is the number of steps in the rounds before.
        """
        for module, (mask, weights) in zip(self.modules, modules, strict=True):
            network = module_of_weights(self.graph, mask, module.target_class, weights)
            module.begin_round(self.graph.units.gather(mask), network, steps_done)

    @property
    def steps_done(self) -> int:
        """The steps that all modules have taken."""
        return min(module.steps_done for module in self.modules)

    def step(self, before: float, keep: float) -> float:
        """One step of a round from `before` down to `keep`, of the modules that have taken the fewest steps.

        More than PIXELS_AT_ONCE are taken in parts as equal as possible, which count by their images; batch norms use
        the statistics of each part. Returns the mean loss. Raises LossNotFinite.
        """
        number, steps = self.steps_done, self.settings.steps
        modules = [module for module in self.modules if module.steps_done == number]
        of_round = number % steps
        images, labels = self.batches.of_step(number)
        parts = min(len(images), -(-images[:, 0].numel() // PIXELS_AT_ONCE))
        observed = [self._observed, *[[]] * (parts - 1)]  # maps are of the first images alone
        given = list(zip(images.tensor_split(parts), labels.tensor_split(parts), observed, strict=True))
        of_strong = [self.workers.submit(self._strong_answer, images, observed) for images, _, observed in given]
        will_drop = keep < before and keep_target(before, keep, of_round, steps) > keep

        def train(module: TrainedModule) -> float:
            value, of_step = 0.0, torch.cat([answer.result()[0] for answer in of_strong])
            for part, ((images, labels, observed), answer) in enumerate(zip(given, of_strong, strict=True)):
                is_noted = will_drop and part == 0  # whose random signs say nearly as much as those of all images
                gates = torch.ones(self.graph.num_units, device=images.device, requires_grad=True) if is_noted else None
                logits, maps = module.answer(images, self.dtype, observed, gates)
                if gates is not None:
                    module.note_saliency(logits, gates, self.batches.signs_of_step(number, logits.shape))
                strong_logits, strong_maps = answer.result()
                loss = self.goal.loss(logits, module.classes, labels, strong_logits, of_step)
                loss = loss * (len(labels) / len(of_step))
                value += float(loss.detach())
                if not math.isfinite(value):
                    raise LossNotFinite(f"step {number}: the loss is {value}; use smaller steps, or float32")
                if maps:
                    of_maps = module.unexplained_maps(observed, maps, strong_maps)
                    loss = loss + self.goal.maps * (1 - of_round / steps) * of_maps
                loss.backward(inputs=[*module.network.parameters()])  # not of the gates
            module.update(self._step_size(of_round))
            return value

        losses = list(self.workers.map(train, modules))  # as many at a time as there are workers
        if will_drop and drops_after(of_round, steps):
            target = keep_target(before, keep, of_round + 1, steps)
            for module in modules:
                module.drop(self._sizes[module.target_class], target)
        return scalar("step/loss", sum(losses) / len(losses), number)

    def _step_size(self, of_round: int) -> float:
        """A cosine down to 0, so that weights come to rest."""
        return self.settings.step_size * 0.5 * (1 + math.cos(math.pi * of_round / self.settings.steps))

    def finish_round(self) -> None:
        """Make the modules what they are in use: with statistics of batch norms that do not depend on the batch."""
        list(
            self.workers.map(
                lambda module: estimate_statistics(module.network, self._statistics_batches()), self.modules
            )
        )

    def _statistics_batches(self) -> Iterator[Tensor]:
        pixels, normalisation = self.batches.pixels, self.batches.normalisation
        generator = torch.Generator().manual_seed(self.batches.seed)
        chosen = torch.randperm(len(pixels), generator=generator)[:STATISTICS_IMAGES].to(pixels.device)
        for batch in statistics_batches(chosen, pixels.shape[1]):
            yield normalise(pixels[batch], normalisation)

    def masks(self) -> np.ndarray:
        """The masks (modules, K) bool."""
        return self.graph.units.spread(np.stack([module.unit_mask for module in self.modules]))

    def weights(self) -> list[dict[str, Tensor]]:
        """The modules' state_dicts, on the CPU."""
        return [cpu_state(module.network) for module in self.modules]

    @torch.no_grad()
    def _strong_answer(self, images: Tensor, observed: Sequence[Observed]) -> tuple[Tensor, dict[str, Tensor]]:
        return answer_and_maps(self._strong, self._strong.graph_program, images, self.dtype, observed)
