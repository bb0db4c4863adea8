"""A gradient search as its files tell it: the rounds that are done, and the round within which it is.

Like the genetic search it goes on from its files alone, at the step after the last state that they hold.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import numpy as np
from torch import nn

from dataset.datasets import Split, fingerprint
from dataset.images import to_device
from models import files as model_files
from models.graph import Graph, fold_batch_norm
from models.strong_model import load_strong_model
from models.trained_on import load_strong_split
from models.training import count_right, predict
from modules.composed_model import ComposedModel
from modules.jaccard import mean_pairwise_distance
from modules.module import Tuning, extract_modules
from search.gradient import files
from search.gradient.learner import MaskLearner, MaskSettings, mask_settings
from search.gradient.log import Round
from utils.artifacts import Artifacts, CheckpointFile
from utils.core_threads import core_threads
from utils.errors import reason
from utils.files import set_aside, sha256_of
from utils.progress import progress, say
from utils.recorded_settings import record_or_compare
from utils.stage import Stage

STEPS_PER_STATE = 50  # between two states on the disk


@dataclass(frozen=True)
class GradientSearch:
    """The search of one model and dataset."""

    stage: Stage
    strong: Graph
    split: Split
    keeps: tuple[float, ...]  # the share of the kernels that each round goes down to

    @property
    def settings(self) -> MaskSettings:
        """What the learner is made of."""
        return mask_settings(self.stage.config)

    # Starting and going on
    def record_settings(self) -> None:
        """Write the settings beside the files, or compare them with those that are there.

        Raises UserError listing the differences where the files were made with others.
        """
        artifacts = self.stage.artifacts
        made_with = {
            **asdict(self.settings),
            "seed": self.stage.seed,
            "precision": self.stage.precision,
            "strong_model_sha256": sha256_of(model_files.entire_model(artifacts).path),
            "train_images_crc32": fingerprint(self.split.train),
            "valid_images_crc32": fingerprint(self.split.valid),
        }
        record_or_compare(files.settings(artifacts), made_with)

    def rounds_done(self) -> list[Round]:
        """The rounds that are done, as far as they are those that are asked for now."""
        rounds = files.log(self.stage.artifacts).load_if_there()
        same = [row.keep == keep for row, keep in zip(rounds, self.keeps, strict=False)]
        return rounds[: same.index(False) if False in same else len(same)]

    @contextmanager
    def learner(self, num_done: int) -> Iterator[MaskLearner]:
        """The learner in the state within the round to come, where one was written, else after the rounds done.

        Raises UserError for a file that holds no such state.
        """
        stage, artifacts = self.stage, self.stage.artifacts
        pixels, labels = to_device(self.split.train, stage.device)
        with core_threads(stage.device) as workers:
            learner = MaskLearner(
                self.strong,
                pixels,
                labels,
                self.settings,
                normalisation=self.split.train.normalisation,
                dtype=stage.dtype,
                seed=stage.seed,
                workers=workers,
            )
            within = files.state(artifacts)
            if within.exists() and load_state(learner, within, self.keeps[: num_done + 1]):
                say(f"going on after step {learner.steps_done}")
            elif num_done:
                last, keeps = files.round_state(artifacts, num_done - 1), self.keeps[:num_done]
                if not load_state(learner, last, keeps):
                    raise last.damaged(f"expected the state after rounds to keep {list(keeps)}")
                say(f"going on after round {num_done - 1}")
            yield learner

    # The rounds
    def learn_round(self, learner: MaskLearner, rounds: list[Round]) -> Round:
        """Take the steps of the round after `rounds`, as far as they are not done, and write what it found."""
        start, artifacts, number = time.perf_counter(), self.stage.artifacts, len(rounds)
        keeps = self.keeps[: number + 1]
        before, keep = (1.0, *keeps)[-2:]
        steps = range(learner.steps_done, len(keeps) * self.settings.steps)
        for step in progress(steps, f"round {number}, steps"):
            learner.step(before, keep)
            if (step + 1) % STEPS_PER_STATE == 0:
                save_state(learner, files.state(artifacts), keeps)
        masks = learner.masks(keep)
        tuning = learner.tuning(masks)
        files.round_kernels(artifacts, number).save(masks)
        files.round_gains(artifacts, number).save(tuning.gains)
        files.round_logit_maps(artifacts, number).save(tuning.logit_maps)
        save_state(learner, files.round_state(artifacts, number), keeps)
        modules = extract_modules(fold_batch_norm(self.strong), masks, tuning)  # the same answers, sooner
        row = Round(
            number=number,
            keep=keep,
            kernels_kept=float(masks.mean()),
            distance=mean_pairwise_distance(masks),
            images=len(self.split.valid),
            right_strong=self._right(self.strong.network),
            right_composed=self._right(ComposedModel(modules)),
            steps=learner.steps_done,
            seconds=time.perf_counter() - start,
        )
        files.log(artifacts).save([*rounds, row])  # last: a round is done when it is there
        files.state(artifacts).remove()
        return row

    def found(self, number: int) -> tuple[np.ndarray, Tuning]:
        """What a round found: see `load_round`."""
        return load_round(self.stage.artifacts, number, self.strong.num_classes, self.strong.units.num_kernels)

    def _right(self, network: nn.Module) -> int:
        """How many validation images a classifier assigns to their class."""
        valid = self.split.valid
        return count_right(predict(network, valid, self.stage.device, self.stage.dtype), valid.labels)


def open_search(stage: Stage, keep: float | None, *, fresh: bool = False) -> GradientSearch:
    """The search of a stage's model and dataset; `fresh` sets an earlier one aside.

    Raises UserError where the strong model or the dataset is not there, or they do not belong together.
    """
    strong = load_strong_model(stage.config, stage.artifacts, stage.device)
    split = load_strong_split(stage.config, stage.artifacts)
    folder = files.folder(stage.artifacts)
    if fresh and folder.exists():
        print(f"the old search is now {set_aside(folder)}", flush=True)
    return GradientSearch(stage, strong, split, rounds_to_do(stage.config.mask_keeps, keep))


def load_round(artifacts: Artifacts, number: int, num_classes: int, num_kernels: int) -> tuple[np.ndarray, Tuning]:
    """A round's masks (classes, K) bool, and what was learned beside them. Raises UserError for a damaged file."""
    masks = files.round_kernels(artifacts, number).load(num_classes, num_kernels)
    gains = files.round_gains(artifacts, number)
    logit_maps = files.round_logit_maps(artifacts, number).load(num_classes, 2)
    tuning = Tuning(gains.load(num_classes, num_kernels), logit_maps)
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
