"""What searches find, and the files that those of all methods have: settings, a log, and each candidate's modules."""

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from torch import Tensor

from models.graph import Graph
from modules.module import CutModules
from utils.artifacts import ArrayFile, CheckpointFile, JsonFile, Role, TableFile
from utils.errors import UserError, reason
from utils.files import set_aside

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Item = TypeVar("Item")
Row = TypeVar("Row", bound="DataclassInstance")


@dataclass(frozen=True)
class Found:
    """Modules as a method finds them, before they are cut out of the strong model.

    Attributes:
        words: what was asked for, for people: "keep 40%".
        masks: (modules, K) bool, True = kept.
        weights: of each module its state_dict, on the CPU; None = the modules have the strong model's weights.
        target_classes: whose modules they are; None = of all classes.
        asked: fields of the log's row that the method fills.
        answer: what the modules give, see `modules.module.as_answers`.
        seconds: of the search until it found them, if its files record that.
    """

    words: str
    masks: np.ndarray
    weights: Sequence[Mapping[str, Tensor]] | None = None
    target_classes: tuple[int, ...] | None = None
    asked: Mapping[str, Any] = field(default_factory=dict)
    answer: str = "logit"
    seconds: float = math.nan


@dataclass(frozen=True)
class OnDemand(Sequence[Item]):
    """What `get` returns for each number, each time that it is asked for, so that any number of items fits in memory.

    Example: `OnDemand(range(1000), lambda target_class: modules.module(target_class, device))`
    """

    numbers: Sequence[int]
    get: Callable[[int], Item]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return OnDemand(self.numbers[place], self.get)
        return self.get(self.numbers[place])


@dataclass(frozen=True)
class SearchFiles(Generic[Row]):
    """The files of one search, which lie in a folder of its own.

    Attributes:
        folder: where they lie.
        role: that of the process that writes them.
        made_by: the command that starts the search anew.
        row: what the log has one of for each step of the search.
        stem: of the names of a candidate's files, to be filled with its number.
    """

    folder: Path
    role: Role
    made_by: str
    row: type[Row]
    stem: str = "candidate_{:03d}"

    @property
    def settings(self) -> JsonFile:
        """Settings, seed and strong model that the files were made with."""
        return JsonFile(self.folder / "settings.json", self.made_by)

    @property
    def log(self) -> TableFile[Row]:
        """One row for each step of the search, whose first field is its number."""
        return TableFile(self.folder / "search_log.csv", self.made_by, self.row)

    def within(self, target_class: int) -> CheckpointFile:
        """What the method goes on from with a class's module where it was interrupted before a candidate was found."""
        return CheckpointFile(self.folder / f"state_class_{target_class}.pth", self.made_by)

    def kernels(self, number: int) -> ArrayFile:
        """Of a candidate's modules (modules, K) bool, True = kept."""
        return ArrayFile(self.folder / f"{self.stem.format(number)}_kernels.npy", self.made_by, "bool")

    def weights(self, number: int, target_class: int) -> CheckpointFile:
        """Of a candidate's module its state_dict, where it has others than the strong model's."""
        return CheckpointFile(self.folder / f"{self.stem.format(number)}_class_{target_class}.pth", self.made_by)

    def load(
        self, number: int, graph: Graph, target_classes: Sequence[int]
    ) -> tuple[np.ndarray, Sequence[Mapping[str, Tensor]] | None]:
        """A candidate's masks (modules, K), and weights, each to be read when it is asked for.

        Raises UserError for a damaged or missing file.

        Args:
            number: of the candidate.
            graph: the strong model.
            target_classes: of the modules.
        """
        masks, stem = self.kernels(number).load(len(target_classes), graph.units.num_kernels), self.stem.format(number)
        if Path(f"{self.folder / stem}_gains.npy").exists():
            raise UserError(f"the search in {self.folder} is of an earlier version; make it anew with: {self.made_by}")
        files = [self.weights(number, target_class) for target_class in target_classes]
        weights: Sequence[Mapping[str, Tensor]] = OnDemand(
            target_classes, lambda target_class: self.weights(number, target_class).load()["weights"]
        )
        whole = CheckpointFile(
            self.folder / f"{stem}_weights.pth", self.made_by
        )  # an earlier version's, of all modules
        if whole.exists():
            files, weights = [whole] * len(files), whole.load().get("modules", ())
        elif not any(file.exists() for file in files):
            return masks, None
        for place, file in enumerate(files):
            try:
                CutModules(graph, masks, target_classes, weights)[place]  # it is cut, and takes its weights
            except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
                raise file.damaged(f"not the weights of modules with these masks: {reason(error)}") from None
        return masks, weights

    def set_aside_from(self, first: int, stop: int) -> Path:
        """Set the folder aside, and begin a new one with its files but the log and candidates `first` to `stop` - 1.

        Returns the old folder. Files are never changed in place, so hard links do for copies.
        """
        old = set_aside(self.folder)
        self.folder.mkdir()
        dropped = tuple(f"{self.stem.format(number)}_" for number in range(first, stop))
        for path in sorted(old.iterdir(), key=lambda path: path != old / self.settings.path.name):  # settings first
            place = self.folder / path.name
            if path.is_dir() or path.name.startswith("state"):  # curves for TensorBoard, and what is to be found next
                path.rename(place)
            elif not path.name.startswith((*dropped, self.log.path.name)):
                try:
                    place.hardlink_to(path)
                except OSError:
                    shutil.copy2(path, place)
        return old

    def save(self, number: int, found: Found) -> None:
        """Write the modules of a candidate."""
        for path in self.folder.glob(f"{self.stem.format(number)}_*.pth"):
            path.unlink()  # of a candidate that an interrupted run did not log
        self.kernels(number).save(found.masks)
        if found.weights is not None:
            targets = found.target_classes or range(len(found.masks))
            for target_class, weights in zip(targets, found.weights, strict=True):
                self.weights(number, target_class).save({"weights": dict(weights)})
