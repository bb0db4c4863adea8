"""The driver of search methods that yield one candidate after the other.

It holds the lock, sets an earlier search aside, compares settings, judges, logs, resumes, chooses, and writes the set.
"""

import time
from abc import ABC, abstractmethod
from argparse import Namespace
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from copy import copy
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Any

from configures.base import Config
from dataset.images import Split
from models.graph import Graph
from models.opening import Stage
from models.strong_model import graph_of, load_strong_split, load_with_checksum, show_if_few
from modules.module import CutModules
from modules.module_set import ModuleSet, show_module_set
from modules.module_sets import check_new_name, save_set
from search.files import Found, SearchFiles
from search.judging import Judge, Judged, JudgedRow, Judgement, smallest_within
from search.method import Course, Panel, check_strong_model
from utils.artifacts import Artifacts
from utils.errors import UserError
from utils.files import set_aside
from utils.locks import held
from utils.progress import say
from utils.recorded_settings import record_or_compare
from utils.tensorboard import scalar

MAX_LOSS = 1.0  # percentage points, if no other number is asked for


@dataclass(frozen=True)
class Numbered:
    """The first fields of `Row`."""

    number: int
    words: str  # what was asked for
    seconds: float  # since the candidate before, or the start; of the last run, if it was interrupted
    target_classes: tuple[int, ...]


@dataclass(frozen=True)
class Row(Judged, Judgement, Numbered):
    """One candidate, judged on all validation images."""

    def asked_for(self, rows: Sequence["Row"]) -> str:
        """See `Judged`."""
        return self.words

    def targets(self, searched: tuple[int, ...]) -> tuple[int, ...]:
        """See `Judged`."""
        return self.target_classes


class DrivenMethod(ABC):
    """A method that the driver runs: a subclass defines its `name`, its settings, and how it finds candidates.

    Its files lie in `data/MODEL_DATASET/NAME`. A method overrides a default that does not fit it.

    Attributes:
        classes: whose modules are searched, in rising order; () = all, or as each candidate states.
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

    # To be defined by the method
    @abstractmethod
    def find(self, stage: Stage, strong: Graph, split: Split, rows: Sequence[Any]) -> Generator[Found, None, None]:
        """Yield the candidates after those of `rows`.

        Example (`rows` are those of an earlier run, if it was interrupted):

            for keep in (0.6, 0.4)[len(rows) :]:
                scores = my_scores(strong, split)  # (classes, units) float
                masks = masks_within(scores, strong, keep)  # of search.one_shot
                yield Found(f"{keep:.0%} of the kernels", masks)

        Args:
            stage: its settings, seed and device; files of the method's own go to the folder of `files`.
            strong: the strong model, on the device.
            split: the images; a method decides by `train` or `valid` only.
            rows: of all candidates found so far; the driver adds each one's before it asks for the next.
        """

    def as_asked(self, arguments: Namespace) -> "DrivenMethod":
        """The method as a command line asks for it, which has its `options`; one that is not given is None."""
        asked = copy(self)  # that of the table stays as it is
        if arguments.max_loss is not None:
            asked.max_loss = arguments.max_loss
        return asked

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
        """`--max_loss`, if it has another value than without it."""
        return [] if self.max_loss == MAX_LOSS else ["--max_loss", f"{self.max_loss:g}"]

    # Its rows
    def going_on(self, config: Config, rows: Sequence[Any]) -> list[Any]:
        """The rows of an earlier run's, from the first one on, that are as they are asked for now."""
        return list(rows)

    def chosen(self, rows: Sequence[Any]) -> Any:
        """The candidate whose modules are written: the smallest that loses at most `max_loss` percentage points.

        Raises UserError if none does.
        """
        return smallest_within(rows, self.max_loss, self.course.row)

    # Its files
    def files(self, artifacts: Artifacts, classes: tuple[int, ...] = ()) -> SearchFiles[Any]:
        """See `Method`: in the folder `NAME`."""
        folder, command = artifacts.folder / self.name, artifacts.command(self.script, "--method", self.name, "--fresh")
        role = artifacts.role(f"the {self.name} search", f"{self.name}_search", folder / "*")
        return SearchFiles(folder, role, command, Row)

    def searched(self, artifacts: Artifacts) -> list[tuple[int, ...]]:
        """For which classes searches may be there; () = all."""
        return [()]

    def candidates(self, stage: Stage) -> Iterator[Found]:
        """See `Method`."""
        for classes in self.searched(stage.artifacts):
            files, seconds = self.files(stage.artifacts, classes), 0.0
            rows = files.log.load_if_there()
            answer = "logit"
            if rows:
                check_strong_model(files.settings, stage.artifacts)
                answer = files.settings.load().get("answer", answer)
            of_classes = f"class {' '.join(map(str, classes))}: " if classes else ""
            for row in rows:
                targets, seconds = row.targets(classes), seconds + row.seconds
                found = files.load(row.number, graph_of(stage.config), targets or range(stage.config.num_classes))
                yield Found(of_classes + row.asked_for(rows), *found, targets or None, answer=answer, seconds=seconds)


def search_modules(stage: Stage, method: DrivenMethod, *, fresh: bool = False, name: str | None = None) -> ModuleSet:
    """Let a method search, from where an earlier run ended, write the modules that it chooses as a set, and show it.

    Args:
        stage: where to search.
        method: how to search, and for what.
        fresh: set an earlier search's files aside.
        name: of the module set; None = that of the search's folder.

    Raises UserError if a class has no images, or an earlier search had other settings.
    """
    check_new_name(name)
    again = stage.artifacts.command(method.script, *method.again(), "--fresh")
    files = replace(method.files(stage.artifacts, method.classes), made_by=again)
    with held(files.role):  # from before the strong model is read, so that no training replaces it
        strong, checksum = load_with_checksum(stage.config, stage.artifacts, stage.device)
        split = load_strong_split(stage.config, stage.artifacts)
        check_has_images(split, method.classes)
        if fresh and files.folder.exists():
            print(f"the old search is now {set_aside(files.folder)}", flush=True)
        show_if_few(split.valid, split.classes)
        rows = run_method(stage, strong, split, method, files, checksum)
        modules = write_modules(stage, strong, split, method, files, rows, name)
    show_module_set(modules.record)
    seconds = sum(row.seconds for row in rows)
    print(f"{method.course.row}s: {len(rows)}; seconds: {seconds:.0f}; module set {modules.name} in {modules.folder}")
    return modules


def check_has_images(split: Split, classes: Sequence[int]) -> None:
    """Raises UserError if a class, of all if `classes` are none, has no images, or has all of them."""
    for target_class, part in product(classes or range(len(split.classes)), ("train", "valid")):
        is_own = getattr(split, part).labels == target_class
        if is_own.all() or not is_own.any():
            raise UserError(
                f"class {target_class} ({split.classes[target_class]}): expected {part} images of it, and others"
            )


def run_method(
    stage: Stage, strong: Graph, split: Split, method: DrivenMethod, files: SearchFiles[JudgedRow], checksum: str
) -> list[JudgedRow]:
    """Let a method find what it has not found yet, and log each candidate: the log's rows that were asked for.

    `checksum` is the SHA-256 of the strong model's file.

    Raises UserError if an earlier run had other settings, or nothing is found.
    """
    made_with = {
        **method.settings(stage.config),
        "seed": stage.seed,
        "precision": stage.precision,
        "strong_model_sha256": checksum,
        "train_images_crc32": split.train.fingerprint,
        "valid_images_crc32": split.valid.fingerprint,
    }
    record_or_compare(files.settings, made_with)
    there, row_name, start, judge = files.log.load_if_there(), method.course.row, time.perf_counter(), None
    rows = method.going_on(stage.config, there)
    if rows:
        say(f"going on after {row_name} {rows[-1].number}")
    with closing(method.find(stage, strong, split, rows)) as candidates:
        for found in candidates:
            number = len(rows)
            if len(there) > number:  # no row may stay whose files are about to be another candidate's
                old = files.set_aside_from(number, len(there))
                if rows:
                    files.log.save(rows)
                asked = f"{row_name}s {number} to {len(there) - 1} were asked for otherwise"
                print(f"{asked}: the old search is now {old}", flush=True)
            targets = found.target_classes or tuple(range(strong.num_classes))
            files.save(number, found)
            judge = judge or Judge(strong, split.valid, stage.device, stage.dtype)
            judged = judge.of(
                CutModules(strong, found.masks, targets, found.weights),
                found.masks,
                targets,
                found.answer,
            )
            now = time.perf_counter()
            known: dict[str, Any] = {"number": number, "words": found.words, "seconds": now - start}
            known |= {"target_classes": targets, **vars(judged), **found.asked}
            rows.append(files.row(**{field.name: known[field.name] for field in fields(files.row)}))
            start, there = now, []
            files.log.save(rows)  # last: a candidate is found when it is there
            for name in ("kernels_kept", "points_lost", "auc_mean"):
                scalar(f"{row_name}/{name}", getattr(rows[-1], name), number)
            say(rows[-1].describe(f"{row_name} {number:2d}", found.words))
    if not rows:
        raise UserError(f"--method {method.name}: it found no modules; expected at least one candidate")
    return rows


def write_modules(
    stage: Stage,
    strong: Graph,
    split: Split,
    method: DrivenMethod,
    files: SearchFiles[JudgedRow],
    rows: Sequence[JudgedRow],
    name: str | None,
) -> ModuleSet:
    """Cut the modules of the candidate that the method chooses out, and write them as a set.

    Raises UserError if the method chooses none, or the files of the chosen one are damaged.
    """
    chosen = method.chosen(rows)
    words, targets = chosen.asked_for(rows), chosen.targets(method.classes) or tuple(range(strong.num_classes))
    print(f"\nmodules of {method.course.row} {chosen.number}, {words}")
    masks, weights = files.load(chosen.number, strong, targets)
    record: dict[str, Any] = {
        "method": method.name,
        method.course.row: chosen.number,
        "asked_for": words,
        "seconds": sum(row.seconds for row in rows),
        "settings": files.settings.load(),
        "configured": method.configured(stage.config),
        "options": method.again(),
    }
    return save_set(
        stage,
        strong,
        masks,
        split,
        record,
        name=name,
        default_name=files.folder.name,
        weights=weights,
        target_classes=targets,
        answer=record["settings"].get("answer", "logit"),
    )
