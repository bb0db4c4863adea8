"""The rounds of a gradient search, each from the modules of the one before, which lie on the disk.

A round trains one group of modules after the other, and keeps those that have taken all steps on the disk, where also
each module of the group has its state. So memory does not depend on the number of classes.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from dataset.images import Images
from engines.engine import Engine
from models.graph import Graph
from models.opening import Stage
from modules.evaluation_inputs import evaluation_inputs
from modules.module import module_of_weights
from search.files import Found, OnDemand, SearchFiles
from search.gradient.goal import goal_of
from search.gradient.groups import Begins, Learned, group_size, train_in_groups
from search.gradient.log import Round, words
from search.gradient.on_engine import ModulesOnEngine
from search.gradient.trained_module import TrainedModule
from search.gradient.trainer import ModuleTraining, ModuleTrainingSettings
from utils.device import core_threads
from utils.errors import reason
from utils.progress import progress, say


@dataclass(frozen=True)
class GradientSearch:
    """The search for the modules of some or all classes of a strong model.

    Attributes:
        images: that it learns on.
        files: where modules, and the state within a round, are kept.
        classes: whose modules, in rising order; () = all.
        keeps: the share that each round goes down to.
        settings: how modules are trained.
        begins: gives a class's module before the first round; None: it is the strong model.
        made_with: what the files say that the modules in training are made with.
        title: what is done, for people; "": the number of the round.
    """

    stage: Stage
    strong: Graph
    images: Images
    files: SearchFiles[Round]
    classes: tuple[int, ...]
    keeps: tuple[float, ...]
    settings: ModuleTrainingSettings
    begins: Begins | None = None
    made_with: Mapping[str, Any] = field(default_factory=dict)
    title: str = ""

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
            learned = progress(learned, f"{self._title(number)}, modules", len(missing))
        for target_class, mask, weights in learned:
            self._save(number, target_class, {"mask": torch.as_tensor(mask), "weights": weights})
            masks[target_class] = mask
        return Found(
            f"to {words(self.keeps[number], settings.budget)}",
            np.stack([masks[target_class] for target_class in targets]),
            OnDemand(targets, lambda target_class: self.files.within(target_class).load()["weights"]),
            targets,
            answer=self.stage.config.mask_answer,
            asked={"keep": self.keeps[number], "steps": (number + 1) * settings.steps, "budget": settings.budget},
        )

    def forget_state(self) -> None:
        """Remove what an interrupted round goes on from: the round is a candidate now."""
        for path in self.files.folder.glob("state*.pth"):
            path.unlink()

    def _of_round(self, number: int) -> dict[str, Any]:
        """What the files within a round say of it: other rounds may have been asked for before."""
        return {"keeps": list(self.keeps[: number + 1]), "budget": self.settings.budget, **self.made_with}

    def _title(self, number: int) -> str:
        return self.title or f"round {number}"

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
            return self.begins
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
            say(f"going on after {len(masks)} of {len(self.target_classes)} modules of {self._title(number)}")
        return masks

    def _in_groups(self, number: int, missing: Sequence[int], begins: Begins | None) -> Iterator[Learned]:
        """Train the modules of some classes, from where an earlier run ended."""
        stage = self.stage

        def restore(target_class: int, module: TrainedModule) -> None:
            if state := self._load(number, target_class):
                with self._is_ours(target_class):
                    module.load_state(state)

        with core_threads(stage.device) as workers:
            yield from train_in_groups(
                self.strong,
                missing,
                ModuleTraining.on(
                    stage.device, self.images, goal_of(stage.config), self.settings, stage.dtype, stage.seed
                ),
                self._shares(number),
                workers,
                size=group_size(self.strong, stage.device),
                begins=begins,
                steps_done=number * self.settings.steps,
                restore=restore,
                keep=lambda target_class, module: self._save(number, target_class, module.state()),
                what=self._title(number),
            )

    @contextmanager
    def _is_ours(self, target_class: int) -> Iterator[None]:
        """Raises UserError, which names the file, where the block finds that it holds something else."""
        try:
            yield
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise self.files.within(target_class).damaged(f"not the state of such a search: {reason(error)}") from None
