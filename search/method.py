"""The contract of a search method: what its files say that it has found, and how that is drawn and made again.

A method that finds masks one after the other in one process subclasses `DrivenMethod` of `search/driver.py`, which
implements all of this. `search/methods.py` is the table of all methods.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from models import files as model_files
from models.opening import Stage
from modules.module import Tuning
from utils.artifacts import Artifacts, JsonFile, TableFile
from utils.errors import UserError
from utils.files import sha256_of


@dataclass(frozen=True)
class Found:
    """Modules as a method finds them, before they are cut out of the strong model.

    Attributes:
        words: what was asked for, for people: "keep 40%".
        masks: (modules, K) bool, True = kept.
        tuning: what was learned of these modules in addition to their masks; None = nothing.
        target_classes: whose modules they are; None = of all classes.
        state: what the method goes on from after them, as a checkpoint holds it; None = nothing.
    """

    words: str
    masks: np.ndarray
    tuning: Tuning | None = None
    target_classes: tuple[int, ...] | None = None
    state: dict[str, Any] | None = None


@dataclass(frozen=True)
class Candidate:
    """Modules that a method found, as its files hold them."""

    words: str  # see `Found`
    seconds: float  # of the search until it found them
    load: Callable[[], Found]  # raises UserError where a file is missing or damaged


@dataclass(frozen=True)
class Panel:
    """A column of a log, as a panel of its figure shows it."""

    column: str
    label: str  # the panel's title
    words: str = ""  # its name in the sentence below the figure; empty: it is not in it
    scale: float = 1  # 100 for a share that is shown in percent


@dataclass(frozen=True)
class Course:
    """How a method's log is drawn."""

    row: str  # what a row is, which is also what a set's record calls it: "generation"
    along: Panel  # the horizontal axis
    panels: tuple[Panel, ...]
    reading: str  # how to read the figure


class Method(Protocol):
    """A way to find modules.

    Attributes:
        name: of the method, and of its module sets where they are not named by `--as`.
        script: the script that searches to the end.
        options: of scripts/run_module_search.py, that belong to the method.
        course: how its log is drawn.
    """

    name: str
    script: str
    options: tuple[str, ...]
    course: Course

    def settings_file(self, artifacts: Artifacts, classes: Sequence[int] = ()) -> JsonFile:
        """Settings, seed, precision and strong model of the search for modules of some classes; () = all."""

    def log(self, artifacts: Artifacts, classes: Sequence[int] = ()) -> TableFile[Any]:
        """One row for each step that this search has taken, whose first field is its number."""

    def candidates(self, stage: Stage) -> Sequence[Candidate]:
        """What the search has found so far; empty where there was none.

        Raises UserError where its files are damaged, or of another strong model than the one that is there.
        """


def check_strong_model(settings: JsonFile, artifacts: Artifacts) -> None:
    """Raises UserError where a search's settings name another strong model than the one that is there."""
    if settings.load().get("strong_model_sha256") != sha256_of(model_files.entire_model(artifacts).path):
        raise UserError(
            f"the search in {settings.path.parent} is of another strong model than the one that is there; "
            f"set it aside with: {settings.made_by}"
        )
