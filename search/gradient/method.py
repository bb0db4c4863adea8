"""The gradient search as a search method: what its files say that it has found."""

from collections.abc import Sequence
from functools import partial
from itertools import accumulate

from models.opening import Stage
from models.strong_model import graph_of
from search.gradient import files
from search.gradient.log import Round, asked_for
from search.gradient.rounds import load_round
from search.method import Candidate, Course, Found, Panel, check_strong_model
from utils.artifacts import Artifacts, JsonFile, TableFile


class Gradient:
    """See `search.method.Method`."""

    name = "gradient"
    script = "module_gradient_search.py"
    options = ("keep", "max_loss", "engine", "address")
    course = Course(
        "round",
        Panel("kernels_kept", "kernels kept in %", "the kernels that modules keep", 100),
        (
            Panel(
                "points_lost",
                "accuracy lost in percentage points,\nvalidation images, by which a round is chosen",
                "the percentage points that the composed model loses on validation images",
            ),
            Panel("distance", "mean Jaccard distance of the modules", "the mean Jaccard distance of the modules"),
        ),
        "One point a round: each goes on from the one before, and keeps fewer kernels of all modules together. Left: "
        "how much worse the composed model is than the strong model on all validation images, 0 = as good; since the "
        "round is chosen by these images, the loss on test images, above, is what counts. Right: how different the "
        "modules are.",
    )

    def settings_file(self, artifacts: Artifacts, classes: Sequence[int] = ()) -> JsonFile:
        """See `Method`."""
        return files.settings(artifacts, classes)

    def log(self, artifacts: Artifacts, classes: Sequence[int] = ()) -> TableFile[Round]:
        """See `Method`."""
        return files.log(artifacts, classes)

    def candidates(self, stage: Stage) -> list[Candidate]:
        """One per round, of the search of all classes and then of those of some."""
        folders = stage.artifacts.folder.glob("gradient_class_*")
        names = sorted(folder.name.removeprefix("gradient_class_") for folder in folders)
        some = [tuple(map(int, name.split("_"))) for name in names if name.replace("_", "").isdecimal()]
        return [candidate for classes in [(), *some] for candidate in _candidates(stage, classes)]


def _candidates(stage: Stage, classes: tuple[int, ...]) -> list[Candidate]:
    rounds = files.log(stage.artifacts, classes).load_if_there()
    if rounds:
        check_strong_model(files.settings(stage.artifacts, classes), stage.artifacts)
    seconds = accumulate(row.seconds for row in rounds)
    of_classes = f"class {' '.join(map(str, classes))}: " if classes else ""
    known = [(of_classes + asked_for(rounds, number), until) for number, until in enumerate(seconds)]
    return [Candidate(*each, partial(_load, stage, classes, each[0], number)) for number, each in enumerate(known)]


def _load(stage: Stage, classes: tuple[int, ...], words: str, number: int) -> Found:
    kernels, modules = graph_of(stage.config).units.num_kernels, len(classes) or stage.config.num_classes
    return Found(words, *load_round(stage.artifacts, number, modules, kernels, classes), classes or None)
