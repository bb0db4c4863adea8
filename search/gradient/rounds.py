"""A gradient search as its files tell it: the rounds that are done, and the round within which it is.

Like the genetic search it goes on from its files alone, at the step after the last state that they hold.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from dataset.images import to_device
from dataset.labelled_images import Images, Split, fingerprint
from engines.engine import Engine
from models import files as model_files
from models.graph import Graph, flops_of, fold_batch_norm
from models.strong_model import load_strong_model
from models.trained_on import load_strong_split
from models.training import count_right, predict
from modules.composed_model import ComposedModel
from modules.evaluation_inputs import evaluation_inputs
from modules.jaccard import mean_pairwise_distance
from modules.module import Tuning, extract_modules
from modules.own_class import auc_by_class, auc_of
from search.gradient import files
from search.gradient.goals import Goal, composed_answer, own_logit, unexplained
from search.gradient.learner import MaskLearner, MaskSettings, mask_settings
from search.gradient.log import Round, RoundForPatch
from search.gradient.on_engine import ModulesOnEngine
from utils.artifacts import Artifacts, CheckpointFile, TableFile
from utils.core_threads import core_threads
from utils.errors import UserError, reason
from utils.files import set_aside, sha256_of
from utils.progress import progress, say
from utils.recorded_settings import record_or_compare
from utils.stage import Stage

STEPS_PER_STATE = 50  # between two states on the disk

Row = TypeVar("Row", Round, RoundForPatch)


@dataclass(frozen=True)
class GradientSearch(ABC, Generic[Row]):
    """A search of one model and dataset, whatever it is after.

    Attributes:
        place: where its files lie.
        keeps: the share of the kernels that each round goes down to.
        steps: of a round.
        goal: whose modules it learns, and how.
        log: the rounds that are done.
    """

    stage: Stage
    strong: Graph
    split: Split
    place: Artifacts
    keeps: tuple[float, ...]
    steps: int
    goal: Goal
    log: TableFile[Row]

    @property
    def settings(self) -> MaskSettings:
        """What the learner is made of."""
        return mask_settings(self.stage.config, self.steps)

    @abstractmethod
    def judged(self, number: int, masks: np.ndarray, tuning: Tuning, steps: int, start: float) -> Row:
        """The log's row of a round: what is known of its modules.

        Args:
            number: of the round.
            masks: (modules, K) bool, True = kept.
            tuning: what was learned beside.
            steps: since the start of the search.
            start: when the round began, by `time.perf_counter`.
        """

    # Starting and going on
    def record_settings(self) -> None:
        """Write the settings beside the files, or compare them with those that are there.

        Raises UserError listing the differences where the files were made with others.
        """
        made_with = {
            **asdict(self.settings),
            **self.goal.settings(),
            "seed": self.stage.seed,
            "precision": self.stage.precision,
            "strong_model_sha256": sha256_of(model_files.entire_model(self.stage.artifacts).path),
            "train_images_crc32": fingerprint(self.split.train),
            "valid_images_crc32": fingerprint(self.split.valid),
        }
        record_or_compare(files.settings(self.place), made_with)

    def rounds_done(self) -> list[Row]:
        """The rounds that are done, as far as they are those that are asked for now."""
        rounds = self.log.load_if_there()
        same = [row.keep == keep for row, keep in zip(rounds, self.keeps, strict=False)]
        return rounds[: same.index(False) if False in same else len(same)]

    @contextmanager
    def learner(self, num_done: int, engine: Engine | None = None) -> Iterator[MaskLearner]:
        """The learner in the state within the round to come, where one was written, else after the rounds done.

        Its modules run on the engine, where one is given, else in threads. Raises UserError for a file that holds no
        such state.
        """
        stage = self.stage
        pixels, labels = to_device(self.split.train, stage.device)
        with core_threads(stage.device) as workers:
            learner = MaskLearner(
                self.strong,
                self.goal,
                pixels,
                labels,
                self.settings,
                normalisation=self.split.train.normalisation,
                dtype=stage.dtype,
                seed=stage.seed,
                workers=workers,
                modules=None if engine is None else self._modules_on(engine),
            )
            within = files.state(self.place)
            if within.exists() and load_state(learner, within, self.keeps[: num_done + 1]):
                say(f"going on after step {learner.steps_done}")
            elif num_done:
                last, keeps = files.round_state(self.place, num_done - 1), self.keeps[:num_done]
                if not load_state(learner, last, keeps):
                    raise last.damaged(f"expected the state after rounds to keep {list(keeps)}")
                say(f"going on after round {num_done - 1}")
            yield learner

    def _modules_on(self, engine: Engine) -> ModulesOnEngine:
        stage, settings = self.stage, self.settings
        inputs = evaluation_inputs(stage.config, self.strong, self.split.train, stage.dtype)
        return ModulesOnEngine(engine, inputs, settings.batch_size, settings.mirror, stage.seed)

    # The rounds
    def learn_round(self, learner: MaskLearner, rounds: list[Row]) -> Row:
        """Take the steps of the round after `rounds`, as far as they are not done, and write what it found."""
        start, number = time.perf_counter(), len(rounds)
        keeps = self.keeps[: number + 1]
        before, keep = (1.0, *keeps)[-2:]
        steps = range(learner.steps_done, len(keeps) * self.settings.steps)
        for step in progress(steps, f"round {number}, steps"):
            learner.step(before, keep)
            if (step + 1) % STEPS_PER_STATE == 0:
                save_state(learner, files.state(self.place), keeps)
        masks = learner.masks(keep)
        tuning = learner.tuning(masks)
        self._forget_after(rounds)
        files.round_kernels(self.place, number).save(masks)
        files.round_gains(self.place, number).save(tuning.gains)
        files.round_logit_maps(self.place, number).save(tuning.logit_maps)
        save_state(learner, files.round_state(self.place, number), keeps)
        row = self.judged(number, masks, tuning, learner.steps_done, start)
        self.log.save([*rounds, row])  # last: a round is done when it is there
        files.state(self.place).remove()
        return row

    def _forget_after(self, rounds: list[Row]) -> None:
        """Leave no row in the log whose files the next round is about to write."""
        if len(there := self.log.load_if_there()) > len(rounds):
            say(f"rounds {len(rounds)} to {len(there) - 1} were to keep other shares: they are done anew")
            if rounds:
                self.log.save(rounds)
            else:
                self.log.remove()

    def found(self, number: int) -> tuple[np.ndarray, Tuning]:
        """What a round found: see `load_round`."""
        return load_round(self.place, number, len(self.goal.classes), self.strong.units.num_kernels)

    def logits(self, network: nn.Module) -> Tensor:
        """A network's outputs (images, ...) on the validation images."""
        return predict(network, self.split.valid, self.stage.device, self.stage.dtype)


class JointSearch(GradientSearch[Round]):
    """The search for the modules of all classes, which answer together."""

    def judged(self, number: int, masks: np.ndarray, tuning: Tuning, steps: int, start: float) -> Round:
        """See `GradientSearch`: the composed model beside the strong one."""
        strong = fold_batch_norm(self.strong)  # the same answers, sooner
        composed, labels = ComposedModel(extract_modules(strong, masks, tuning)), self.split.valid.labels
        of_strong, of_modules = self.logits(self.strong.network), self.logits(composed)
        right_strong, right_composed = (count_right(logits, labels) for logits in (of_strong, of_modules))
        auc_strong, auc_modules = (auc_by_class(logits.numpy(), labels) for logits in (of_strong, of_modules))
        return Round(
            number=number,
            keep=self.keeps[number],
            kernels_kept=float(masks.mean()),
            distance=mean_pairwise_distance(masks),
            images=len(self.split.valid),
            right_strong=right_strong,
            right_composed=right_composed,
            steps=steps,
            seconds=time.perf_counter() - start,
            auc_mean=float(np.nanmean(auc_modules)),
            auc_below=float(np.nanmax(auc_strong - auc_modules)),
        )


class SearchForPatch(GradientSearch[RoundForPatch]):
    """The search for one class's module, which is to patch weak models."""

    @property
    def target_class(self) -> int:
        """Whose module it is."""
        return self.goal.classes[0]

    @property
    def class_name(self) -> str:
        """The target class's name."""
        return self.split.classes[self.target_class]

    @property
    def valid_of_class(self) -> Images:
        """The validation images of the target class."""
        return self.split.valid.take(np.flatnonzero(self.split.valid.labels == self.target_class))

    def judged(self, number: int, masks: np.ndarray, tuning: Tuning, steps: int, start: float) -> RoundForPatch:
        """See `GradientSearch`: the module's logit beside the strong model's."""
        strong = fold_batch_norm(self.strong)  # the same answers, sooner
        (module,) = extract_modules(strong, masks, tuning, self.goal.classes)
        return RoundForPatch(
            number=number,
            keep=self.keeps[number],
            kernels_kept=float(masks.mean()),
            flops=flops_of(module, strong.image_shape) / strong.flops,
            images=len(self.split.valid),
            **vars(compare_own_logit(strong.network, module, self.target_class, self.split.valid, self.stage)),
            steps=steps,
            seconds=time.perf_counter() - start,
        )


class LogitsNotFinite(UserError):
    """A network's logits are NaN or infinite."""


@dataclass(frozen=True)
class OwnLogitComparison:
    """A module's logit of its class beside the strong model's, on validation images."""

    auc_strong: float
    auc_module: float
    explained: float  # the share of the strong logit's variance that the module's logit explains


def compare_own_logit(
    strong: nn.Module, module: nn.Module, target_class: int, valid: Images, stage: Stage
) -> OwnLogitComparison:
    """How well a module says of validation images what the strong model's logit of its class says.

    Raises LogitsNotFinite where a logit is not finite.
    """
    of_strong, of_module = (predict(network, valid, stage.device, stage.dtype) for network in (strong, module))
    logits = torch.stack([of_strong[:, target_class], of_module[:, 0]], 1)
    if not logits.isfinite().all():
        raise LogitsNotFinite(f"class {target_class}: logits that are not finite; retrain the strong model")
    auc_strong, auc_module = auc_of(logits.numpy(), valid.labels == target_class)
    explained = 1 - float(unexplained(logits[:, 1:], logits[:, :1]))
    return OwnLogitComparison(float(auc_strong), float(auc_module), explained)


def open_search(stage: Stage, keep: float | None, *, fresh: bool = False) -> JointSearch:
    """The search of a stage's model and dataset; `fresh` sets an earlier one aside.

    Raises UserError where the strong model or the dataset is not there, or they do not belong together.
    """
    strong, split = _opened(stage, stage.artifacts, fresh)
    config, log = stage.config, files.log(stage.artifacts)
    rounds = rounds_to_do(config.mask_keeps, keep), config.mask_steps
    return JointSearch(stage, strong, split, stage.artifacts, *rounds, composed_answer(config), log)


def open_search_for_patch(
    stage: Stage, target_class: int, keep: float | None, *, fresh: bool = False
) -> SearchForPatch:
    """The same for one class's module."""
    place = stage.artifacts.for_patch(target_class)
    strong, split = _opened(stage, place, fresh)
    for part in ("train", "valid"):
        is_own = getattr(split, part).labels == target_class
        if is_own.all() or not is_own.any():
            raise UserError(
                f"class {target_class} ({split.classes[target_class]}): expected {part} images of it, and others"
            )
    config, log = stage.config, files.log_for_patch(place)
    rounds = rounds_to_do(config.patch_keeps, keep), config.patch_steps
    return SearchForPatch(stage, strong, split, place, *rounds, own_logit(config, target_class), log)


def _opened(stage: Stage, place: Artifacts, fresh: bool) -> tuple[Graph, Split]:
    strong = load_strong_model(stage.config, stage.artifacts, stage.device)
    split = load_strong_split(stage.config, stage.artifacts)
    folder = files.folder(place)
    if fresh and folder.exists():
        print(f"the old search is now {set_aside(folder)}", flush=True)
    return strong, split


def load_round(artifacts: Artifacts, number: int, num_modules: int, num_kernels: int) -> tuple[np.ndarray, Tuning]:
    """A round's masks (modules, K) bool, and what was learned beside them. Raises UserError for a damaged file."""
    masks = files.round_kernels(artifacts, number).load(num_modules, num_kernels)
    gains = files.round_gains(artifacts, number)
    logit_maps = files.round_logit_maps(artifacts, number).load(num_modules, 2)
    tuning = Tuning(gains.load(num_modules, num_kernels), logit_maps)
    if not (tuning.gains > 0).all():
        raise gains.damaged("expected gains above 0")
    return masks, tuning


def check_strong_model(place: Artifacts) -> None:
    """Raises UserError where the rounds that are there are of another strong model than the one that is there."""
    file = files.settings(place)
    if file.load().get("strong_model_sha256") != sha256_of(model_files.entire_model(place.of_model).path):
        raise UserError(
            f"the search in {file.path.parent} is of another strong model than the one that is there; "
            f"set it aside with: {file.made_by}"
        )


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
