"""The contract of a search method: what its files record as found, and how that is drawn and made again.

A method that finds masks one after the other in one process subclasses `DrivenMethod` of `search/driver.py`, which
implements all of this. `search/methods.py` is the table of all methods.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from models import files as model_files
from models.opening import Stage
from search.files import Found, SearchFiles
from utils.artifacts import Artifacts, JsonFile
from utils.errors import UserError
from utils.files import sha256_of


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
        script: the script that searches to the end.
        course: how its log is drawn.
    """

    script: str
    course: Course

    @property
    def name(self) -> str:
        """The name of the method, which its module sets have, too, if `--as` gives them no other."""

    @property
    def options(self) -> tuple[str, ...]:
        """The options of scripts/run_module_search.py that belong to the method, without `--`."""

    def files(self, artifacts: Artifacts, classes: tuple[int, ...] = ()) -> SearchFiles[Any]:
        """The files of the search for modules of some classes; () = all."""

    def candidates(self, stage: Stage) -> Iterator[Found]:
        """Yield what the searches have found so far, each loaded as it is asked for; nothing if there was no search.

        Raises UserError if its files are damaged, or come from another strong model than the one that is there.
        """


def check_strong_model(settings: JsonFile, artifacts: Artifacts) -> None:
    """Raises UserError if a search's settings name another strong model than the one that is there."""
    if settings.load().get("strong_model_sha256") != sha256_of(model_files.entire_model(artifacts).path):
        raise UserError(
            f"the search in {settings.path.parent} is of another strong model than the one that is there; "
            f"set it aside with: {settings.made_by}"
        )
