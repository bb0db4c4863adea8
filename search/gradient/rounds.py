"""The rounds of a gradient search, each from the modules of the one before, which lie on the disk.

A round trains one group of modules after the other, and keeps those that have taken all steps on the disk, where also
each module of the group has its state. So memory does not depend on the number of classes.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dataset.images import Images, to_device
from engines.engine import Engine
from models.graph import Graph
from models.opening import Stage
from modules.evaluation_inputs import evaluation_inputs
from modules.module import module_of_weights
from search.files import Found, SearchFiles, WeightsOnDisk
from search.gradient.goal import goal_of
from search.gradient.log import Round, words
from search.gradient.on_engine import Begins, Learned, ModulesOnEngine
from search.gradient.trainer import ModuleTrainingSettings, Trainer
from utils.device import core_threads
from utils.errors import reason
from utils.estimate import Estimate, free_memory
from utils.progress import progress, say, steps

STEPS_PER_STATE = 50  # between two states on the disk
MOST_AT_ONCE = 12  # modules of a group: then the strong model's forward pass is a small share of a step
COPIES = 5  # of a module's weights in training: they, gradients, two moments, and of each the unit that it reads


@dataclass(frozen=True)
class GradientSearch:
    """The search for the modules of some or all classes of a strong model.

    Attributes:
        images: that it learns on.
        files: where modules, and the state within a round, are kept.
        classes: whose modules, in rising order; () = all.
        keeps: the share that each round goes down to.
        settings: how modules are trained.
    """

    stage: Stage
    strong: Graph
    images: Images
    files: SearchFiles[Round]
    classes: tuple[int, ...]
    keeps: tuple[float, ...]
    settings: ModuleTrainingSettings

    @property
    def target_classes(self) -> tuple[int, ...]:
        """The classes of the modules."""
        return self.classes or tuple(range(self.strong.num_classes))

    def on_engine(self, engine: Engine) -> ModulesOnEngine:
        """The engine, given what its workers need."""
        stage, local = self.stage, engine.is_on_this_machine
        inputs = evaluation_inputs(stage.config, self.strong, self.images, stage.dtype, is_on_this_machine=local)
        shared = engine.share(inputs), engine.share(self.images.labels)
        return ModulesOnEngine(engine, *shared, goal_of(stage.config), self.settings, stage.seed)

    def learned(self, number: int, on_engine: ModulesOnEngine | None) -> Found:
        """The modules after a round; those are trained that no earlier run has finished.

        On an engine, if one is given, each by itself; else in groups, in threads of this process. Raises UserError for
        files that hold something else.
        """
        targets, settings, masks = self.target_classes, self.settings, self._finished(number)
        missing, begins = [each for each in targets if each not in masks], self._begins(number)
        if on_engine is None:
            learned = self._in_groups(number, missing, begins)
        else:
            learned = on_engine.learn(missing, begins, number * settings.steps, self._shares(number))
            learned = progress(learned, f"round {number}, modules", len(missing))
        for target_class, mask, weights in learned:
            self._save(number, target_class, {"mask": torch.as_tensor(mask), "weights": weights})
            masks[target_class] = mask
        return Found(
            f"to {words(self.keeps[number], settings.budget)}",
            np.stack([masks[target_class] for target_class in targets]),
            WeightsOnDisk([self.files.within(target_class) for target_class in targets]),
            targets,
            asked={"keep": self.keeps[number], "steps": (number + 1) * settings.steps, "budget": settings.budget},
        )

    def forget_state(self) -> None:
        """Remove what an interrupted round goes on from: the round is a candidate now."""
        for path in self.files.folder.glob("state*.pth"):
            path.unlink()

    def _of_round(self, number: int) -> dict[str, Any]:
        """What the files within a round say of it: other rounds may have been asked for before."""
        return {"keeps": list(self.keeps[: number + 1]), "budget": self.settings.budget}

    def _save(self, number: int, target_class: int, module: dict[str, Any]) -> None:
        self.files.within(target_class).save({**self._of_round(number), **module})

    def _load(self, number: int, target_class: int) -> dict[str, Any]:
        """A module within the round, in training or, where it has a mask, finished; nothing where there is none."""
        file = self.files.within(target_class)
        state = file.load() if file.exists() else {}
        return state if all(state.get(name) == value for name, value in self._of_round(number).items()) else {}

    def _shares(self, number: int) -> tuple[float, float]:
        """The share that a round begins with, and the one that it goes down to."""
        return (1.0, *self.keeps)[number], self.keeps[number]

    def _begins(self, number: int) -> Begins | None:
        """What gives a class's module before a round; None: it is the strong model."""
        if not number:
            return None
        targets, (masks, weights) = self.target_classes, self.files.load(number - 1, self.strong, self.target_classes)
        if weights is None:
            raise self.files.kernels(number - 1).damaged("the weights of its modules are not there")
        return lambda each: (masks[targets.index(each)], weights[targets.index(each)])

    def _finished(self, number: int) -> dict[int, np.ndarray]:
        """The masks (K,) of the modules that an earlier run has finished in this round, by class."""
        if (earlier := self.files.folder / "state.pth").exists():
            say(f"{earlier} was written by an earlier version; round {number} starts again")
            earlier.unlink()
        masks = {}
        for target_class in self.target_classes:
            state = self._load(number, target_class)
            if "mask" in state:
                with self._is_ours(target_class):
                    masks[target_class] = state["mask"].numpy()
                    module_of_weights(self.strong, masks[target_class], target_class, state["weights"])
        if masks:
            say(f"going on after {len(masks)} of {len(self.target_classes)} modules of round {number}")
        return masks

    def _in_groups(self, number: int, missing: Sequence[int], begins: Begins | None) -> Iterator[Learned]:
        """Train the modules of some classes, from where an earlier run ended."""
        stage, size = self.stage, group_size(self.strong, self.stage.device)
        groups = [missing[start : start + size] for start in range(0, len(missing), size)]
        first, total = number * self.settings.steps, len(groups) * self.settings.steps
        pixels, labels = to_device(self.images, stage.device)
        estimate = Estimate(f"round {number}", total)
        with core_threads(stage.device) as workers, steps(f"round {number}, steps", total) as advance:
            for group in groups:
                trainer = Trainer(
                    self.strong,
                    [(target_class,) for target_class in group],
                    goal_of(stage.config),
                    pixels,
                    labels,
                    self.settings,
                    normalisation=self.images.normalisation,
                    dtype=stage.dtype,
                    seed=stage.seed,
                    workers=workers,
                )
                if begins is not None:
                    trainer.begin_with([begins(target_class) for target_class in group], first)
                for target_class, module in zip(group, trainer.modules, strict=True):
                    if state := self._load(number, target_class):
                        with self._is_ours(target_class):
                            module.load_state(state)
                if trainer.steps_done > first:
                    say(f"going on after step {trainer.steps_done}")
                for step in range(first, first + self.settings.steps):
                    if step == trainer.steps_done:  # else an earlier run has taken it
                        trainer.step(*self._shares(number))
                        estimate.advance()
                        if (step + 1) % STEPS_PER_STATE == 0:
                            for target_class, module in zip(group, trainer.modules, strict=True):
                                self._save(number, target_class, module.state())
                    advance()
                trainer.finish_round()
                yield from zip(group, trainer.masks(), trainer.weights(), strict=True)
                del trainer  # before the next one takes as much memory

    @contextmanager
    def _is_ours(self, target_class: int) -> Iterator[None]:
        """Raises UserError, which names the file, where the block finds that it holds something else."""
        try:
            yield
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise self.files.within(target_class).damaged(f"not the state of such a search: {reason(error)}") from None


def group_size(graph: Graph, device: torch.device) -> int:
    """How many modules are trained at a time: what half of the free memory holds, one for each thread or more."""
    free, threads = free_memory(), torch.get_num_threads() if device.type == "cpu" else 1
    if device.type == "cuda":  # torch keeps what it frees
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        free = torch.cuda.mem_get_info(device)[0] + unused
    of_module = COPIES * sum(value.nbytes for value in graph.constants.values())
    return max(threads, MOST_AT_ONCE if free is None else min(MOST_AT_ONCE, free // (2 * of_module)))
