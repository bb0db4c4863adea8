"""What searches find, and the files that those of all methods have: settings, a log, and each candidate's modules."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from modules.module import Tuning
from utils.artifacts import ArrayFile, CheckpointFile, JsonFile, Role, TableFile

Row = TypeVar("Row")


@dataclass(frozen=True)
class Found:
    """Modules as a method finds them, before they are cut out of the strong model.

    Attributes:
        words: what was asked for, for people: "keep 40%".
        masks: (modules, K) bool, True = kept.
        tuning: what was learned of these modules in addition to their masks; None = nothing.
        target_classes: whose modules they are; None = of all classes.
        state: what the method goes on from after them, as a checkpoint holds it; None = nothing.
        asked: fields of the log's row that the method fills.
        seconds: of the search until it found them, where its files tell.
    """

    words: str
    masks: np.ndarray
    tuning: Tuning | None = None
    target_classes: tuple[int, ...] | None = None
    state: dict[str, Any] | None = None
    asked: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = math.nan


@dataclass(frozen=True)
class SearchFiles(Generic[Row]):
    """The files of one search, which lie in a folder of its own.

    Attributes:
        folder: where they lie.
        role: that of the process that writes them.
        made_by: the command that starts the search anew.
        row: what the log has one of for each step of the search.
        stem: of the names of a candidate's files, to be filled with its number.
        all_tuned: whether no candidate is without a tuning.
    """

    folder: Path
    role: Role
    made_by: str
    row: type[Row]
    stem: str = "candidate_{:03d}"
    all_tuned: bool = False

    @property
    def settings(self) -> JsonFile:
        """Settings, seed and strong model that the files were made with."""
        return JsonFile(self.folder / "settings.json", self.made_by)

    @property
    def log(self) -> TableFile[Row]:
        """One row for each step of the search, whose first field is its number."""
        return TableFile(self.folder / "search_log.csv", self.made_by, self.row)

    @property
    def within(self) -> CheckpointFile:
        """What the method goes on from where it was interrupted before a candidate was found."""
        return CheckpointFile(self.folder / "state.pth", self.made_by)

    def state(self, number: int) -> CheckpointFile:
        """What the method goes on from after a candidate."""
        return CheckpointFile(self.folder / f"{self.stem.format(number)}.pth", self.made_by)

    def array(self, number: int, kind: str) -> ArrayFile:
        """Of a candidate's modules: `kernels` (modules, K) bool, True = kept, and if they have a tuning its fields.

        `gains` (modules, K) float32: what each kernel's map is multiplied by; 1 = it stays as it is. `logit_maps`
        (modules, 2) float32: scale and bias of each module's logit.
        """
        path = self.folder / f"{self.stem.format(number)}_{kind}.npy"
        return ArrayFile(path, self.made_by, "bool" if kind == "kernels" else "float32")

    def load(self, number: int, shape: tuple[int, int]) -> tuple[np.ndarray, Tuning | None]:
        """A candidate's masks of shape (modules, K), and tuning. Raises UserError for a damaged or missing file."""
        masks, gains = self.array(number, "kernels").load(*shape), self.array(number, "gains")
        if not self.all_tuned and not gains.exists():
            return masks, None
        tuning = Tuning(gains.load(*shape), self.array(number, "logit_maps").load(shape[0], 2))
        if not (tuning.gains > 0).all():
            raise gains.damaged("expected gains above 0")
        return masks, tuning

    def save(self, number: int, found: Found) -> None:
        """Write the modules of a candidate, and the state after it."""
        gains = self.array(number, "gains")
        self.array(number, "kernels").save(found.masks)
        gains.remove()  # of a candidate that an interrupted run did not log
        if found.tuning is not None:
            self.array(number, "logit_maps").save(found.tuning.logit_maps)
            gains.save(found.tuning.gains)
        if found.state is not None:
            self.state(number).save(found.state)
