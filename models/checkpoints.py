"""The weights of a network in a checkpoint that others saved, under whatever names their wrappers gave them.

People save a state_dict, or a dict with one or several in it; DataParallel, torch.compile and trainers put words before
the names or into them. A state_dict is recognised by the network's own names at the end of its names.
"""

import re
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.foreign_files import read_foreign_file
from models.names import other_outputs
from utils.errors import UserError, reason
from utils.tables import printable

DEPTH = 3  # of dicts in dicts
TOP = "."  # the place of weights that lie at the top of the file
WRAPPERS = frozenset({"module", "_orig_mod"})  # parts of names that DataParallel and torch.compile add anywhere
# What evaluation does not read: counters of batch norm, of averaged models and of profilers; the auxiliary classifiers
# of GoogLeNet and Inception.
COUNTERS = ("num_batches_tracked", "n_averaged", "total_ops", "total_params")
AUXILIARY = ("aux1", "aux2", "AuxLogits")
NOT_NEEDED = re.compile(rf"(?:.*\.)?(?:{'|'.join(COUNTERS)})|(?:{'|'.join(AUXILIARY)})\..*", re.DOTALL)
GENERATOR = re.compile(r"(?:.*\.)?generators\.\d+\.hidden\.weight")  # of models/mask_generators.py
MOST_PLACES = 10  # in a message


@dataclass(frozen=True)
class Weights:
    """Weights found at one place of a checkpoint, by the network's own names."""

    place: str  # the keys of the dicts around them and the words before their names, with dots; TOP = none
    found: Mapping[str, Tensor]
    endings: "_Endings"  # the network's names
    names: "_Names"  # of all tensors in the same dict
    before: str  # the words before the network's names in that dict, with a dot
    theirs: frozenset[str]  # the names in that dict that are the network's here

    @property
    def expected(self) -> Mapping[str, Tensor]:
        """The network's own weights."""
        return self.endings.own

    @cached_property
    def extra(self) -> list[str]:
        """Names at this place that are not the network's."""
        here = (name for name in self.names.at_no_place(self.theirs) if name.startswith(self.before))
        return [name for name in here if not NOT_NEEDED.fullmatch(name[len(self.before) :])]

    @property
    def wrappers(self) -> list[str]:
        """Parts of names that were passed over."""
        words = {part for name in self.theirs for part in name[len(self.before) :].split(".")}
        return sorted((words - self.endings.words) & WRAPPERS)

    @cached_property
    def fitting(self) -> tuple[str, ...]:
        """The network's names whose weights are there, and can be taken."""
        return tuple(name for name, value in self.found.items() if can_be_taken(self.expected[name], value))

    @cached_property
    def different(self) -> tuple[str, ...]:
        """The needed ones of the network's names whose weights are missing or cannot be taken."""
        there = set(self.fitting)
        return tuple(name for name in self.expected if name in self.endings.needed - there)

    @property
    def fits(self) -> bool:
        """Whether the network has all that it needs from here, and knows all that is here."""
        return self.endings.needed <= set(self.fitting) and not self.extra

    def is_same_as(self, other: "Weights") -> bool:
        """Whether a network is the same with either."""
        return self.fitting == other.fitting and all(
            self.found[name].dtype == other.found[name].dtype and torch.equal(self.found[name], other.found[name])
            for name in self.fitting
        )

    def describe(self) -> str:
        """One line for a terminal: how many, from where, what was passed over."""
        notes = [f"{len(self.fitting)} of the network's {len(self.expected)} tensors"]
        if self.place != TOP:
            notes.append(f"found at {self.place}")
        if self.wrappers:
            notes.append(f"without {', '.join(self.wrappers)} in their names")
        casts = {(self.found[name].dtype, self.expected[name].dtype) for name in self.fitting}
        casts = {(old, new) for old, new in casts if old != new and new.is_floating_point}
        notes.extend(sorted(f"from {old} to {new}".replace("torch.", "") for old, new in casts))
        elsewhere = [name for name in self.names.at_no_place(self.theirs) if not name.startswith(self.before)]
        if elsewhere:
            notes.append(f"left out: {_some(elsewhere)}")
        there = set(self.fitting)
        absent = [name for name in self.expected if name not in there]
        if absent:
            notes.append(f"not needed and not there: {_some(absent)}")
        return printable("; ".join(notes))


class OtherOutputs(UserError):
    """A checkpoint is of the same network with another number of outputs.

    Attributes:
        count: how many outputs.
    """

    def __init__(self, message: str, count: int) -> None:
        super().__init__(message)
        self.count = count


def load_foreign_checkpoint(network: nn.Module, path: Path, key: str | None = None) -> Weights:
    """Load the weights in a checkpoint into a network, and return what was found.

    Args:
        network: gets the weights in its own precision, on its own device.
        path: of torch, old or new, or safetensors.
        key: where they are, if several places fit: `state_dict_ema`, `state_dict.model`, or TOP.

    Raises UserError, with the first difference, where they do not fit, fit at several places, or are not finite:
    OtherOutputs where the number of classes is the only one.
    """
    content = read_foreign_file(path)
    own = {name: value for name, value in network.state_dict().items() if isinstance(value, Tensor)}
    weights = _chosen(list(_places(content, own)), path, key)
    if any(map(GENERATOR.fullmatch, set(weights.names.all) - weights.theirs)):
        raise UserError(f"{path} is of a network with mask generators: name the network mwt:NAME")
    values = {name: weights.found[name].detach().to(own[name].dtype) for name in weights.fitting}
    for name, value in values.items():
        if not torch.isfinite(value).all():
            count = int((~torch.isfinite(value)).sum())
            raise UserError(
                f"{path}: {count:,} of {value.numel():,} values of {name} are NaN or infinite; "
                "take a checkpoint from before the training went wrong"
            )
    try:
        network.load_state_dict(values, strict=False)
    except RuntimeError as error:  # a network may have its own way of loading
        raise UserError(f"cannot load {path}: {reason(error)}") from error
    return weights


def can_be_taken(expected: Tensor, found: Tensor) -> bool:
    """Whether a tensor can stand for another: as large, with plain values, real numbers where these are expected."""
    is_plain = found.layout == torch.strided and not found.is_quantized and not found.is_meta
    return is_plain and found.shape == expected.shape and found.is_floating_point() == expected.is_floating_point()


def description(value: Any) -> str:
    """Precision and shape of a tensor; the type of anything else."""
    if not isinstance(value, Tensor):
        return "absent" if value is None else type(value).__name__
    layout = "" if value.layout == torch.strided else f"{value.layout} "
    return f"{layout}{value.dtype} of shape {tuple(value.shape)}".replace("torch.", "")


def _chosen(places: Sequence[Weights], path: Path, key: str | None) -> Weights:
    """The weights that fit. Raises UserError where none do, or several."""
    if not places:
        raise UserError(f"{path} holds no tensors by name; expected a state_dict, or a dict with one in it")
    if key is not None:
        there = [weights for weights in places if weights.place == key or weights.place.startswith(f"{key}.")]
        if not there:
            raise UserError(f"--checkpoint_key {key}: expected a place in {path}: {_listed(places)}")
        places = there
    fitting = [weights for weights in places if weights.fits]
    if not fitting:
        raise _misfit(max(places, key=lambda weights: (len(weights.fitting), len(weights.found))), path)
    first, *others = fitting
    if not all(first.is_same_as(other) for other in others):
        raise UserError(f"{path} has several that fit: choose one with --checkpoint_key: {_listed(fitting)}")
    return first


def _misfit(best: Weights, path: Path) -> UserError:
    """The error with the first difference."""
    at = "" if best.place == TOP else f" at {best.place}"
    if not best.found:
        return UserError(
            f"{path} is of another network: none of its names{at} is the network's; "
            f"expected names like {next(iter(best.expected))}, found {best.names.all[0]}"
        )
    counts = {_other_count(best.expected[name], best.found.get(name)) for name in best.different}
    if len(counts) == 1 and None not in counts and not best.extra:
        ours, theirs = next(count for count in counts if count is not None)
        layer = best.different[0].rpartition(".")[0]
        return OtherOutputs(
            f"{path} is of a network with {theirs} classes: its {layer} has {theirs} outputs, and that of the network "
            f"{ours}; {other_outputs(theirs, ours)}",
            theirs,
        )
    if best.different:
        name = best.different[0]
        expected, found = description(best.expected[name]), description(best.found.get(name))
        difference = f"expected {name} to be {expected}, found {found}{at}"
    else:
        difference = f"found {best.extra[0]}{at}, which the network does not have"
    return UserError(
        f"{path} is of another network: {difference} "
        f"({len(best.fitting)} of {len(best.expected)} tensors fit); give the network that was saved"
    )


def _other_count(expected: Tensor, found: Tensor | None) -> tuple[int, int] | None:
    """Both first lengths of two tensors that differ in nothing else."""
    if found is None or not expected.dim() or found.shape[1:] != expected.shape[1:] or found.dim() != expected.dim():
        return None
    return (len(expected), len(found)) if len(expected) != len(found) else None


class _Endings:
    """The network's names, as they stand at the end of a checkpoint's names."""

    def __init__(self, own: Mapping[str, Tensor]) -> None:
        self.own = own
        self.needed = {name for name in own if not NOT_NEEDED.fullmatch(name)}
        self.words = {part for name in own for part in name.split(".")}
        self.wrappers = WRAPPERS
        self.name_of = {".".join(part for part in name.split(".") if part not in WRAPPERS): name for name in own}
        if len(self.name_of) < len(own):  # the network itself tells names apart by such words
            self.wrappers = frozenset()
            self.name_of = {name: name for name in own}
        self.most_parts = max((name.count(".") + 1 for name in self.name_of), default=0)

    def of(self, name: str) -> list[tuple[str, str]]:
        """What stands before each name of the network at the end of `name`, and that name; the longest one first."""
        parts, ending, found = name.split("."), deque[str](), []
        for start in reversed(range(len(parts))):
            if parts[start] in self.wrappers:
                continue
            if len(ending) == self.most_parts:
                break
            ending.appendleft(parts[start])
            own_name = self.name_of.get(".".join(ending))
            if own_name is not None:
                found.append((".".join(parts[:start]), own_name))
        return found[::-1]


@dataclass(frozen=True)
class _Names:
    """The names of a dict's tensors, which all places in it share."""

    all: Sequence[str]  # in their order
    placed: Set[str]  # those of places at which all that the network needs was found

    def at_no_place(self, theirs: Set[str]) -> list[str]:
        """The names that are neither among `theirs` nor placed."""
        return [name for name in self.all if name not in theirs and name not in self.placed]


def _places(content: Any, own: Mapping[str, Tensor]) -> Iterator[Weights]:
    endings = _Endings(own)
    for keys, tensors in _named_tensors(content, DEPTH, set()):
        yield from _places_in(".".join(keys), tensors, endings)


def _named_tensors(content: Any, depth: int, seen: set[int]) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """The keys to every dict with tensors by name, and the tensors; an object that is there twice counts once."""
    if id(content) in seen:  # else a small file could lead to a thousand times a thousand places
        return
    if isinstance(content, Mapping | list | tuple):
        seen.add(id(content))
    if isinstance(content, Mapping):
        tensors = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
        if tensors:
            yield (), tensors
        children: Iterable[tuple[Any, Any]] = content.items()
    elif isinstance(content, list | tuple):
        children = enumerate(content)
    else:
        return
    if depth:
        for key, child in children:
            for keys, tensors in _named_tensors(child, depth - 1, seen):
                yield (str(key), *keys), tensors


def _places_in(keys: str, tensors: Mapping[str, Tensor], endings: _Endings) -> Iterator[Weights]:
    """The places in a dict, one for each beginning of names behind which names of the network stand."""
    by_prefix: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for name in tensors:
        for prefix, own_name in endings.of(name):
            by_prefix[prefix][own_name] = name
    placed = {n for name_of in by_prefix.values() if name_of.keys() >= endings.needed for n in name_of.values()}
    names = _Names(list(tensors), placed)
    for prefix, name_of in by_prefix.items() or [("", {})]:
        yield Weights(
            place=".".join(part for part in (keys, prefix) if part) or TOP,
            found={name: tensors[theirs] for name, theirs in name_of.items()},
            endings=endings,
            names=names,
            before=f"{prefix}." if prefix else "",
            theirs=frozenset(name_of.values()),
        )


def _listed(places: Sequence[Weights]) -> str:
    return _some(list(dict.fromkeys(weights.place for weights in places if weights.found)), MOST_PLACES) or TOP


def _some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
