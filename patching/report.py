"""What `patch_epoch_E_CALIBRATION.json` says of a weak model: what each method makes of it, on test images.

A method is the weak model as it is, a rule of `patching.rules`, or a control.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from patching.confidence import Change
from patching.metrics import METRICS, TargetClassScores, metrics_of, scores_of_target_class
from patching.rules import RULES, Rule
from utils.errors import UserError

BEFORE = "before"
NO_MODULE = "control: learned, no module"
WHOLE_MODEL = "control: {}, whole strong model"


@dataclass(frozen=True)
class PatchedWeakModel:
    """One weak model at one epoch, and every method that was tried on it."""

    configuration: str
    target_class: int
    classes: tuple[str, ...]  # the target class last
    weak_model: str  # its network
    kind: str  # `weak` or `poor`
    epoch: int
    validation_images: int
    test_images: int
    methods: dict[str, Any]  # method -> `method_entry`
    module_sha256: str = ""  # of the module's checkpoint; unknown where an earlier version wrote the report

    def confusion(self, method: str) -> np.ndarray:
        """(classes, classes) int64 on the test images, rows = labels. Raises ValueError where it is none."""
        confusion = np.array(self.methods[method]["confusion_matrix"])
        if confusion.shape != (len(self.classes), len(self.classes)) or confusion.dtype.kind != "i":
            raise ValueError(f"the confusion matrix of {method} is not one of {len(self.classes)} classes")
        return confusion.astype(np.int64)

    def scores(self, method: str) -> TargetClassScores:
        """The target class's and the others' scores by one method."""
        return scores_of_target_class(self.confusion(method), len(self.classes) - 1)

    def change(self, method: str) -> Change | None:
        """How sure a method's changes are; None of the weak model as it is, and in reports that do not say it.

        Raises KeyError, TypeError or ValueError where it is none.
        """
        return self._change(method, "change")

    def over_no_module(self, method: str) -> Change | None:
        """How sure the changes from the control without a module are; None of that control, and in older reports.

        Raises KeyError, TypeError or ValueError where it is none.
        """
        return self._change(method, "over_no_module")

    def _change(self, method: str, name: str) -> Change | None:
        values = self.methods[method].get(name)
        return None if values is None else Change.from_json(values)

    @property
    def calibrations(self) -> list[str]:
        """The methods that patch: neither the weak model as it was nor a control."""
        return [method for method in self.methods if method in RULES]

    def rule(self, calibration: str) -> Rule:
        """The rule as it was fitted. Raises TypeError, ValueError or RuntimeError where it is none for the classes."""
        rule = RULES[calibration].from_json(self.methods[calibration]["rule"])
        scores = rule(torch.zeros(1, len(self.classes)), torch.zeros(1))
        if scores.shape != (1, len(self.classes)):
            raise ValueError(f"the rule of {calibration} is not one of {len(self.classes)} classes")
        return rule


def method_entry(
    confusion: np.ndarray, rule: Rule | None, change: Change | None = None, over_no_module: Change | None = None
) -> dict[str, Any]:
    """What the file says of one method: metrics, the counts behind them, confusion matrix, rule and sureness."""
    scores = scores_of_target_class(confusion, len(confusion) - 1)
    return {
        **dict(zip(METRICS, metrics_of(scores), strict=True)),
        **asdict(scores),
        "confusion_matrix": confusion.tolist(),
        "rule": rule.to_json() if rule else None,
        "change": change.to_json() if change else None,
        "over_no_module": over_no_module.to_json() if over_no_module else None,
    }


def common_calibrations(models: list[PatchedWeakModel]) -> list[str]:
    """The calibrations that were tried on every one of the weak models. Raises UserError where there is none."""
    common = [name for name in models[0].calibrations if all(name in model.methods for model in models)]
    if not common or not all(BEFORE in model.methods for model in models):
        raise UserError("the weak models were patched with different calibrations; patch all with the same one")
    return common


def mean_metrics(models: list[PatchedWeakModel], method: str) -> np.ndarray:
    """(METRICS,) float64: the mean of a method over weak models."""
    return np.mean([metrics_of(model.scores(method)) for model in models], axis=0)
