"""A round on an engine: each module is one task, which needs nothing of the other modules."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from dataset.images import to_device
from engines.engine import Engine
from models.graph import Graph
from modules.evaluation_inputs import EvaluationInputs, graph_on_worker
from search.gradient.goal import Goal
from search.gradient.groups import Begins, Learned, Module, train_in_groups
from search.gradient.trainer import ModuleTraining, ModuleTrainingSettings
from utils.device import PRECISIONS, core_threads

AHEAD = 2  # tasks for each worker that are handed in, so that none waits for the driver


@dataclass(frozen=True)
class ModulesOnEngine:
    """An engine that learns modules.

    Attributes:
        engine: where they are learned.
        inputs: the strong model and the training images, as `engine.share` returned them.
        labels: (n,) int64 of the training images, likewise.
        goal, settings, seed: as of `ModuleTraining`.
    """

    engine: Engine
    inputs: EvaluationInputs
    labels: np.ndarray
    goal: Goal
    settings: ModuleTrainingSettings
    seed: int

    def learn(
        self, classes: Sequence[int], begins: Begins | None, steps_done: int, shares: tuple[float, float]
    ) -> Iterator[Learned]:
        """Let modules take their steps of a round, and yield each as soon as it has.

        They are handed in one after the other, so that few are in memory.

        Args:
            classes: of the modules.
            begins: gives the module of a class before the round; None: it is the strong model.
            steps_done: in the rounds before.
            shares: of the kernels, that the round begins with, and that it goes down to.
        """
        given = self.goal, self.settings, self.seed, self.engine.device, steps_done, shares
        waiting = iter(classes)

        def hand_in() -> None:
            room = max(1, AHEAD * self.engine.workers) - len(self.engine.tasks)
            for target_class in islice(waiting, max(0, room)):
                begun = None if begins is None else _packed(*begins(target_class))
                self.engine.submit(
                    target_class, module_on_worker, self.inputs, self.labels, target_class, begun, *given
                )

        hand_in()
        for target_class, module in self.engine.results():
            yield target_class, *_unpacked(module)
            hand_in()


def module_on_worker(
    inputs: EvaluationInputs,
    labels: np.ndarray,
    target_class: int,
    begun: bytes | None,
    goal: Goal,
    settings: ModuleTrainingSettings,
    seed: int,
    device: str,
    steps_done: int,
    shares: tuple[float, float],
) -> bytes:
    """A task: the module of a class after its steps of a round."""
    graph, pixels = _prepared(inputs, device)
    with core_threads(pixels.device) as workers:
        given = pixels, torch.tensor(labels, device=pixels.device), inputs.normalisation
        training = ModuleTraining(goal, settings, *given, PRECISIONS[inputs.precision], seed)
        begins = None if begun is None else lambda _: _unpacked(begun)
        learned = train_in_groups(
            graph, [target_class], training, shares, workers, begins=begins, steps_done=steps_done
        )
        return next(_packed(mask, weights) for _, mask, weights in learned)


@lru_cache(maxsize=1)
def _prepared(inputs: EvaluationInputs, device: str) -> tuple[Graph, Tensor]:
    """The strong model and the pixels of the training images, on the worker's device."""
    where = torch.device(device)
    return graph_on_worker(inputs, where), to_device(inputs.images, where)[0]


def _packed(mask: np.ndarray, weights: Mapping[str, Tensor]) -> bytes:
    file = io.BytesIO()
    torch.save({"mask": torch.as_tensor(mask), "weights": dict(weights)}, file)
    return file.getvalue()


def _unpacked(module: bytes) -> Module:
    unpacked = torch.load(io.BytesIO(module), weights_only=True)
    return unpacked["mask"].numpy(), unpacked["weights"]
