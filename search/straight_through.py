"""Methods that learn masks of a frozen strong model: a mask is kept where a real number, learned for it, is above 0.

The numbers begin at 1. The step function has no slope, so its gradient is passed straight through, clipped to [-1, 1].
What the published methods differ in (what a mask is of, the loss, the schedule) is in `gradsplitter.py` and `seam.py`.
"""

import math
from abc import ABC, abstractmethod
from argparse import Namespace
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from configures.base import Config
from dataset.images import Images, Split, augment, normalise, to_device
from models.autocast import autocast
from models.evaluation import count_nonzero, count_parameters, cpu_state
from models.graph import Graph
from models.opening import Stage
from search.driver import DrivenMethod, Row
from search.files import Found, SearchFiles
from search.gradient.weight_places import head_rows
from search.method import Panel
from utils.artifacts import Artifacts, CheckpointFile
from utils.device import core_threads
from utils.errors import UserError, reason
from utils.estimate import estimated
from utils.progress import progress
from utils.seeds import torch_seed
from utils.tensorboard import scalar

CANDIDATES = 5  # of a search, evenly over its steps


class AboveZero(torch.autograd.Function):
    """1 where values are above 0, else 0; the gradient is passed on as it is, clipped to [-1, 1]."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        """The mask, of the values' shape and dtype."""
        return (values > 0).to(values.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """The gradient with respect to the values."""
        return gradients[0].clamp(-1, 1)


class Phase(NamedTuple):
    """How a step is taken."""

    number: int  # a new Adam begins with each phase
    head_step_size: float
    mask_step_size: float  # 0: masks stay


class LearningModule(ABC):
    """A module while it learns: the whole strong model, frozen, with masks, and the class's rows of its last layer.

    Args:
        graph: the strong model, on the device.
        target_class: of the module.
        numbers: by name the shapes of the numbers that masks are made of.

    Attributes:
        numbers: float32, by name; they begin at 1.
        head: the class's own rows of the last layer's weight and bias (rows, ...) float32, by name, which are trained.
    """

    def __init__(self, graph: Graph, target_class: int, numbers: Mapping[str, Sequence[int]]) -> None:
        device, _ = graph.device_and_dtype
        self.graph, self.target_class = graph, target_class
        self.numbers = {
            name: torch.ones(tuple(shape), device=device, requires_grad=True) for name, shape in numbers.items()
        }
        self._rows = head_rows(graph, target_class)
        if not self._rows:
            raise UserError("the network's last layer: expected weights of its own for each class, to be trained")
        self.head = {
            name: graph.constants[name][rows].detach().clone().requires_grad_() for name, rows in self._rows.items()
        }
        self._optimizer, self._phase = self._new_optimizer(), -1

    def _new_optimizer(self) -> torch.optim.Adam:
        return torch.optim.Adam([{"params": [*each.values()]} for each in (self.head, self.numbers)])

    @abstractmethod
    def masked(self, masks: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """What masks do, differentiably.

        Args:
            masks: by the names of the numbers, of their shapes, 1 = kept, 0 = dropped.

        Returns the weights that differ from the strong model's, by name; the factors (units,) of units' maps, 0 =
        dropped, which leave no layer empty; and the share that is kept, a scalar.
        """

    def answer(self, images: Tensor, dtype: torch.dtype, *, learns_masks: bool) -> tuple[Tensor, Tensor]:
        """The class's logits (images,) float32 and the share that is kept, a scalar; differentiable.

        Args:
            images: (images, channels, side, side) float32, normalised.
            dtype: bfloat16 runs the network in autocast.
            learns_masks: whether the numbers get gradients, or the head alone.
        """
        weights, factors, share = self._masked_by(learns_masks)
        program = self.graph.program
        constants = [weights.get(name, self.graph.constants[name]) for _, name in program.constants]
        with autocast(images.device, dtype):
            (logits,) = program.run(images, constants, factors=factors)
        return logits[:, self.target_class].float(), share

    def _masked_by(self, learns_masks: bool) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        numbers = {name: value if learns_masks else value.detach() for name, value in self.numbers.items()}
        weights, factors, share = self.masked({name: AboveZero.apply(value) for name, value in numbers.items()})
        heads = {
            name: self.graph.constants[name].index_copy(0, rows, self.head[name]) for name, rows in self._rows.items()
        }
        return weights | heads, factors, share

    def update(self, phase: Phase) -> None:
        """Take a step by the gradients that are there."""
        if phase.number != self._phase:
            self._optimizer, self._phase = self._new_optimizer(), phase.number
        for group, step_size in zip(self._optimizer.param_groups, phase[1:], strict=True):
            group["lr"] = step_size
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def cut(self) -> tuple[np.ndarray, torch.nn.Module]:
        """The unit mask (units,) bool, True = kept, and the module that is cut out by it."""
        weights, factors, _ = self._masked_by(False)
        unit_mask = factors.cpu().numpy() > 0
        graph = self.graph.with_constants({**self.graph.constants, **weights})
        return unit_mask, graph.cut(unit_mask, self.target_class)

    def state(self) -> dict[str, dict[str, Tensor]]:
        """What a later phase depends on, as a checkpoint holds it."""
        parts = {"numbers": self.numbers, "head": self.head}
        return {part: {name: value.detach().cpu() for name, value in values.items()} for part, values in parts.items()}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Go on from `state()`'s. Raises KeyError, TypeError or RuntimeError for another one's."""
        for part, values in (("numbers", self.numbers), ("head", self.head)):
            for name, value in values.items():
                value.copy_(state[part][name])


def never_empty(graph: Graph, mask: Tensor, numbers: Tensor) -> Tensor:
    """Of a mask (units,) of 0 and 1 the units (units,) that are missing where nothing would be left: those of 1.

    They are those with the largest numbers (units,).
    """
    kept, order = (value.detach().cpu().numpy() for value in (mask, numbers))
    missing = graph.units.repair(kept > 0, order) & ~(kept > 0)
    return torch.as_tensor(missing, device=mask.device).to(mask.dtype)


def check_finite(loss: float, number: int) -> None:
    """Raises UserError for a loss that no step can be taken by."""
    if not math.isfinite(loss):
        raise UserError(f"step {number}: the loss is {loss}; use smaller steps, or float32")


class MaskLearner(ABC):
    """The modules of all classes while they learn.

    Args:
        stage: its configuration, seed and precision.
        images: training images.
        modules: of the classes, in their order.
        workers: run modules, one core each; the result does not depend on how many they are.
    """

    def __init__(self, stage: Stage, images: Images, modules: Sequence[LearningModule], workers: Executor) -> None:
        self.stage, self.modules, self.workers, self._normalisation = stage, modules, workers, images.normalisation
        self.pixels, self.labels = to_device(images, stage.device)
        self.batch_size = stage.config.mask_batch_size

    @abstractmethod
    def step(self, number: int) -> float:
        """Take a step; the loss without the term of the size, mean over modules."""

    def drawn(self, places: Tensor, count: int, *numbers: int) -> Tensor:
        """Some of the places (n,), as many as asked for or all; other numbers, other places."""
        generator = torch.Generator().manual_seed(torch_seed(self.stage.seed, "learned masks", *numbers))
        return places[torch.randperm(len(places), generator=generator)[:count].to(places.device)]

    def images(self, places: Tensor, augmented_by: int | None = None) -> Tensor:
        """Normalised images (n, channels, side, side) float32 of places (n,), with random crops by a seed."""
        pixels = self.pixels[places]
        if augmented_by is not None and self._normalisation is not None:  # padding is black pixels
            generator = torch.Generator().manual_seed(augmented_by)
            pixels = augment(pixels, mirror=self.stage.config.mirror, generator=generator)
        return normalise(pixels, self._normalisation)


@dataclass(frozen=True)
class MaskRow(Row):
    """A candidate of a method that learns masks."""

    weights_kept: float = math.nan  # the weights of a module that are not 0, as a share of the strong model's; the mean
    loss: float = math.nan  # without the term of the size; mean over the steps since the candidate before

    def describe(self, *names: str) -> str:
        """See `Judged`."""
        return super().describe(*names, f"weights {self.weights_kept:.1%}", f"loss {self.loss:.4f}")


class MaskLearning(DrivenMethod):
    """A method that learns masks: a candidate after each fifth of its steps, of which `--max_loss` chooses."""

    course = replace(
        DrivenMethod.course,
        panels=(*DrivenMethod.course.panels, Panel("weights_kept", "weights kept in %", "the weights kept", 100)),
    )

    def as_asked(self, arguments: Namespace) -> DrivenMethod:
        """See `DrivenMethod`. Raises UserError for no percentage points."""
        asked = super().as_asked(arguments)
        if not -100 <= asked.max_loss <= 100:
            raise UserError(f"--max_loss {asked.max_loss:g}: expected percentage points, from -100 to 100")
        return asked

    @abstractmethod
    def learner(self, stage: Stage, strong: Graph, images: Images, workers: Executor) -> MaskLearner:
        """The modules of all classes, before the first step."""

    @abstractmethod
    def ends(self, config: Config) -> list[int]:
        """After how many steps each candidate is there."""

    def find(self, stage: Stage, strong: Graph, split: Split, rows: Sequence[MaskRow]) -> Generator[Found, None, None]:
        """See `DrivenMethod`. What an interrupted run had done of a candidate is done again."""
        if len(rows) == CANDIDATES:
            return
        files = self.files(stage.artifacts, self.classes)
        file = CheckpointFile(files.folder / "state.pth", files.made_by)
        frozen = {name: value.detach() for name, value in strong.constants.items()}
        parameters = count_parameters(strong.network)
        with core_threads(stage.device) as workers:
            learner = self.learner(stage, strong.with_constants(frozen).channels_last(), split.train, workers)
            done = 0
            if rows and file.exists():
                state = file.load()
                try:
                    for module, of_module in zip(learner.modules, state["modules"], strict=True):
                        module.load_state(of_module)
                    done = int(state["candidates"])
                except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
                    raise file.damaged(f"not the state of such a search: {reason(error)}") from None
            for number, (start, end) in enumerate(pairwise([0, *self.ends(stage.config)])):
                if number < done:
                    continue
                steps = progress(estimated(range(start, end), f"candidate {number}"), "steps", end - start)
                losses = [scalar("step/loss", learner.step(step), step) for step in steps]
                if number >= len(rows):
                    cut = [module.cut() for module in learner.modules]
                    weights = np.mean([count_nonzero(module) for _, module in cut]) / parameters
                    yield Found(
                        f"after step {end}",
                        strong.units.spread(np.stack([mask for mask, _ in cut])),
                        [cpu_state(module) for _, module in cut],
                        asked={"weights_kept": float(weights), "loss": float(np.mean(losses))},
                    )
                # Behind the log, so that it is never of a candidate that is not there.
                file.save({"candidates": number + 1, "modules": [module.state() for module in learner.modules]})
        file.remove()

    def files(self, artifacts: Artifacts, classes: tuple[int, ...] = ()) -> SearchFiles[Any]:
        """See `Method`: in the folder `NAME`."""
        return replace(super().files(artifacts, classes), row=MaskRow)
