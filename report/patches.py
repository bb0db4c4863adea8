"""All patches of a configuration's modules, of weak models that were trained here and of the user's own."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from patching.confidence import Change
from patching.metrics import TargetClassScores
from patching.report import BEFORE, NO_MODULE, PatchedWeakModel, common_calibrations
from patching.tables import interval_in_words
from patching.weak_models import WeakKind
from report.data import ReportData
from report.words import counted
from utils.errors import UserError

OWN_NO_MODULE = "no module"  # the control of a user's own weak model


@dataclass(frozen=True)
class Outcome:
    """What one patch did, on test images."""

    name: str  # of the weak model and the target class
    before: TargetClassScores
    after: TargetClassScores
    no_module: TargetClassScores | None  # of the control: the weak model fitted again without a module
    change: Change | None  # from before to after
    over_no_module: Change | None  # from the control to after; None where an earlier version wrote the report

    @property
    def added(self) -> float | None:
        """F1 above that of the control, in points."""
        return None if self.no_module is None else 100 * (self.after.f1 - self.no_module.f1)

    @property
    def others_changed(self) -> float:
        """The accuracy of the other classes after the patch less that before, in points."""
        return 100 * (self.after.others_accuracy - self.before.others_accuracy)

    @property
    def helps(self) -> bool:
        """Whether the module gives more than the control, significantly so where that is known."""
        if self.over_no_module is not None:
            return self.over_no_module.f1[0] > 0
        return self.added is None or self.added > 0

    @property
    def added_in_words(self) -> str:
        """F1 above that of the control in points, with its 95 % interval, as far as they are known."""
        if self.added is None:
            return "unknown"
        sure = "" if self.over_no_module is None else f", {in_words(self.over_no_module, 'f1')}"
        return f"{self.added:+.1f}{sure}"


@dataclass(frozen=True)
class Patches:
    """The patches of one kind of weak models."""

    models: str  # how many, and which
    outcomes: Sequence[Outcome]


def all_patches(data: ReportData) -> list[Patches]:
    """By kind of weak models; a kind without patches, or with damaged reports, is left out."""
    found = []
    for kind in data.patched_kinds:
        with contextlib.suppress(UserError):  # its own section says so
            found.append(_of_kind(data.patched(kind), kind))
    with contextlib.suppress(UserError):
        if own := list(own_outcomes(data)):
            patched = [each for each in data.own_patches if each.report.targets]
            found.append(Patches(f"{counted(len(patched), 'model')} of your own", own))
    return found


def _of_kind(models: list[PatchedWeakModel], kind: WeakKind) -> Patches:
    """By the learned rule where all were patched with it, else by the first one tried: not by the best on test."""
    tried = common_calibrations(models)
    method = "learned" if "learned" in tried else tried[0]
    return Patches(
        f"{counted(len(models), f'{kind.words} model')} ({method})",
        [outcome_of(model, method, f"{kind.words}: {label_of(model, models)}") for model in models],
    )


def outcome_of(model: PatchedWeakModel, method: str, name: str) -> Outcome:
    """What one method did to a weak model that was trained here."""
    return Outcome(
        name,
        model.scores(BEFORE),
        model.scores(method),
        model.scores(NO_MODULE) if NO_MODULE in model.methods else None,
        model.change(method),
        None if (values := model.methods[method].get("over_no_module")) is None else Change.from_json(values),
    )


def own_outcomes(data: ReportData) -> Iterator[Outcome]:
    """A row for each target class of each weak model that was not made here."""
    for own in data.own_patches:
        control = own.controls.get(OWN_NO_MODULE)
        for place, target in enumerate(own.report.targets):
            yield Outcome(
                f"{own.weak_model}: {target.name}",
                target.before,
                target.after,
                control.targets[place].after if control else None,
                target.change,
                getattr(target, "over_no_module", None),
            )


def label_of(model: PatchedWeakModel, models: Sequence[PatchedWeakModel]) -> str:
    """The target class's name, and the epoch where it is not the only one."""
    epochs = sum(other.target_class == model.target_class for other in models)
    return f"{model.classes[-1]}, epoch {model.epoch}" if epochs > 1 else model.classes[-1]


def in_words(change: Change, metric: str) -> str:
    """The 95 % interval of a metric's change in points, and whether it is significant."""
    if getattr(change, metric) == (0, 0):
        return "unchanged"
    return f"{interval_in_words(getattr(change, metric))} ({verdict(change.is_significant(metric))})"


def verdict(is_significant: bool) -> str:
    """For people."""
    return "significant" if is_significant else "not significant"
