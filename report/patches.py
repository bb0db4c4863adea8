"""All patches of a configuration's modules, of weak models that were trained here and of the user's own."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from patching.confidence import Change
from patching.metrics import TargetClassScores
from patching.report import BEFORE, NO_MODULE, PatchedWeakModel, common_calibrations
from patching.weak_models import WeakKind
from report.data import ReportData
from report.words import counted
from utils.errors import UserError

Patched = dict[str, tuple[PatchedWeakModel, int]]  # label -> weak model, and which of its target classes


@dataclass(frozen=True)
class Outcome:
    """What one patch did, on test images."""

    name: str  # of the weak model and the target class
    before: TargetClassScores
    after: TargetClassScores
    no_module: TargetClassScores  # of the control: the weak model fitted again without a module
    change: Change  # from before to after
    over_no_module: Change  # from the control to after

    @property
    def added(self) -> float:
        """F1 above that of the control, in percentage points."""
        return 100 * (self.after.f1 - self.no_module.f1)

    @property
    def others_changed(self) -> float:
        """The accuracy of the other classes after the patch less that before, in percentage points."""
        return 100 * (self.after.others_accuracy - self.before.others_accuracy)

    @property
    def helps(self) -> bool:
        """Whether the module gives significantly more than the control."""
        return self.over_no_module.f1[0] > 0

    @property
    def added_in_words(self) -> str:
        """F1 above that of the control in percentage points, with its 95 % interval."""
        return f"{self.added:+.1f}, {in_words(self.over_no_module, 'f1')}"


@dataclass(frozen=True)
class Patches:
    """The patches of one kind of weak models."""

    models: str  # how many, and which
    outcomes: Sequence[Outcome]


def all_patches(data: ReportData) -> list[Patches]:
    """By kind of weak models; a kind without patches, or with damaged reports, is left out."""
    found = []
    for kind in (*data.patched_kinds, None):
        with contextlib.suppress(UserError):  # its own section says so
            if patched := patches_of(data, kind):
                models = models_of(patched)
                tried = common_calibrations(models)
                method = "learned" if "learned" in tried else tried[0]  # not the best on test images
                which = f"{counted(len(models), 'model')} of your own"
                if kind is not None:
                    which = f"{counted(len(models), f'{kind.words} model')} ({method})"
                prefix = f"{kind.words}: " if kind else ""
                found.append(Patches(which, [outcome_of(*of, method, prefix + name) for name, of in patched.items()]))
    return found


def patches_of(data: ReportData, kind: WeakKind | None) -> Patched:
    """The patched models of a kind, or the user's own. Raises UserError where a kind has none, or one is damaged."""
    if kind is None:
        return {
            f"{weak}: {target}": (model, number)
            for weak, model in data.own_patches.items()
            for number, target in enumerate(model.target_names)
        }
    models = data.patched(kind)
    return {label_of(model, models): (model, 0) for model in models}


def models_of(patched: Patched) -> list[PatchedWeakModel]:
    """Each of the weak models."""
    return [model for model, number in patched.values() if number == 0]


def outcome_of(model: PatchedWeakModel, number: int, method: str, name: str) -> Outcome:
    """What one method did to one target class of a weak model."""
    before, after, no_module = (model.scores(each, number) for each in (BEFORE, method, NO_MODULE))
    change, over_no_module = model.change(method, number), model.over_no_module(method, number)
    if change is None or over_no_module is None:
        raise UserError(f"{name}: expected the changes by the method {method}, found none; patch again")
    return Outcome(name, before, after, no_module, change, over_no_module)


def label_of(model: PatchedWeakModel, models: Sequence[PatchedWeakModel]) -> str:
    """The target class's name; the epoch and the module set where there are several."""
    alike = [other for other in models if other.target_class == model.target_class]
    epoch = f", epoch {model.epoch}" if len({other.epoch for other in alike}) > 1 else ""
    modules = f", {model.modules}" if len({other.modules for other in models}) > 1 else ""
    return model.classes[-1] + epoch + modules


def in_words(change: Change, metric: str) -> str:
    """The 95 % interval of a metric's change in percentage points, and whether it is significant."""
    return "unchanged" if getattr(change, metric) == (0, 0) else change.in_words(metric)
