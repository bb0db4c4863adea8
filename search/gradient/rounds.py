"""The rounds of a gradient search, each from the one before, or from the state within it that an earlier run left."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dataset.images import Images, to_device
from engines.engine import Engine
from models.graph import Graph
from models.opening import Stage
from modules.evaluation_inputs import evaluation_inputs
from modules.module import extract_modules
from search.files import Found, SearchFiles
from search.gradient.goal import goal_of
from search.gradient.log import Round, words
from search.gradient.on_engine import ModulesOnEngine
from search.gradient.trainer import ModuleTrainingSettings, Trainer
from utils.artifacts import CheckpointFile
from utils.device import core_threads
from utils.errors import reason
from utils.estimate import estimated
from utils.progress import progress, say

STEPS_PER_STATE = 50  # between two states on the disk


@dataclass(frozen=True)
class GradientSearch:
    """The search for the modules of some or all classes of a strong model.

    Attributes:
        images: that it learns on.
        files: where its state is kept.
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

    @contextmanager
    def trainer(self, num_done: int) -> Iterator[Trainer]:
        """The trainer in the state within the round to come, where one was written, else after the rounds done.

        Raises UserError for a file that holds no such state.
        """
        stage = self.stage
        pixels, labels = to_device(self.images, stage.device)
        with core_threads(stage.device) as workers:
            trainer = Trainer(
                self.strong,
                [(target_class,) for target_class in self.target_classes],
                goal_of(stage.config),
                pixels,
                labels,
                self.settings,
                normalisation=self.images.normalisation,
                dtype=stage.dtype,
                seed=stage.seed,
                workers=workers,
            )
            within = self.files.within
            if within.exists() and load_state(trainer, within, self.keeps[: num_done + 1]):
                say(f"going on after step {trainer.steps_done}")
            elif num_done:
                masks, weights = self.files.load(num_done - 1, self.strong, self.target_classes)
                networks = extract_modules(self.strong, masks, self.target_classes, weights)
                trainer.begin_with(masks, networks, num_done * self.settings.steps)
            yield trainer

    def on_engine(self, engine: Engine) -> ModulesOnEngine:
        """The engine, given what its workers need."""
        inputs = evaluation_inputs(self.stage.config, self.strong, self.images, self.stage.dtype)
        return ModulesOnEngine(engine, engine.share(inputs), engine.share(self.images.labels))

    def learned(self, trainer: Trainer, number: int, on_engine: ModulesOnEngine | None) -> Found:
        """Take the steps of a round, as far as they are not done: the modules after it.

        On an engine, if one is given, each module by itself; else all together in threads of this process.
        """
        keeps = self.keeps[: number + 1]
        before, keep = (1.0, *keeps)[-2:]
        last, state = len(keeps) * trainer.settings.steps, self.files.within
        if on_engine is not None:
            learned = on_engine.learn(trainer, last, (before, keep))
            for _ in progress(learned, f"round {number}, modules", len(trainer.modules)):
                state.save(state_of(trainer, keeps))
        steps = range(trainer.steps_done, last)
        for step in progress(estimated(steps, f"round {number}"), f"round {number}, steps", len(steps)):
            trainer.step(before, keep)
            if (step + 1) % STEPS_PER_STATE == 0:
                state.save(state_of(trainer, keeps))
        trainer.finish_round()
        return Found(
            f"to {words(keep, self.settings.budget)}",
            trainer.masks(),
            trainer.weights(),
            self.target_classes,
            asked={"keep": keep, "steps": last, "budget": self.settings.budget},
        )


def state_of(trainer: Trainer, keeps: tuple[float, ...]) -> dict[str, Any]:
    """The state within the last of the rounds that went down to `keeps`, as a checkpoint holds it."""
    return {"keeps": list(keeps), "budget": trainer.settings.budget, **trainer.state()}


def load_state(trainer: Trainer, file: CheckpointFile, keeps: tuple[float, ...]) -> bool:
    """Go on from a file's state if it is one of these rounds. Raises UserError where it is not a state."""
    state = file.load()
    try:
        if (tuple(state["keeps"]), state["budget"]) != (keeps, trainer.settings.budget):
            return False
        trainer.load_state(state)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise file.damaged(f"not the state of such a search: {reason(error)}") from None
    return True
