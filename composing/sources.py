"""What a classifier is composed of, as the command line names it: classes of strong models that are here."""

import argparse
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from configures.base import Config
from dataset.datasets import load_source
from dataset.target_classes import class_number
from models.opening import Stage, open_stage
from modules.module_set import ModuleSet
from modules.module_sets import open_set
from patching.members import Form
from utils.errors import UserError

SPECIFICATION = re.compile(r"(?P<model>[^:@]+):(?P<dataset>[^:@]+)(:(?P<classes>.+?))?(@(?P<modules>[^@:]+))?")


@dataclass(frozen=True)
class Source:
    """One strong model, and the classes of it that are taken."""

    stage: Stage
    modules: ModuleSet | None  # None: no modules are taken, but one network of all these classes
    numbers: tuple[int, ...]  # the strong model's, of the classes that are taken
    names: tuple[str, ...]  # what the composed classifier calls them
    called: Mapping[str, str]  # the strong model's name of a class -> what the composed classifier calls it, if another

    @property
    def config(self) -> Config:
        """The strong model's configuration."""
        return self.stage.config

    @property
    def label(self) -> str:
        """For people: `simcnn_x0_25_cifar10@gradient`."""
        return self.config.name + (f"@{self.modules.name}" if self.modules else "")

    @property
    def form(self) -> Form:
        """Of its images."""
        return Form.of(self.config)

    def number_of(self, name: str) -> int:
        """The strong model's number of a class that is taken."""
        return self.numbers[self.names.index(name)]


def open_source(
    text: str, option: str, arguments: argparse.Namespace, renamed: Mapping[str, str], *, of_modules: bool = True
) -> Source:
    """What `MODEL:DATASET`, `MODEL:DATASET:CLASSES` or one of them with `@SET` names.

    Args:
        text: as the user gave it; CLASSES are names or numbers, with commas between them; all by default.
        option: that it was given to, for messages.
        arguments: `set` and `quiet`, as all stages have them.
        renamed: what the composed classifier calls a class -> what the strong model calls it.
        of_modules: whether modules are taken.

    Raises UserError for another form, a model, a class or a module set that is not there.
    """
    found = SPECIFICATION.fullmatch(text)
    if not found:
        raise UserError(
            f"{option} {text}: expected MODEL:DATASET:CLASSES, as in simcnn_x0_25:cifar10:cat,dog, and @SET behind it "
            "for another module set than the most recent one"
        )
    if found["modules"] and not of_modules:
        raise UserError(f"{option} {text}: --whole and --one_network take no modules: leave out @{found['modules']}")
    given = argparse.Namespace(model=found["model"], dataset=found["dataset"], set=arguments.set, quiet=arguments.quiet)
    stage = open_stage(given)
    known = stage.config.classes or load_source(stage.config, stage.config.image_source).classes
    new_names = {old: new for new, old in renamed.items() if old in known}
    for old, new in new_names.items():
        if new in known and new not in new_names:
            raise UserError(
                f"--class_map {new}={old}: {stage.config.name} has a class {new}: expected a name that is free"
            )
    number_of_new = {new: known.index(old) for old, new in new_names.items()}
    texts = [unicodedata.normalize("NFC", each) for each in (found["classes"] or "all").split(",")]
    numbers = [
        number_of_new[each] if each in number_of_new else class_number(each, known, f"{option} {text}: class")
        for each in texts
        if each != "all"
    ]
    numbers = list(range(len(known))) if "all" in texts else list(dict.fromkeys(numbers))
    modules = open_set(stage.config, stage.artifacts, found["modules"], numbers) if of_modules else None
    names = tuple(new_names.get(known[number], known[number]) for number in numbers)
    return Source(stage, modules, tuple(numbers), names, new_names)


def check_classes(sources: Sequence[Source], *, best_of: bool) -> tuple[str, ...]:
    """The composed classes: those of all sources side by side or, for the best of several, those that all have.

    Raises UserError for a class of two sources, one of two spellings, or one that one of several lacks.
    """
    first, *others = sources
    found = dict.fromkeys(first.names, first)
    for source in others:
        if best_of and (lacking := sorted(set(first.names) ^ set(source.names))):
            has, lacks = (first, source) if lacking[0] in first.names else (source, first)
            raise UserError(
                f"--best_of: {has.label} has a class {lacking[0]}, which {lacks.label} lacks: name the classes that "
                f"both have (MODEL:DATASET:CLASSES), or rename the class with --class_map NEW={lacking[0]}"
            )
        for name in () if best_of else source.names:
            if name in found:
                raise UserError(
                    f"class {name} is taken from {found[name].label} and from {source.label}: take it from one of "
                    "them, or let --best_of choose"
                )
            if alike := [each for each in found if spelled_alike(each, name)]:
                raise UserError(
                    f"{found[alike[0]].label} has a class {alike[0]}, and {source.label} a class {name}: if they are "
                    f"the same, take it from one of them; --class_map NEW={name} gives this one another name"
                )
            found[name] = source
    if best_of and len({source.label for source in sources}) < max(2, len(sources)):
        raise UserError("--best_of: expected two or more different models, or module sets, as in --best_of M1:D,M2:D")
    if len(found) < 2:
        raise UserError(f"expected 2 or more classes, given {', '.join(found)}: a classifier of one has no choice")
    return tuple(found)


def spelled_alike(name: str, other: str) -> bool:
    """Whether two names differ in nothing but case, blanks and marks."""
    return len({re.sub(r"[\W_]", "", each.casefold()) for each in (name, other)}) == 1
