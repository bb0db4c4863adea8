"""The steps of a round on an engine: each module is one task, which needs nothing of the other modules."""

import functools
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engines.engine import Engine
from models.graph import Graph
from modules.evaluation_inputs import EvaluationInputs, graph_on_worker
from search.gradient.goal import Goal
from search.gradient.trainer import ModuleTrainingSettings, Trainer
from utils.device import PRECISIONS, core_threads


@dataclass(frozen=True)
class ModulesOnEngine:
    """An engine that learns modules.

    Attributes:
        engine: where they are learned.
        inputs: the strong model and the training images, as `engine.share` returned them.
        labels: (n,) int64 of the training images, likewise.
    """

    engine: Engine
    inputs: EvaluationInputs
    labels: np.ndarray

    def learn(self, trainer: Trainer, last: int, keeps: tuple[float, float]) -> Iterator[None]:
        """Let the trainer's modules take their steps up to `last`, and yield whenever one of them has.

        Args:
            trainer: has the modules, and gets their new states.
            last: the number of steps since the start of the search.
            keeps: the share of the kernels that the round begins with, and the one that it goes down to.
        """
        settings = trainer.goal, trainer.settings, trainer.batches.seed, self.engine.device, last, keeps
        for number, module in enumerate(trainer.modules):
            if module.steps_done < last:
                own = module.classes, _packed(module.state())
                self.engine.submit(number, steps_on_worker, self.inputs, self.labels, *own, *settings)
        for number, state in self.engine.results():
            trainer.modules[number].load_state(_unpacked(state))
            yield


def steps_on_worker(
    inputs: EvaluationInputs,
    labels: np.ndarray,
    classes: tuple[int, ...],
    state: bytes,
    goal: Goal,
    settings: ModuleTrainingSettings,
    seed: int,
    device: str,
    last: int,
    keeps: tuple[float, float],
) -> bytes:
    """A task: the state of one module after its steps up to `last`."""
    graph, pixels = _prepared(inputs, device)
    with core_threads(pixels.device) as workers:
        trainer = Trainer(
            graph,
            [classes],
            goal,
            pixels,
            torch.tensor(labels, device=pixels.device),
            settings,
            normalisation=inputs.normalisation,
            dtype=PRECISIONS[inputs.precision],
            seed=seed,
            workers=workers,
        )
        (module,) = trainer.modules
        module.load_state(_unpacked(state))
        while module.steps_done < last:
            trainer.step(*keeps)
    return _packed(module.state())


@functools.lru_cache(maxsize=1)
def _prepared(inputs: EvaluationInputs, device: str) -> tuple[Graph, Tensor]:
    """The strong model and the pixels of the training images, on the worker's device."""
    return graph_on_worker(inputs, torch.device(device)), torch.tensor(inputs.pixels, device=device)


def _packed(state: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def _unpacked(state: bytes) -> dict[str, Any]:
    unpacked: dict[str, Any] = torch.load(io.BytesIO(state), weights_only=True)
    return unpacked
