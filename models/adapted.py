"""A network with changes that its name says: the outputs that are its classes, and the order of the colours.

    resnet18[4:3,0,1,2]                     made with 4 outputs; class 0 is output 3
    resnet18[1000:151-268,0-150+269-999]    made with 1,000; class 0 is outputs 151 to 268, class 1 the others
    my_network.py:build[bgr]                given blue, green, red

The logit of a class with several outputs is the log-sum-exp of their logits: the logit of the sum of their softmax
probabilities, since log sum_i exp(z_i) = log sum_i p_i + log Z, where Z is the same for all classes. The changes are
operators of the network, so that whatever takes a network by its name has them, and a module of a class has no more
rows of the last layer than the class's outputs.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
import torch
from torch import Tensor, nn

from models.graph.evaluating import one_answer
from utils.errors import UserError

BGR = "bgr"
REST = "rest"
CHANGED = re.compile(r"(?P<base>.+)\[(?P<changes>[^\[\]]*)\]")
RUNS = r"\d+(?:-\d+)?(?:\+\d+(?:-\d+)?)*"  # 7 or 3-5 or 3-5+7
IN_NAME = re.compile(rf"(?P<bgr>{BGR})?(?:(?(bgr),)(?P<count>\d+):(?P<groups>{RUNS}(?:,{RUNS})*))?")
FORM = f"numbers such as 151, ranges such as 151-268, several joined by +, or {REST}"
LISTED = 10  # classes by name, and outputs that are the classes
Groups = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Changes:
    """How a network differs from the one that it is made of; nothing (False) where it does not.

    Attributes:
        num_outputs: of the network that it is made of; 0 = as many as there are classes.
        groups: the outputs of each class, ascending; () = the outputs are the classes.
        is_bgr: whether that network takes blue, green and red.
    """

    num_outputs: int = 0
    groups: Groups = ()
    is_bgr: bool = False

    def __bool__(self) -> bool:
        return self != Changes()

    def __str__(self) -> str:
        """What stands behind the name of the network."""
        of_classes = f"{self.num_outputs}:{','.join(map(_as_runs, self.groups))}" if self.groups else ""
        return f"[{','.join(filter(None, (BGR if self.is_bgr else '', of_classes)))}]" if self else ""

    def with_outputs(self, groups: Groups, num_outputs: int) -> "Changes":
        """A copy that takes other outputs for the classes; of all outputs in their order, it selects none."""
        if groups == tuple((number,) for number in range(num_outputs)):
            return Changes(is_bgr=self.is_bgr)
        return Changes(num_outputs, groups, self.is_bgr)

    def in_order(self, order: Sequence[int]) -> "Changes":
        """A copy with the classes in another order: class c is the former class order[c]."""
        groups = self.groups or tuple((number,) for number in range(len(order)))
        return self.with_outputs(tuple(groups[number] for number in order), self.num_outputs or len(order))


class Adapted(nn.Module):
    """A network with changes: images (n, 3, side, side) as red, green and blue -> logits (n, classes).

    The name `module` is passed over in the names of a checkpoint, which so fits with and without the changes.

    Args:
        network: images -> logits (n, outputs), alone or among several values.
        changes: what is changed.
    """

    outputs: Tensor | None

    def __init__(self, network: nn.Module, changes: Changes) -> None:
        super().__init__()
        self.module, self.changes = network, changes
        outputs = [output for group in changes.groups for output in group]
        index = None if outputs == list(range(changes.num_outputs)) else torch.tensor(outputs)
        self.register_buffer("outputs", index, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, classes). Raises UserError where the network gives none."""
        answer = self.module(images.flip(1) if self.changes.is_bgr else images)
        if not self.changes.groups:
            return answer
        logits, count = one_answer(answer, images, self.changes.num_outputs), self.changes.num_outputs
        if logits.dim() != 2 or logits.shape[1] != count:
            raise UserError(f"expected a network with {count} outputs, it gives {tuple(logits.shape[1:])}")
        if self.outputs is not None:
            logits = logits.index_select(1, self.outputs)
        sizes = [len(group) for group in self.changes.groups]
        if max(sizes) == 1:
            return logits
        of_classes = zip(logits.split(sizes, 1), sizes, strict=True)
        return torch.cat([part if size == 1 else part.logsumexp(1, keepdim=True) for part, size in of_classes], 1)


def split_name(name: str) -> tuple[str, Changes]:
    """The name of the network that one is made of, and what is changed.

    Raises UserError for changes of another form.
    """
    found = CHANGED.fullmatch(name)
    if not found:
        return name, Changes()
    said = IN_NAME.fullmatch(found["changes"])
    if not said or not found["changes"] or CHANGED.fullmatch(found["base"]):
        raise UserError(
            f"network {name}: expected behind its name [{BGR}], [COUNT:OUTPUTS,OUTPUTS,...] or "
            f"[{BGR},COUNT:OUTPUTS,...], as in [1000:151-268,0-150+269-999]"
        )
    num_outputs = int(said["count"] or 0)
    groups = [_outputs(text, num_outputs, f"network {name}") for text in (said["groups"] or "").split(",") if text]
    _check_disjoint(groups, [f"class {number}" for number in range(len(groups))], f"network {name}")
    changes = Changes(is_bgr=bool(said["bgr"]))
    return found["base"], changes.with_outputs(tuple(groups), num_outputs) if groups else changes


def short_name(name: str) -> str:
    """The name as it is printed: many outputs are counted."""
    base, changes = split_name(name)
    text = str(changes)
    return name if len(text) <= 8 * LISTED else f"{base}{text[: 7 * LISTED]}... for {len(changes.groups)} classes]"


def groups_of(text: str, classes: Sequence[str], num_outputs: int) -> Groups:
    """The outputs of each class, as `--outputs` says them.

    Args:
        text: `151,281`, one entry for each class in the classes' order, or `dog=151-268,other=rest`, in any order. The
            outputs of an entry are joined by +, and `rest` stands for all that no other has.
        classes: their names.
        num_outputs: of the network.

    Raises UserError, one line, for another form, outputs that the network does not have or that several classes have,
    `rest` twice, and classes that are unknown, named twice or missing.
    """
    named = _entries(text, classes)
    of_rest = [name for name, outputs in named.items() if outputs == REST]
    if len(of_rest) > 1:
        raise UserError(f"--outputs: expected {REST} once, given for {' and '.join(of_rest)}")
    given = {name: _outputs(said, num_outputs, "--outputs") for name, said in named.items() if said != REST}
    _check_disjoint(list(given.values()), list(given), "--outputs")
    if of_rest:
        taken = {output for group in given.values() for output in group}
        given[of_rest[0]] = tuple(output for output in range(num_outputs) if output not in taken)
        if not given[of_rest[0]]:
            raise UserError(f"--outputs: nothing is left for {of_rest[0]}={REST}: others have all {num_outputs:,}")
    return tuple(given[name] for name in classes)


def _entries(text: str, classes: Sequence[str]) -> dict[str, str]:
    """What is said of each class."""
    known = "|".join(map(re.escape, sorted(classes, key=len, reverse=True)))
    entry, place = re.compile(rf"(?:(?P<name>{known})=)?(?P<outputs>{REST}|{RUNS})(?:,|$)"), 0
    entries: list[tuple[str | None, str]] = []
    listed = ", ".join(classes if len(classes) <= LISTED else (*classes[:LISTED], "..."))
    while place < len(text) or not entries:
        found = entry.match(text, place)
        unknown = re.match(r"([^,=]+)=", text[place:])
        if not found and unknown and unknown[1] not in classes:
            close = "".join(f"did you mean {match}? " for match in get_close_matches(unknown[1], classes, n=1))
            raise UserError(f"--outputs: the images have no class {unknown[1]}; {close}Expected {listed}")
        if not found:
            raise UserError(f"--outputs {text}: expected {FORM}, for each class, given {text[place:]!r}")
        entries.append((found["name"], found["outputs"]))
        place = found.end()
    names = [name for name, _ in entries if name is not None]
    if names and len(names) < len(entries):
        raise UserError(f"--outputs {text}: expected CLASS=OUTPUTS for all classes, or OUTPUTS alone for all")
    if not names and len(entries) != len(classes):
        raise UserError(f"--outputs: expected {len(classes)} entries, one for each of {listed}; given {len(entries)}")
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"--outputs: expected each class once, given {name} twice; + joins outputs: {name}=1-3+5")
    if names and (missing := [name for name in classes if name not in names]):
        raise UserError(f"--outputs: expected outputs for each class, given none for {', '.join(missing[:LISTED])}")
    return dict(zip(names or classes, (outputs for _, outputs in entries), strict=True))


def _outputs(text: str, num_outputs: int, where: str) -> tuple[int, ...]:
    """The numbers, ascending, that ranges joined by + stand for."""
    numbers: list[int] = []
    for run in text.split("+"):
        first, _, last = run.partition("-")
        start, end = int(first), int(last or first)
        if end < start:
            raise UserError(f"{where}: expected a range that rises, given {run}")
        if end >= num_outputs:
            raise UserError(f"{where}: expected outputs from 0 to {num_outputs - 1}, given {run}")
        numbers.extend(range(start, end + 1))
    if len(set(numbers)) < len(numbers):
        raise UserError(f"{where}: expected each output once, given {text}")
    return tuple(sorted(numbers))


def _check_disjoint(groups: Sequence[Iterable[int]], names: Sequence[str], where: str) -> None:
    """Raises UserError where an output is of two classes."""
    owner: dict[int, str] = {}
    for name, group in zip(names, groups, strict=True):
        for output in group:
            if output in owner:
                raise UserError(
                    f"{where}: expected each output once, given {output} for {owner[output]} and for {name}"
                )
            owner[output] = name


def _as_runs(group: Sequence[int]) -> str:
    """Ascending numbers as ranges: 3-5+7."""
    numbers = np.asarray(group)
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    return "+".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
