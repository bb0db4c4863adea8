"""Patches of weak models that were trained here and of the user's own."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from patching.metrics import METRICS, TargetClassScores, metrics_of
from patching.on_disk import is_outdated
from patching.report import BEFORE, NO_MODULE, PatchedWeakModel, common_calibrations
from patching.weak_models import WeakKind
from report.data import ReportData
from report.words import Effect
from utils.errors import UserError

Patched = dict[str, tuple[PatchedWeakModel, int]]  # label -> weak model, and which of its target classes


@dataclass(frozen=True)
class Outcome:
    """What one patch did, on test images; effects are by metric of METRICS."""

    name: str  # of the weak model and the target class
    before: TargetClassScores
    after: TargetClassScores
    no_module: TargetClassScores  # of the control: the weak model fitted again without a module
    changes: dict[str, Effect]  # from before to after
    added: dict[str, Effect]  # from the control to after: what is owed to the module
    others_p: float  # McNemar's, of the others' accuracy from before to after


def patches_by_this_set(data: ReportData) -> list[Outcome]:
    """Return the patches by the page's module set, of each by the learned rule if it was tried.

    Kinds that have damaged reports are left out.
    """
    found = []
    for kind in (*data.patched_kinds, None):
        with contextlib.suppress(UserError):  # its own section says so
            patched = {
                name: (model, number)
                for name, (model, number) in patches_of(data, kind).items()
                if model.modules == data.module_set.name
            }
            if patched:
                tried = common_calibrations(models_of(patched))
                method = "learned" if "learned" in tried else tried[0]  # not the best on test images
                prefix, suffix = f"{kind.words}: " if kind else "", "" if method == "learned" else f", {method}"
                found += [outcome_of(*of, method, f"{prefix}{name}{suffix}") for name, of in patched.items()]
    return found


def patches_of(data: ReportData, kind: WeakKind | None) -> Patched:
    """Return the patched models of a kind, or the user's own, without those of outdated module sets.

    Raises:
        UserError: a kind has none, or one is damaged.
    """
    if kind is None:
        return {
            f"{weak}: {target}": (model, number)
            for weak, model in data.own_patches.items()
            if not is_outdated(data.artifacts, model)
            for number, target in enumerate(model.target_names)
        }
    models = data.patched(kind)
    return {label_of(model, models): (model, 0) for model in models}


def models_of(patched: Patched) -> list[PatchedWeakModel]:
    """Return each of the weak models once."""
    return [model for model, number in patched.values() if number == 0]


def outcome_of(model: PatchedWeakModel, number: int, method: str, name: str) -> Outcome:
    """Return what one method did to one target class of a weak model."""
    before, after, no_module = (model.scores(each, number) for each in (BEFORE, method, NO_MODULE))
    change, over_no_module = model.change(method, number), model.over_no_module(method, number)
    assert change is not None and over_no_module is not None  # noqa: S101 - of a method that is no control
    effects = []
    for first, sure in ((before, change), (no_module, over_no_module)):
        differences = zip(METRICS, metrics_of(first), metrics_of(after), strict=True)
        effects.append({metric: Effect.of(sure, metric, new - old) for metric, old, new in differences})
    return Outcome(name, before, after, no_module, effects[0], effects[1], change.others_p)


def label_of(model: PatchedWeakModel, models: Sequence[PatchedWeakModel]) -> str:
    """Return the target class's name; with the epoch and the module set where there are several."""
    alike = [other for other in models if other.target_class == model.target_class]
    epoch = f", epoch {model.epoch}" if len({other.epoch for other in alike}) > 1 else ""
    modules = f", {model.modules}" if len({other.modules for other in models}) > 1 else ""
    return model.classes[-1] + epoch + modules
