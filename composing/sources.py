"""What a classifier is composed of, as the command line names it: modules, or whole models, of strong models here."""

import argparse
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from composing.composed_model import Origin, whole_model
from configures.base import Config
from dataset.datasets import load_source
from dataset.images import Images, Split
from dataset.splits import is_among
from dataset.target_classes import class_number
from models.graph import Graph
from models.opening import Stage, open_stage
from models.strong_model import load_strong_model, load_strong_split
from modules.module_set import ModuleSet
from modules.module_sets import open_set
from patching.members import Form, Member
from utils.errors import UserError

SPECIFICATION = re.compile(r"(?P<model>[^:@]+):(?P<dataset>[^:@]+)(:(?P<classes>.+?))?(@(?P<modules>[^@:]+))?")


@dataclass(frozen=True)
class Source:
    """One strong model, and the classes of it that are taken."""

    stage: Stage
    modules: ModuleSet | None  # None: the whole model is taken
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

    def graph(self) -> Graph:
        """The strong model. Raises UserError where it is missing or damaged."""
        return load_strong_model(self.config, self.stage.artifacts, self.stage.device)

    def split(self) -> Split:
        """The images that the strong model was trained, validated and tested on. Raises UserError for others."""
        return load_strong_split(self.config, self.stage.artifacts)

    def member(self, name: str, place: int) -> Member:
        """The module of a class that is taken; `place` is the number of the class in the composed classifier."""
        if self.modules is None:
            raise TypeError(f"{self.label} is taken whole")
        return Member(self.modules.module(self.number_of(name), self.stage.device), self.form, [place])

    def whole_member(self, graph: Graph, names: Sequence[str], places: Sequence[int]) -> Member:
        """The whole strong model as a member of these classes, which are numbered so."""
        network = whole_model(graph, [self.number_of(name) for name in names]).to(self.stage.device)
        return Member(network, self.form, places)

    def number_of(self, name: str) -> int:
        """The strong model's number of a class that is taken."""
        return self.numbers[self.names.index(name)]

    def origin(self, names: Sequence[str]) -> Origin:
        """What a member of these classes is made of."""
        numbers = tuple(self.number_of(name) for name in names)
        kernels = self.modules.mask(numbers[0]) if self.modules else None
        return Origin(self.config.network_name, self.config.num_classes, numbers, kernels)


def open_source(
    text: str, option: str, arguments: argparse.Namespace, renamed: Mapping[str, str], *, whole: bool = False
) -> Source:
    """What `MODEL:DATASET`, `MODEL:DATASET:CLASSES` or one of them with `@SET` names.

    Args:
        text: as the user gave it; CLASSES are names or numbers, with commas between them; all by default.
        option: that it was given to, for messages.
        arguments: `set` and `quiet`, as all stages have them.
        renamed: what the composed classifier calls a class -> what the strong model calls it.
        whole: whether the whole model is taken, and no modules.

    Raises UserError for another form, a model, a class or a module set that is not there.
    """
    found = SPECIFICATION.fullmatch(text)
    if not found:
        raise UserError(
            f"{option} {text}: expected MODEL:DATASET:CLASSES, as in simcnn_x0_25:cifar10:cat,dog, and @SET behind it "
            "for another module set than the most recent one"
        )
    if whole and found["modules"]:
        raise UserError(f"{option} {text}: --whole takes whole models: leave out @{found['modules']}")
    given = argparse.Namespace(model=found["model"], dataset=found["dataset"], set=arguments.set, quiet=arguments.quiet)
    stage = open_stage(given)
    known = stage.config.classes or load_source(stage.config, stage.config.image_source).classes
    theirs = {ours: name for name, ours in renamed.items() if ours in known}
    texts = found["classes"].split(",") if found["classes"] else ["all"]
    named = {theirs.get(name, name): name for name in known}
    if "all" in texts:
        numbers = list(range(len(known)))
    else:
        as_known = [named.get(unicodedata.normalize("NFC", each), each) for each in texts]
        numbers = list(dict.fromkeys(class_number(each, known, f"{option} {text}: class") for each in as_known))
    modules = None if whole else open_set(stage.config, stage.artifacts, found["modules"], numbers)
    names = tuple(theirs.get(known[number], known[number]) for number in numbers)
    return Source(stage, modules, tuple(numbers), names, theirs)


def check_classes(sources: Sequence[Source]) -> tuple[str, ...]:
    """The classes of sources side by side. Raises UserError for a class of two sources, or one of two spellings."""
    found: dict[str, Source] = {}
    for source in sources:
        for name in source.names:
            if name in found:
                raise UserError(
                    f"class {name} is taken from {found[name].label} and from {source.label}: take it from one of "
                    "them, or let --best_of choose"
                )
            alike = [each for each in found if _spelled_alike(each) == _spelled_alike(name)]
            if alike:
                raise UserError(
                    f"{found[alike[0]].label} has a class {alike[0]}, and {source.label} a class {name}: if they are "
                    f"the same, take it from one of them; --class_map NAME={name} gives this one another name"
                )
            found[name] = source
    if len(found) < 2:
        raise UserError(f"expected 2 or more classes, given {', '.join(found)}: a classifier of one has no choice")
    return tuple(found)


def common_classes(sources: Sequence[Source]) -> tuple[str, ...]:
    """The classes of sources that must all have the same ones. Raises UserError for others."""
    first, *others = sources
    for source in others:
        if lacking := sorted(set(first.names) ^ set(source.names)):
            has, lacks = (first, source) if lacking[0] in first.names else (source, first)
            raise UserError(
                f"--best_of: {has.label} has a class {lacking[0]}, which {lacks.label} lacks: expected the same "
                "classes of all; name those that both have (MODEL:DATASET:CLASSES), or rename the class with "
                f"--class_map THEIRS={lacking[0]}"
            )
    if len(sources) < 2 or len({source.label for source in sources}) < len(sources):
        raise UserError("--best_of: expected two or more different models, or module sets, as in --best_of M1:D,M2:D")
    if len(first.names) < 2:
        raise UserError(f"expected 2 or more classes, given {first.names[0]}: a classifier of one has no choice")
    return first.names


def _spelled_alike(name: str) -> str:
    return re.sub(r"[\W_]", "", name.casefold())


def check_images_have(names: Sequence[str], images_have: Sequence[str], dataset: str) -> None:
    """Raises UserError for a class that a dataset has no images of, with the nearest name that it has."""
    for name in names:
        if name not in images_have:
            alike = [each for each in images_have if _spelled_alike(each) == _spelled_alike(name)]
            advice = f"--class_map {(alike or ['THEIRS'])[0]}={name} says what the images call it"
            raise UserError(
                f"the images of {dataset} have no class {name}, but {', '.join(images_have)}: {advice}; or give "
                "--images NAME of a dataset with images of all classes"
            )


def unseen(in_forms: Mapping[Form, Images], sources: Sequence[Source], splits: Sequence[Split]) -> np.ndarray:
    """Which images (n,) bool none of the strong models was trained on; the same images are given in every form."""
    new = np.ones(len(next(iter(in_forms.values()))), bool)
    for source, split in zip(sources, splits, strict=True):
        new &= ~is_among(in_forms[source.form], split.train)
    return new
