"""The driver of search methods that yield one candidate after the other in one process.

It holds the lock, sets an earlier search aside, compares settings, judges, logs, resumes, chooses, and writes the set.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

from configures.base import Config
from dataset.images import Split
from models import files as model_files
from models.graph import Graph, fold_batch_norm
from models.opening import Stage
from models.strong_model import load_strong_model, load_strong_split, show_if_few
from modules.module import Tuning, extract_modules
from modules.module_set import ModuleSet, show_module_set
from modules.module_sets import check_new_name, save_set
from search.gradient.log import smallest_within
from search.judging import Judge
from search.method import Candidate, Course, Found, Panel, check_strong_model
from utils.artifacts import ArrayFile, Artifacts, JsonFile, Role, TableFile
from utils.errors import UserError
from utils.files import set_aside, sha256_of
from utils.locks import held
from utils.progress import say
from utils.recorded_settings import record_or_compare
from utils.tables import fitted

MAX_LOSS = 1.0  # percentage points, where no other number is asked for


@dataclass(frozen=True)
class Row:
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

    def __post_init__(self) -> None:
        if self.images < 1:
            raise ValueError(f"candidate {self.number}: expected one image or more")

    @property
    def points_lost(self) -> float:
        """The composed model's accuracy below the strong model's, in percentage points."""
        return 100 * (self.right_strong - self.right_composed) / self.images


def describe(row: Row) -> str:
    """A candidate in two lines."""
    return fitted(
        (
            f"candidate {row.number:2d}",
            row.words,
            f"kept {row.kernels_kept:.1%}",
            f"FLOPs {row.flops:.1%}",
            f"accuracy {row.right_composed / row.images:.2%} ({-row.points_lost:+.2f} points)",
            f"distance {row.distance:.4f}",
            f"AUC {row.auc_mean:.4f}, at most {row.auc_below:.4f} below the strong model's",
            f"logits explained at least {row.explained_least:.1%}",
            f"{row.seconds:.1f} s",
        )
    )


class DrivenMethod(ABC):
    """A method that the driver runs: a subclass says its `name`, its settings, and how it finds candidates.

    Its files lie in `data/MODEL_DATASET/NAME`.
    """

    name: str
    script = "scripts/run_module_search.py"
    options: tuple[str, ...] = ("max_loss",)
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
    def find(self, stage: Stage, strong: Graph, split: Split, rows: Sequence[Row]) -> Iterator[Found]:
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

    def chosen(self, rows: Sequence[Row], max_loss: float) -> Row:
        """The candidate whose modules are written: the smallest that loses at most so many percentage points.

        Raises UserError where none does.
        """
        return smallest_within(rows, max_loss)

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

    def candidates(self, stage: Stage) -> list[Candidate]:
        """See `Method`."""
        rows = self.log(stage.artifacts).load_if_there()
        if rows:
            check_strong_model(self.settings_file(stage.artifacts), stage.artifacts)
        seconds = accumulate(row.seconds for row in rows)
        return [
            Candidate(row.words, until, partial(self.load, stage.artifacts, row))
            for row, until in zip(rows, seconds, strict=True)
        ]

    def load(self, artifacts: Artifacts, row: Row) -> Found:
        """The modules of a row. Raises UserError where a file is missing or damaged."""
        kernels, gains, logit_maps = self._files(artifacts, row.number)
        masks = kernels.load(len(row.target_classes), None)
        tuning = Tuning(gains.load(*masks.shape), logit_maps.load(len(masks), 2)) if gains.exists() else None
        return Found(row.words, masks, tuning, row.target_classes)

    def save(self, artifacts: Artifacts, number: int, found: Found) -> None:
        """Write the modules of a candidate."""
        kernels, gains, logit_maps = self._files(artifacts, number)
        kernels.save(found.masks)
        gains.remove()  # of a candidate that an interrupted run did not log
        if found.tuning is not None:
            logit_maps.save(found.tuning.logit_maps)
            gains.save(found.tuning.gains)

    def _files(self, artifacts: Artifacts, number: int) -> list[ArrayFile]:
        kinds = {"kernels": "bool", "gains": "float32", "logit_maps": "float32"}
        stem, command = self.folder(artifacts) / f"candidate_{number:03d}", self._fresh(artifacts)
        return [ArrayFile(stem.with_name(f"{stem.name}_{kind}.npy"), command, dtype) for kind, dtype in kinds.items()]

    def _fresh(self, artifacts: Artifacts) -> str:
        return artifacts.command(self.script, "--method", self.name, "--fresh")


def run_method(
    stage: Stage, method: DrivenMethod, *, max_loss: float | None = None, fresh: bool = False, name: str | None = None
) -> ModuleSet:
    """Let a method search, from where an earlier run ended, and write the modules of the chosen candidate as a set.

    Args:
        stage: where to search.
        method: how to search.
        max_loss: the percentage points of validation accuracy that may be lost; None = MAX_LOSS.
        fresh: set an earlier search's files aside.
        name: of the set; None = the method's.

    Raises UserError where the strong model or its images are not there, or an earlier search had other settings.
    """
    artifacts, folder = stage.artifacts, method.folder(stage.artifacts)
    check_new_name(name)
    with held(method.role(artifacts)):
        strong = load_strong_model(stage.config, artifacts, stage.device)
        split = load_strong_split(stage.config, artifacts)
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
        record_or_compare(method.settings_file(artifacts), made_with)
        rows = _all_rows(stage, method, strong, split)
        if not rows:
            raise UserError(f"--method {method.name}: it found no modules; expected at least one candidate")
        chosen = method.chosen(rows, MAX_LOSS if max_loss is None else max_loss)
        found = method.load(artifacts, chosen)
        record = {
            "method": method.name,
            method.course.row: chosen.number,
            "asked_for": chosen.words,
            "seconds": sum(row.seconds for row in rows),
            "settings": made_with,
            "configured": made_with,
            "options": ["--method", method.name, *([] if max_loss is None else ["--max_loss", f"{max_loss:g}"])],
        }
        targets = found.target_classes
        written = {"name": name, "default_name": method.name, "tuning": found.tuning, "target_classes": targets}
        modules = save_set(stage, strong, found.masks, split, record, **written)
    print(f"\nmodules of {method.course.row} {chosen.number}, {chosen.words}")
    show_module_set(modules.record)
    print(f"{method.course.row}s: {len(rows)}; seconds: {record['seconds']:.0f}; modules in {modules.folder}")
    return modules


def _all_rows(stage: Stage, method: DrivenMethod, strong: Graph, split: Split) -> list[Row]:
    """Let the method find what it has not found yet, and log each candidate: the log's rows."""
    log, start = method.log(stage.artifacts), time.perf_counter()
    rows = log.load_if_there()
    judge = Judge(strong, split.valid, stage.device, stage.dtype)
    folded = fold_batch_norm(strong)  # the same answers, sooner
    if rows:
        say(f"going on after candidate {rows[-1].number}")
    for found in method.find(stage, strong, split, rows):
        classes = found.target_classes
        targets = tuple(range(strong.num_classes)) if classes is None else classes
        number, modules = len(rows), extract_modules(folded, found.masks, found.tuning, targets)
        judged = judge.of(modules, found.masks, targets)
        method.save(stage.artifacts, number, found)
        now = time.perf_counter()
        rows.append(Row(number=number, words=found.words, seconds=now - start, target_classes=targets, **vars(judged)))
        start = now
        log.save(rows)  # last: a candidate is found when it is there
        say(describe(rows[-1]))
    return rows
