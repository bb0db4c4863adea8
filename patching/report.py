"""The record of a patched weak model: the results of each method on test images; a JSON file holds it.

A method is the weak model as it is, a rule of `patching.rules`, or a control.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from patching.confidence import Change, change_of
from patching.metrics import METRICS, TargetClassScores, confusion_matrix, metrics_of, scores_of_target_class
from patching.rules import RULES, Rule
from utils.errors import UserError

BEFORE = "before"
NO_MODULE = "control: learned, no module"
WHOLE_MODEL = "control: {}, whole strong model"
ADVICE = "leave the module out"


@dataclass(frozen=True)
class PatchedWeakModel:
    """One weak model, and every method that was tried on it; `print` shows the changes, in percent.

    A method is "before" (the weak model as it is), a rule such as "learned", or a control.

    Attributes:
        classes: the names of the weak model's classes, then of the added ones.
        targets: the numbers of those that are patched; none if no module helped.
        test_images: how many.
        methods: method -> its confusion matrix, rule and scores of each target, as `method_entry` describes.
        configuration: of the strong model.
        target_classes: the strong model's numbers of the targets.
        modules, modules_sha256: the module set's name; the checksum of its record.
        weak_model: its network, or the checkpoint or folder of a weak model that was not made here.
        kind: `weak`, `poor`, or `own` (not made here).
        epoch: of a weak model that was trained here.
        validation_images: how many.
        details: of a weak model that was not made here: added classes, evaluated modules, cost.
        made_with: commit, versions and machine.
    """

    classes: tuple[str, ...]
    targets: tuple[int, ...]
    test_images: int
    methods: dict[str, Any]
    configuration: str = ""
    target_classes: tuple[int, ...] = ()
    modules: str = ""
    modules_sha256: str = ""
    weak_model: str = ""
    kind: str = ""
    epoch: int = 0
    validation_images: int = 0
    details: dict[str, Any] = field(default_factory=dict)
    made_with: dict[str, str] = field(default_factory=dict)

    @property
    def target_class(self) -> int:
        """The strong model's number of the only target class."""
        (target_class,) = self.target_classes
        return target_class

    @property
    def target_names(self) -> list[str]:
        """The names of the target classes."""
        return [self.classes[target] for target in self.targets]

    def confusion(self, method: str) -> np.ndarray:
        """(classes, classes) int64 on the test images, rows = labels. Raises ValueError if it is none."""
        confusion = np.array(self.methods[method]["confusion_matrix"])
        if confusion.shape != (len(self.classes), len(self.classes)) or confusion.dtype.kind != "i":
            raise ValueError(f"the confusion matrix of {method} is not one of {len(self.classes)} classes")
        return confusion.astype(np.int64)

    def scores(self, method: str, number: int = 0) -> TargetClassScores:
        """The scores by one method of a target, by its number among them, and of the classes that are no targets."""
        return scores_of_target_class(self.confusion(method), self.targets[number], self.targets)

    def change(self, method: str, number: int = 0) -> Change | None:
        """How sure the changes of a target's scores by a method are; None of the weak model as it is.

        Raises KeyError, TypeError or ValueError if the file has none.
        """
        return self._change(method, "change", number)

    def over_no_module(self, method: str, number: int = 0) -> Change | None:
        """How sure the changes from the control without a module are; None if that is what they would be of.

        Raises KeyError, TypeError or ValueError if the file has none.
        """
        return self._change(method, "over_no_module", number)

    def _change(self, method: str, name: str, number: int) -> Change | None:
        values = self.methods[method]["targets"][number][name]
        return None if values is None else Change.from_json(values)

    @property
    def calibrations(self) -> list[str]:
        """The methods that patch: neither the weak model as it was nor a control."""
        return [method for method in self.methods if method in RULES]

    def rule(self, calibration: str) -> Rule:
        """The rule as it was fitted. Raises TypeError, ValueError or RuntimeError if it is none for the classes."""
        rule = RULES[calibration].from_json(self.methods[calibration]["rule"])
        weak_classes = len(self.classes) - len(self.details.get("added", ()))
        scores = rule(torch.zeros(1, weak_classes), torch.zeros(1, len(self.targets)))
        if scores.shape != (1, len(self.classes)):
            raise ValueError(f"the rule of {calibration} is not one of {len(self.classes)} classes")
        return rule

    def f1_over_no_module(self, method: str) -> float:
        """How far F1 is above that of the control without modules, summed over the targets."""
        numbers = range(len(self.targets))
        return sum(self.scores(method, number).f1 - self.scores(NO_MODULE, number).f1 for number in numbers)

    def __str__(self) -> str:
        return "\n".join(line for method in self.calibrations for line in self.lines(method)) or "no module helps"

    def lines(self, method: str) -> list[str]:
        """For people: what a calibration changes, in percent, and how sure the changes are, in percentage points."""
        before, after = (100 * np.trace(self.confusion(each)) / self.test_images for each in (BEFORE, method))
        lines = [f"accuracy {before:.2f} % -> {after:.2f} %"]
        advice = ADVICE if method == "learned" else f"take the rule learned, or {ADVICE}"
        for number, name in enumerate(self.target_names):
            words = ("precision", "recall", "F1")
            values = zip(words, *(metrics_of(self.scores(each, number)) for each in (BEFORE, method)), strict=False)
            shares = ", ".join(f"{word} {100 * old:.1f} -> {100 * new:.1f}" for word, old, new in values)
            change = self.change(method, number)
            lines.append(f"{name}: {shares}" + (f"; F1 changes by {change.in_words('f1')}" if change else ""))
            if over := self.over_no_module(method, number):
                lines.append(f"{name}: compared with no module, F1 changes by {over.in_words('f1')}")
                if not over.is_better("f1"):
                    lines.append(f"{name}: no better than recalibrating the weak model alone: {advice}")
        change = self.change(method) if self.targets else None
        if change and self.scores(BEFORE).others:  # every target has the same other classes
            old, new = (100 * self.scores(each).others_accuracy for each in (BEFORE, method))
            lines.append(
                f"accuracy of the other classes {old:.1f} -> {new:.1f}; it changes by "
                f"{change.in_words('others_accuracy')}, McNemar's p = {change.others_p:.2g}"
            )
        return lines if len(self.calibrations) == 1 else [f"{method}: {line}" for line in lines]


def methods_of(
    labels: np.ndarray,
    answers: Mapping[str, np.ndarray],
    rules: Mapping[str, Rule | None],
    classes: Sequence[str],
    targets: Sequence[int],
    seed: int = 0,
) -> dict[str, Any]:
    """The methods of a `PatchedWeakModel`.

    Args:
        labels: (images,) int64.
        answers: method -> (images,) int64, those of the weak model as it is among them; `rules` likewise.
        classes: their names, and `targets` the numbers of those that are patched.
        seed: of the bootstrap.
    """

    def changes(method: str, other: str) -> list[Change] | None:
        if other not in answers or method in (BEFORE, other):
            return None
        return [change_of(labels, answers[other], answers[method], each, targets, seed) for each in targets]

    entries = {}
    for method, given in answers.items():
        confusion = confusion_matrix(labels, given, len(classes))
        compared = changes(method, BEFORE), changes(method, NO_MODULE)
        entries[method] = method_entry(confusion, rules.get(method), *compared, targets)
    return entries


def method_entry(
    confusion: np.ndarray,
    rule: Rule | None = None,
    changes: Sequence[Change] | None = None,
    over_no_module: Sequence[Change] | None = None,
    targets: Sequence[int] | None = None,
) -> dict[str, Any]:
    """What the file records of one method: confusion matrix, rule and, of each target, metrics, counts and sureness.

    Args:
        confusion: (classes, classes) int64 on the test images, rows = labels.
        rule: that was fitted.
        changes, over_no_module: of each target, from the weak model as it is, and from the control without modules;
            None = not compared.
        targets: the classes that are patched; None = the last one.
    """
    targets = [len(confusion) - 1] if targets is None else targets
    of_targets = []
    for number, target in enumerate(targets):
        scores = scores_of_target_class(confusion, target, targets)
        sure = {
            name: None if given is None else given[number].to_json()
            for name, given in (("change", changes), ("over_no_module", over_no_module))
        }
        of_targets.append({**dict(zip(METRICS, metrics_of(scores), strict=True)), **asdict(scores), **sure})
    fitted = rule.to_json() if rule else None
    return {"confusion_matrix": confusion.tolist(), "rule": fitted, "targets": of_targets}


def common_calibrations(models: Sequence[PatchedWeakModel]) -> list[str]:
    """The calibrations that were tried on every one of the weak models. Raises UserError if there is none."""
    common = [name for name in models[0].calibrations if all(name in model.methods for model in models)]
    if not common or not all(BEFORE in model.methods for model in models):
        raise UserError("the weak models were patched with different calibrations; patch all with the same one")
    return common


def mean_metrics(models: Sequence[PatchedWeakModel], method: str) -> np.ndarray:
    """(METRICS,) float64: the mean of a method over weak models, and over the targets of each."""
    scores = [model.scores(method, number) for model in models for number in range(len(model.targets))]
    mean: np.ndarray = np.mean([metrics_of(each) for each in scores], axis=0)
    return mean
