"""The driver of search methods that yield one candidate after the other.

It holds the lock, sets an earlier search aside, compares settings, judges, logs, resumes, chooses, and writes the set.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from configures.base import Config
from dataset.images import Split
from models import files as model_files
from models.graph import Graph, fold_batch_norm
from models.opening import Stage
from models.strong_model import graph_of, load_strong_model, load_strong_split, show_if_few
from modules.module import Tuning, extract_modules
from modules.module_set import ModuleSet, show_module_set
from modules.module_sets import check_new_name, save_set
from search.judging import Judge, Judged, Judgement, smallest_within
from search.method import Candidate, Course, Found, Panel, check_strong_model
from utils.artifacts import ArrayFile, Artifacts, CheckpointFile, JsonFile, Role, TableFile
from utils.errors import UserError
from utils.files import set_aside, sha256_of
from utils.locks import held
from utils.progress import say
from utils.recorded_settings import record_or_compare

MAX_LOSS = 1.0  # percentage points, where no other number is asked for


Learned = tuple[np.ndarray, Tuning | None]  # masks (modules, K) bool, and what was learned in addition


@dataclass(frozen=True)
class Row(Judged):
    """One candidate, judged on all validation images: see `Judgement`."""

    number: int
    words: str  # what was asked for
    seconds: float  # since the candidate before, or the start; of the last run, where it was interrupted
    target_classes: tuple[int, ...]
    kernels_kept: float
    flops: float
    distance: float
    images: int
    right_strong: int
    right_composed: int
    auc_mean: float
    auc_least: float
    auc_below: float
    explained_least: float


class CandidateFiles(NamedTuple):
    """A candidate's modules, and what the method goes on from after them."""

    kernels: ArrayFile
    gains: ArrayFile
    logit_maps: ArrayFile
    state: CheckpointFile


class DrivenMethod(ABC):
    """A method that the driver runs: a subclass says its `name`, its settings, and how it finds candidates.

    Its files lie in `data/MODEL_DATASET/NAME`. A method overrides a default that does not fit it.

    Attributes:
        classes: whose modules are searched, in rising order; () = all, or as each candidate says.
        max_loss: the percentage points of validation accuracy that may be lost.
    """

    name: str
    script = "scripts/run_module_search.py"
    options: tuple[str, ...] = ("max_loss",)
    classes: tuple[int, ...] = ()
    max_loss: float = MAX_LOSS
    course = Course(
        "candidate",
        Panel("number", "candidate"),
        (
            Panel("points_lost", "accuracy lost in percentage points,\nvalidation images", "the points lost"),
            Panel("kernels_kept", "kernels kept in %", "the kernels kept", 100),
            Panel("distance", "mean Jaccard distance of the modules", "the modules' mean Jaccard distance"),
        ),
        "One point per candidate, in the order in which they were found. Accuracy is the composed model's compared "
        "with the strong model's, on the validation images that the choice is made by.",
    )

    # To be said by the method
    @abstractmethod
    def find(self, stage: Stage, strong: Graph, split: Split, rows: Sequence[Any]) -> Generator[Found, None, None]:
        """Yield the candidates after those of `rows`.

        Args:
            stage: its settings, seed and device; files of the method's own go to `folder`.
            strong: the strong model, on the device.
            split: the images; what a method decides by is of `train` or `valid`.
            rows: of all candidates found so far; the driver adds each one's before it asks for the next.
        """

    def settings(self, config: Config) -> dict[str, Any]:
        """What the candidates depend on besides seed, precision, strong model and images; plain values by name."""
        return {}

    def configured(self, config: Config) -> dict[str, Any]:
        """The settings of the configuration that it is made with, by their names there."""
        return self.settings(config)

    def again(self) -> list[str]:
        """The options that find the same modules again."""
        return ["--method", self.name, *self.max_loss_option()]

    def max_loss_option(self) -> list[str]:
        """`--max_loss`, where it has another value than without it."""
        return [] if self.max_loss == MAX_LOSS else ["--max_loss", f"{self.max_loss:g}"]

    # Its rows
    def going_on(self, config: Config, rows: Sequence[Any]) -> list[Any]:
        """The rows of an earlier run's, from the first one on, that are as they are asked for now."""
        return list(rows)

    def row(self, config: Config, rows: Sequence[Any], found: Found, judged: Judgement, seconds: float) -> Any:
        """The row of the candidate after `rows`."""
        targets = found.target_classes
        return Row(number=len(rows), words=found.words, seconds=seconds, target_classes=targets, **vars(judged))

    def chosen(self, rows: Sequence[Any]) -> Any:
        """The candidate whose modules are written: the smallest that loses at most `max_loss` percentage points.

        Raises UserError where none does.
        """
        return smallest_within(rows, self.max_loss, self.course.row)

    def words(self, rows: Sequence[Any], number: int) -> str:
        """What was asked for of a candidate."""
        return rows[number].words

    def targets(self, row: Any, classes: tuple[int, ...]) -> tuple[int, ...]:
        """Whose modules a row of the search for `classes` is of; () = of all classes."""
        return row.target_classes

    # Its files
    def folder(self, artifacts: Artifacts) -> Path:
        """`NAME`."""
        return artifacts.folder / self.name

    def role(self, artifacts: Artifacts) -> Role:
        """Searching by this method."""
        return artifacts.role(f"the {self.name} search", f"{self.name}_search", self.folder(artifacts) / "*")

    def settings_file(self, artifacts: Artifacts, classes: Sequence[int] = ()) -> JsonFile:
        """See `Method`."""
        return JsonFile(self.folder(artifacts) / "settings.json", self._fresh(artifacts))

    def log(self, artifacts: Artifacts, classes: Sequence[int] = ()) -> TableFile[Row]:
        """One row a candidate."""
        return TableFile(self.folder(artifacts) / "search_log.csv", self._fresh(artifacts), Row)

    def searched(self, artifacts: Artifacts) -> list[tuple[int, ...]]:
        """For which classes searches may be there; () = all."""
        return [()]

    def candidates(self, stage: Stage) -> list[Candidate]:
        """See `Method`."""
        return [each for classes in self.searched(stage.artifacts) for each in self._candidates(stage, classes)]

    def _candidates(self, stage: Stage, classes: tuple[int, ...]) -> Iterator[Candidate]:
        rows = self.log(stage.artifacts, classes).load_if_there()
        if rows:
            check_strong_model(self.settings_file(stage.artifacts, classes), stage.artifacts)
        of_classes = f"class {' '.join(map(str, classes))}: " if classes else ""
        for row, until in zip(rows, accumulate(row.seconds for row in rows), strict=True):
            words = of_classes + self.words(rows, row.number)
            yield Candidate(words, until, partial(self._found, stage, row, words, classes))

    def _found(self, stage: Stage, row: Any, words: str, classes: tuple[int, ...]) -> Found:
        targets = self.targets(row, classes)
        shape = len(targets) or stage.config.num_classes, graph_of(stage.config).units.num_kernels
        return Found(words, *self.load_modules(stage.artifacts, row.number, shape, classes), targets or None)

    def load_modules(
        self, artifacts: Artifacts, number: int, shape: tuple[int, int], classes: Sequence[int] = ()
    ) -> Learned:
        """A candidate's masks of shape (modules, K), and tuning. Raises UserError for a damaged or missing file."""
        kernels, gains, logit_maps, _ = self.files(artifacts, number, classes)
        masks = kernels.load(*shape)
        if not gains.exists():
            return masks, None
        tuning = Tuning(gains.load(*shape), logit_maps.load(shape[0], 2))
        if not (tuning.gains > 0).all():
            raise gains.damaged("expected gains above 0")
        return masks, tuning

    def save(self, artifacts: Artifacts, number: int, found: Found) -> None:
        """Write the modules of a candidate, and the state after it."""
        kernels, gains, logit_maps, state = self.files(artifacts, number, self.classes)
        kernels.save(found.masks)
        gains.remove()  # of a candidate that an interrupted run did not log
        if found.tuning is not None:
            logit_maps.save(found.tuning.logit_maps)
            gains.save(found.tuning.gains)
        if found.state is not None:
            state.save(found.state)

    def files(self, artifacts: Artifacts, number: int, classes: Sequence[int] = ()) -> CandidateFiles:
        """Those of a candidate."""
        stem, command = f"{self.folder(artifacts)}/candidate_{number:03d}", self._fresh(artifacts)
        kinds = {"kernels": "bool", "gains": "float32", "logit_maps": "float32"}
        arrays = [ArrayFile(Path(f"{stem}_{kind}.npy"), command, dtype) for kind, dtype in kinds.items()]
        return CandidateFiles(*arrays, CheckpointFile(Path(f"{stem}.pth"), command))

    def _fresh(self, artifacts: Artifacts) -> str:
        return artifacts.command(self.script, "--method", self.name, "--fresh")


def run_method(stage: Stage, method: DrivenMethod, *, fresh: bool = False, name: str | None = None) -> ModuleSet:
    """Let a method search, from where an earlier run ended, and write the modules of the chosen candidate as a set.

    Args:
        stage: where to search.
        method: how to search, and for what.
        fresh: set an earlier search's files aside.
        name: of the set; None = that of the search's folder.

    Raises UserError where the strong model or its images are not there, or an earlier search had other settings.
    """
    artifacts, folder = stage.artifacts, method.folder(stage.artifacts)
    check_new_name(name)
    with held(method.role(artifacts)):
        strong = load_strong_model(stage.config, artifacts, stage.device)
        split = load_strong_split(stage.config, artifacts)
        _check_has_images(split, method.classes)
        if fresh and folder.exists():
            print(f"the old search is now {set_aside(folder)}", flush=True)
        show_if_few(split.valid, split.classes)
        made_with = {
            **method.settings(stage.config),
            "seed": stage.seed,
            "precision": stage.precision,
            "strong_model_sha256": sha256_of(model_files.entire_model(artifacts).path),
            "train_images_crc32": split.train.fingerprint,
            "valid_images_crc32": split.valid.fingerprint,
        }
        record_or_compare(method.settings_file(artifacts, method.classes), made_with)
        rows = _all_rows(stage, method, strong, split)
        if not rows:
            raise UserError(f"--method {method.name}: it found no modules; expected at least one candidate")
        chosen = method.chosen(rows)
        words, seconds = method.words(rows, chosen.number), sum(row.seconds for row in rows)
        print(f"\nmodules of {method.course.row} {chosen.number}, {words}")
        targets = method.targets(chosen, method.classes) or tuple(range(strong.num_classes))
        shape = len(targets), strong.units.num_kernels
        masks, tuning = method.load_modules(artifacts, chosen.number, shape, method.classes)
        record = {
            "method": method.name,
            method.course.row: chosen.number,
            "asked_for": words,
            "seconds": seconds,
            "settings": made_with,
            "configured": method.configured(stage.config),
            "options": method.again(),
        }
        written = {"name": name, "default_name": folder.name, "tuning": tuning, "target_classes": targets}
        modules = save_set(stage, strong, masks, split, record, **written)
    show_module_set(modules.record)
    print(f"{method.course.row}s: {len(rows)}; seconds: {seconds:.0f}; module set {modules.name} in {modules.folder}")
    return modules


def _check_has_images(split: Split, classes: Sequence[int]) -> None:
    for target_class, part in product(classes, ("train", "valid")):
        is_own = getattr(split, part).labels == target_class
        if is_own.all() or not is_own.any():
            raise UserError(
                f"class {target_class} ({split.classes[target_class]}): expected {part} images of it, and others"
            )


def _all_rows(stage: Stage, method: DrivenMethod, strong: Graph, split: Split) -> list[Any]:
    """Let the method find what it has not found yet, and log each candidate: the log's rows that were asked for."""
    log, row_name, start = method.log(stage.artifacts, method.classes), method.course.row, time.perf_counter()
    there = log.load_if_there()
    rows, judge = method.going_on(stage.config, there), None
    if rows:
        say(f"going on after {row_name} {rows[-1].number}")
    folded = fold_batch_norm(strong)  # the same answers, sooner
    with closing(method.find(stage, strong, split, rows)) as candidates:
        for found in candidates:
            number = len(rows)
            if len(there) > number:  # no row may stay whose files are about to be another candidate's
                say(f"{row_name}s {number} to {len(there) - 1} were asked for otherwise: they are done anew")
                log.save(rows) if rows else log.remove()
            targets = found.target_classes or tuple(range(strong.num_classes))
            method.save(stage.artifacts, number, found)
            judge = judge or Judge(strong, split.valid, stage.device, stage.dtype)
            judged = judge.of(extract_modules(folded, found.masks, found.tuning, targets), found.masks, targets)
            now = time.perf_counter()
            found = replace(found, target_classes=targets)
            rows.append(method.row(stage.config, rows, found, judged, now - start))
            start, there = now, []
            log.save(rows)  # last: a candidate is found when it is there
            say(rows[-1].describe(f"{row_name} {number:2d}", found.words))
    return rows
