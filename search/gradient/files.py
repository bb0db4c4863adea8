"""The gradient search's files: its rounds, and the state that it goes on from.

A search of all classes has them in the folder `gradient`, one of some classes in a folder of its own. In the functions
below, no `classes` means all.
"""

import zlib
from collections.abc import Sequence

from search.files import SearchFiles
from search.gradient.log import Round
from utils.artifacts import ArrayFile, Artifacts, JsonFile
from utils.errors import UserError

LONGEST = 60  # characters of a folder's name
CLASSES = "target_classes"  # which the settings of a search name whose folder's name does not


def is_short(classes: Sequence[int]) -> bool:
    """Whether the folder of a search of these classes names them."""
    return len(_named(classes)) <= LONGEST


def _named(classes: Sequence[int]) -> str:
    return "_".join(["gradient_class", *map(str, classes)]) if classes else "gradient"


def of_search(artifacts: Artifacts, classes: Sequence[int] = ()) -> SearchFiles[Round]:
    """Those of the search of some classes, in `gradient`, or for example `gradient_class_2_5`."""
    checksum = zlib.crc32("_".join(map(str, classes)).encode())
    name = _named(classes) if is_short(classes) else f"gradient_{len(classes)}_classes_{checksum:08x}"
    folder = artifacts.folder / name
    role = artifacts.role("the gradient search", name, folder / "*")
    return SearchFiles(folder, role, _command(artifacts, classes, "--fresh"), Round, "round_{:02d}")


def searched(artifacts: Artifacts) -> list[tuple[int, ...]]:
    """The classes of the searches that are there, those of all classes, (), first."""
    named = [path.name.split("_")[2:] for path in artifacts.folder.glob("gradient_class_*")]
    found = [tuple(map(int, each)) for each in named if "".join(each).isdecimal()]
    shortened = artifacts.folder.glob("gradient_*_classes_*/settings.json")
    found += [tuple(JsonFile(path, _command(artifacts, "C", "--fresh")).load().get(CLASSES, ())) for path in shortened]
    return [(), *sorted(filter(None, found))]


def of_fine_tuning(artifacts: Artifacts, parent: str) -> SearchFiles[Round]:
    """Those of the fine-tuning of a module set: its state, as within a round, which is there until the set is."""
    folder = artifacts.folder / "fine_tuning" / parent
    role = artifacts.role(f"the fine-tuning of {parent}", f"fine_tuning_{parent}", folder / "*")
    return SearchFiles(folder, role, artifacts.command("module_fine_tuner.py", "--modules", parent), Round)


def last_round_kernels(artifacts: Artifacts) -> ArrayFile:
    """The masks of the last round of the search of all classes. Raises UserError where no round is done."""
    files = of_search(artifacts)
    if not (rounds := files.log.load_if_there()):
        raise UserError(f"init_pop_mode gradient: missing {files.log.path}; first run: {_command(artifacts, ())}")
    return files.kernels(rounds[-1].number)


def _command(artifacts: Artifacts, classes: Sequence[int | str], *more: str) -> str:
    chosen = ["--target_class", *map(str, classes)] if classes else []
    return artifacts.command("module_gradient_search.py", *chosen, *more)
