"""All patches of a configuration's modules, of weak models that were trained here and of the user's own."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from patching.confidence import Change
from patching.report import BEFORE, PatchedWeakModel, common_calibrations
from patching.weak_models import WeakKind
from report.data import ReportData
from report.words import counted
from utils.errors import UserError


@dataclass(frozen=True)
class Gains:
    """What the patches of one kind of weak models did for their target classes."""

    models: str  # how many, and which
    before: float  # mean F1
    after: float
    changes: list[Change]  # of the patches that know how sure they are

    @property
    def in_words(self) -> str:
        """In percent, on one line."""
        return "\N{NO-BREAK SPACE}".join(
            [f"{100 * self.before:.1f}", "\N{RIGHTWARDS ARROW}", f"{100 * self.after:.1f}"]
        )


def all_gains(data: ReportData) -> list[Gains]:
    """By kind of weak models; a kind that nobody patched, or whose reports are damaged, is left out."""
    found = []
    for kind in data.patched_kinds:
        try:
            found.append(_gains(data.patched(kind), kind))
        except UserError:  # its own section says so
            continue
    with contextlib.suppress(UserError):
        found += _own_gains(data)
    return found


def _gains(models: list[PatchedWeakModel], kind: WeakKind) -> Gains:
    """By the learned rule where all were patched with it, else by the first one tried: not by the best on test."""
    tried = common_calibrations(models)
    method = "learned" if "learned" in tried else tried[0]
    before, after = ([model.scores(each).f1 for model in models] for each in (BEFORE, method))
    changes = [change for model in models if (change := model.change(method))]
    words = f"{counted(len(models), f'{kind.words} model')} ({method})"
    return Gains(words, float(np.mean(before)), float(np.mean(after)), changes)


def _own_gains(data: ReportData) -> Iterator[Gains]:
    patched = [own for own in data.own_patches if own.report.targets]
    targets = [target for own in patched for target in own.report.targets]
    if targets:
        before, after = ([getattr(target, when).f1 for target in targets] for when in ("before", "after"))
        words = f"{counted(len(patched), 'model')} of your own"
        yield Gains(words, float(np.mean(before)), float(np.mean(after)), [target.change for target in targets])
