"""A gradient search and its files: the rounds that are done, and the round that it is in.

Like the genetic search it goes on from its files alone, at the step after the last state that they hold.
"""

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import cached_property

import numpy as np

from dataset.images import Split, to_device
from engines.engine import Engine
from models import files as model_files
from models.graph import Graph, fold_batch_norm
from models.opening import Stage
from models.strong_model import load_strong_model, load_strong_split
from modules.evaluation_inputs import evaluation_inputs
from modules.module import Tuning, extract_modules
from search.gradient import files
from search.gradient.goal import goal_of
from search.gradient.learner import MaskLearner, mask_settings
from search.gradient.log import Round
from search.gradient.on_engine import ModulesOnEngine
from search.judging import Judge
from utils.artifacts import Artifacts, CheckpointFile
from utils.device import core_threads
from utils.errors import UserError, reason
from utils.files import set_aside, sha256_of
from utils.progress import progress, say
from utils.recorded_settings import record_or_compare

STEPS_PER_STATE = 50  # between two states on the disk


@dataclass(frozen=True)
class GradientSearch:
    """The search for the modules of some or all classes of a strong model.

    Attributes:
        classes: whose modules, in rising order; () = all.
        keeps: the share of the kernels that each round goes down to.
    """

    stage: Stage
    strong: Graph
    split: Split
    classes: tuple[int, ...]
    keeps: tuple[float, ...]

    @property
    def target_classes(self) -> tuple[int, ...]:
        """The classes of the modules."""
        return self.classes or tuple(range(self.strong.num_classes))

    @cached_property
    def judge(self) -> Judge:
        """Of the modules of all rounds, on the validation images."""
        return Judge(self.strong, self.split.valid, self.stage.device, self.stage.dtype)

    # Starting and going on
    def record_settings(self) -> None:
        """Write the settings next to the files, or compare them with those that are there.

        Raises UserError listing the differences where the files were made with others.
        """
        config = self.stage.config
        made_with = {
            **asdict(mask_settings(config)),
            **asdict(goal_of(config)),
            "seed": self.stage.seed,
            "precision": self.stage.precision,
            "strong_model_sha256": sha256_of(model_files.entire_model(self.stage.artifacts).path),
            "train_images_crc32": self.split.train.fingerprint,
            "valid_images_crc32": self.split.valid.fingerprint,
        }
        record_or_compare(files.settings(self.stage.artifacts, self.classes), made_with)

    def rounds_done(self) -> list[Round]:
        """The rounds that are done, as far as they are those that are asked for now."""
        rounds = files.log(self.stage.artifacts, self.classes).load_if_there()
        same = [row.keep == keep for row, keep in zip(rounds, self.keeps, strict=False)]
        return rounds[: same.index(False) if False in same else len(same)]

    @contextmanager
    def learner(self, num_done: int) -> Iterator[MaskLearner]:
        """The learner in the state within the round to come, where one was written, else after the rounds done.

        Raises UserError for a file that holds no such state.
        """
        stage = self.stage
        pixels, labels = to_device(self.split.train, stage.device)
        with core_threads(stage.device) as workers:
            learner = MaskLearner(
                self.strong,
                self.target_classes,
                goal_of(stage.config),
                pixels,
                labels,
                mask_settings(stage.config),
                normalisation=self.split.train.normalisation,
                dtype=stage.dtype,
                seed=stage.seed,
                workers=workers,
            )
            within = files.state(stage.artifacts, self.classes)
            if within.exists() and load_state(learner, within, self.keeps[: num_done + 1]):
                say(f"going on after step {learner.steps_done}")
            elif num_done:
                keeps = self.keeps[:num_done]
                last = files.round_state(stage.artifacts, num_done - 1, self.classes)
                if not load_state(learner, last, keeps):
                    raise last.damaged(f"expected the state after rounds to keep {list(keeps)}")
                say(f"going on after round {num_done - 1}")
            yield learner

    def on_engine(self, engine: Engine) -> ModulesOnEngine:
        """The engine, given what its workers need."""
        images = self.split.train
        inputs = evaluation_inputs(self.stage.config, self.strong, images, self.stage.dtype)
        return ModulesOnEngine(engine, engine.share(inputs), engine.share(images.labels))

    # The rounds
    def learn_round(self, learner: MaskLearner, rounds: list[Round], on_engine: ModulesOnEngine | None = None) -> Round:
        """Take the steps of the round after `rounds`, as far as they are not done, and write the modules' masks.

        On an engine, if one is given, each module by itself; else all together in threads of this process.
        """
        start, number, artifacts = time.perf_counter(), len(rounds), self.stage.artifacts
        keeps = self.keeps[: number + 1]
        before, keep = (1.0, *keeps)[-2:]
        last, state = len(keeps) * learner.settings.steps, files.state(artifacts, self.classes)
        if on_engine is not None:
            learned = on_engine.learn(learner, last, (before, keep))
            for _ in progress(learned, f"round {number}, modules", len(learner.modules)):
                save_state(learner, state, keeps)
        for step in progress(range(learner.steps_done, last), f"round {number}, steps"):
            learner.step(before, keep)
            if (step + 1) % STEPS_PER_STATE == 0:
                save_state(learner, state, keeps)
        masks = learner.masks(keep)
        tuning = learner.tuning(masks)
        self._forget_after(rounds)
        files.round_kernels(artifacts, number, self.classes).save(masks)
        files.round_gains(artifacts, number, self.classes).save(tuning.gains)
        files.round_logit_maps(artifacts, number, self.classes).save(tuning.logit_maps)
        save_state(learner, files.round_state(artifacts, number, self.classes), keeps)
        row = self.evaluated(number, masks, tuning, learner.steps_done, start)
        files.log(artifacts, self.classes).save([*rounds, row])  # last: a round is done when it is there
        state.remove()
        return row

    def _forget_after(self, rounds: list[Round]) -> None:
        """Leave no row in the log whose files the next round is about to write."""
        log = files.log(self.stage.artifacts, self.classes)
        if len(there := log.load_if_there()) > len(rounds):
            say(f"rounds {len(rounds)} to {len(there) - 1} were to keep other shares: they are done anew")
            if rounds:
                log.save(rounds)
            else:
                log.remove()

    def evaluated(self, number: int, masks: np.ndarray, tuning: Tuning, steps: int, start: float) -> Round:
        """The log's row of a round.

        Args:
            number: of the round.
            masks: (modules, K) bool, True = kept.
            tuning: what was learned in addition.
            steps: since the start of the search.
            start: when the round began, by `time.perf_counter`.
        """
        strong = fold_batch_norm(self.strong)  # the same answers, sooner
        modules = extract_modules(strong, masks, tuning, self.target_classes)
        judged = vars(self.judge.of(modules, masks, self.target_classes))
        known = {"number": number, "keep": self.keeps[number], "steps": steps, **judged}
        known["seconds"] = time.perf_counter() - start
        return Round(**{field.name: known[field.name] for field in fields(Round)})


def open_search(stage: Stage, classes: Sequence[int], keep: float | None, *, fresh: bool = False) -> GradientSearch:
    """The search of a stage's model and dataset for the modules of some classes; () = all.

    `fresh` sets an earlier one aside. Raises UserError where the strong model or the dataset is not there, or they do
    not belong together, or a class has no images.
    """
    strong = load_strong_model(stage.config, stage.artifacts, stage.device)
    split = load_strong_split(stage.config, stage.artifacts)
    for target_class, part in itertools.product(classes, ("train", "valid")):
        is_own = getattr(split, part).labels == target_class
        if is_own.all() or not is_own.any():
            raise UserError(
                f"class {target_class} ({split.classes[target_class]}): expected {part} images of it, and others"
            )
    folder = files.folder(stage.artifacts, classes)
    if fresh and folder.exists():
        print(f"the old search is now {set_aside(folder)}", flush=True)
    return GradientSearch(stage, strong, split, tuple(classes), rounds_to_do(stage.config.mask_keeps, keep))


def load_round(
    artifacts: Artifacts, number: int, num_modules: int, num_kernels: int, classes: Sequence[int] = ()
) -> tuple[np.ndarray, Tuning]:
    """A round's masks (modules, K) bool, and what was learned in addition. Raises UserError for a damaged file."""
    masks = files.round_kernels(artifacts, number, classes).load(num_modules, num_kernels)
    gains = files.round_gains(artifacts, number, classes)
    logit_maps = files.round_logit_maps(artifacts, number, classes).load(num_modules, 2)
    tuning = Tuning(gains.load(num_modules, num_kernels), logit_maps)
    if not (tuning.gains > 0).all():
        raise gains.damaged("expected gains above 0")
    return masks, tuning


def rounds_to_do(keeps: tuple[float, ...], keep: float | None) -> tuple[float, ...]:
    """The shares that the rounds go down to: the configuration's, or only those above `keep`, and `keep` itself twice.

    A round that keeps what the one before kept lets the masks settle.
    """
    if keep is None:
        return keeps
    return (*(share for share in keeps if share > keep), keep, keep)


def save_state(learner: MaskLearner, file: CheckpointFile, keeps: tuple[float, ...]) -> None:
    """Write the state after, or within, the last of the rounds that went down to `keeps`."""
    file.save({"keeps": list(keeps), **learner.state()})


def load_state(learner: MaskLearner, file: CheckpointFile, keeps: tuple[float, ...]) -> bool:
    """Go on from a file's state if it is one of these rounds. Raises UserError where it is not a state."""
    state = file.load()
    try:
        if tuple(state["keeps"]) != keeps:
            return False
        learner.load_state(state)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise file.damaged(f"not the state of such a search: {reason(error)}") from None
    return True
