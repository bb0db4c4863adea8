"""Patch a weak model by what it and the modules say about some images: no network is needed, only its logits.

from patching.from_arrays import patch
patched = patch(weak_logits, {3: module_of_class_3, 5: module_of_class_5}, labels)   # of validation images
scores = patched(new_weak_logits, {3: new_outputs_3, 5: new_outputs_5})
print(patched.report(test_weak_logits, {3: test_outputs_3, 5: test_outputs_5}, test_labels))
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from patching.calibration import TAKEN_FOR_PROBABILITIES, probability_floor
from patching.confidence import Change, change_of
from patching.helpful import Judged, helpful_modules
from patching.learned import FORMS, Array, fit_linear_map
from patching.metrics import METRICS, TargetClassScores, confusion_matrix, metrics_of, scores_of_target_class
from patching.others_spared import least_lowering, others_right
from patching.rules import Learned
from patching.tables import interval_in_words, over_no_module_lines
from utils.errors import UserError
from utils.progress import say

FEWEST_ROWS = 20  # images: fewer rows of logits may be between 0 and 1 and have the sum 1 by chance

ModuleLogits = Mapping[int, Array]  # target class -> (images,) float


@dataclass(frozen=True)
class TargetReport:
    """One target class on test images."""

    target_class: int
    name: str
    before: TargetClassScores  # the others are the classes that the patch is not for
    after: TargetClassScores
    change: Change
    no_module: TargetClassScores | None = None  # of the control without modules; None where there is no such control
    over_no_module: Change | None = None  # from the control without modules to the patch

    def __str__(self) -> str:
        words = ("precision", "recall", "F1")
        values = zip(words, metrics_of(self.before), metrics_of(self.after), strict=False)
        shares = ", ".join(f"{word} {100 * old:.1f} -> {100 * new:.1f}" for word, old, new in values)
        sure = f"{interval_in_words(self.change.f1)} ({self.change.verdict('f1')})"
        line = f"{self.name}: {shares}; F1 changes by {sure}"
        over = () if self.over_no_module is None else over_no_module_lines(self.name, self.over_no_module)
        return "\n".join([line, *over])

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        scores = {"before": self.before, "after": self.after, "no_module": self.no_module}
        metrics = {
            when: {**dict(zip(METRICS, metrics_of(of_class), strict=True)), **vars(of_class)}
            for when, of_class in scores.items()
            if of_class is not None
        }
        changes = {"change": self.change, "over_no_module": self.over_no_module}
        return {
            "target_class": self.target_class,
            "name": self.name,
            **metrics,
            **{name: change.to_json() for name, change in changes.items() if change is not None},
        }


@dataclass(frozen=True)
class PatchReport:
    """What a patch did on test images."""

    images: int
    right_before: int
    right_after: int
    targets: tuple[TargetReport, ...]

    @property
    def f1_gained(self) -> float:
        """The sum over the target classes, from 0 to 1 each."""
        return sum(target.after.f1 - target.before.f1 for target in self.targets)

    @property
    def f1_over_no_module(self) -> float:
        """As `f1_gained`, counted from the control without modules, where there is one: what the modules are worth."""
        return sum(target.after.f1 - (target.no_module or target.before).f1 for target in self.targets)

    @property
    def has_others(self) -> bool:
        """Whether there are images of other classes than those that are patched."""
        return any(target.before.others for target in self.targets)

    def __str__(self) -> str:
        before, after = (f"{100 * right / self.images:.2f} %" for right in (self.right_before, self.right_after))
        lines = [f"accuracy {before} -> {after}", *map(str, self.targets)]
        for first in self.targets[:1] if self.has_others else ():  # the others are the same for all of them
            old, new = (100 * scores.others_accuracy for scores in (first.before, first.after))
            sure = f"{interval_in_words(first.change.others_accuracy)} ({first.change.verdict('others_accuracy')})"
            lines.append(
                f"accuracy of the other classes {old:.1f} -> {new:.1f}; it changes by {sure}, McNemar's p = "
                f"{first.change.others_p:.2g}"
            )
        return "\n".join(lines)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "PatchReport":
        """Raises KeyError, TypeError or ValueError for values of no report."""

        def scores(content: dict[str, Any]) -> TargetClassScores:
            return TargetClassScores(**{field.name: int(content[field.name]) for field in fields(TargetClassScores)})

        targets = (
            TargetReport(
                int(target["target_class"]),
                str(target["name"]),
                scores(target["before"]),
                scores(target["after"]),
                Change.from_json(target["change"]),
                scores(target["no_module"]) if target.get("no_module") else None,
                Change.from_json(target["over_no_module"]) if target.get("over_no_module") else None,
            )
            for target in values["targets"]
        )
        return cls(*(int(values[name]) for name in ("images", "right_before", "right_after")), tuple(targets))

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        counts = {name: getattr(self, name) for name in ("images", "right_before", "right_after")}
        return {**counts, "targets": [target.to_json() for target in self.targets]}


@dataclass(frozen=True)
class Patch:
    """A fitted patch: give it logits, get scores."""

    weak_classes: int  # that the weak model knows
    num_classes: int  # with those that were added as the last ones
    target_classes: tuple[int, ...]  # in the order of the rule's columns
    rule: Learned | None  # (batch, weak classes) and (batch, modules) -> (batch, classes); None: no module helps
    judged: tuple[Judged, ...] = ()  # every module that was looked at, in the order in which they help
    no_module: "Patch | None" = None  # the control: the same fit without the modules' outputs

    def __call__(self, weak_logits: Array, module_logits: ModuleLogits) -> np.ndarray:
        """Scores (images, classes) float32: the largest decides. Raises UserError for arrays that do not fit."""
        weak = _checked_logits(weak_logits, "weak_logits", self.weak_classes)
        if self.rule is None:
            added = ((0, 0), (0, self.num_classes - weak.shape[1]))
            return np.pad(weak, added, constant_values=-np.inf).astype(np.float32)
        self._check_kind(weak, self.rule.probability_floor is not None)
        outputs = _stacked({target: _of(module_logits, target) for target in self.target_classes}, len(weak))
        rule = copy.deepcopy(self.rule).double()  # so that a constant in all logits of an image costs no digits
        with torch.inference_mode():
            return rule(torch.tensor(weak), torch.tensor(outputs)).float().numpy()

    def _check_kind(self, weak: np.ndarray, of_probabilities: bool) -> None:
        given = probability_floor(weak) is not None
        if given != of_probabilities and (of_probabilities or len(weak) >= FEWEST_ROWS):
            kinds = ("logits", "probabilities")
            raise UserError(
                f"weak_logits: expected {kinds[of_probabilities]}, as the patch was fitted on, given {kinds[given]}"
            )

    def report(
        self,
        weak_logits: Array,
        module_logits: ModuleLogits,
        labels: Array,
        classes: Sequence[str] | None = None,
        seed: int = 0,
    ) -> PatchReport:
        """Before and after on test images, with intervals. Raises UserError for arrays that do not fit.

        Args:
            weak_logits: (images, weak classes) float.
            module_logits: target class -> (images,) float.
            labels: (images,) int.
            classes: the classes' names; their numbers by default.
            seed: of the bootstrap.
        """
        weak = _checked_logits(weak_logits, "weak_logits", self.weak_classes)
        wanted = _checked_labels(labels, len(weak), self.num_classes)
        answers = [weak.argmax(1), self(weak, module_logits).argmax(1)]
        control = None
        if self.no_module is not None:
            nothing = {target: np.zeros(len(weak)) for target in self.no_module.target_classes}
            control = self.no_module(weak, nothing).argmax(1)
        names = classes or tuple(map(str, range(self.num_classes)))
        return report_of(wanted, *answers, self.target_classes, names, seed, control)


def report_of(
    labels: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    target_classes: Sequence[int],
    classes: Sequence[str],
    seed: int = 0,
    no_module: np.ndarray | None = None,
) -> PatchReport:
    """What changed between two sequences of answers (images,) int64, and from `no_module`'s, where they are given."""

    def scores(answers: np.ndarray, target_class: int) -> TargetClassScores:
        of_class = scores_of_target_class(confusion_matrix(labels, answers, len(classes)), target_class)
        is_other = ~np.isin(labels, list(target_classes))
        right = int((answers == labels)[is_other].sum())
        return TargetClassScores(
            of_class.true_positives, of_class.false_positives, of_class.false_negatives, right, int(is_other.sum())
        )

    targets = tuple(
        TargetReport(
            target,
            classes[target],
            scores(before, target),
            scores(after, target),
            change_of(labels, before, after, target, target_classes, seed),
            None if no_module is None else scores(no_module, target),
            None if no_module is None else change_of(labels, no_module, after, target, target_classes, seed),
        )
        for target in target_classes
    )
    return PatchReport(len(labels), int((before == labels).sum()), int((after == labels).sum()), targets)


def patch(
    weak_logits: Array,
    module_logits: ModuleLogits,
    labels: Array,
    *,
    auto: bool = False,
    others_may_lose: float | None = None,
    seed: int = 0,
) -> Patch:
    """Fit a patch of one or several target classes at once, on validation images.

    Args:
        weak_logits: (images, weak classes) float, the weak model's logits of any scale, or its probabilities: the
            logits times a positive factor, and plus a constant for each image, give the same patch, and so do
            log-probabilities. Rows between 0 and 1 whose sums are 1 are taken for probabilities.
        module_logits: target class -> (images,) float, what its module says. A class from `weak classes` on is one
            that the weak model does not know: it is added.
        labels: (images,) int, from 0 to the number of classes with the added ones.
        auto: take only the modules that help, and those of added classes, and change nothing where none does.
        others_may_lose: at most so much of their accuracy, from 0 to 1, may the other classes lose on these images; by
            default whatever is best for all images together.
        seed: of the cross-validation's folds.

    Raises UserError, one line, for arrays of shapes that do not fit, NaN, labels out of range, or a target class
    without validation images.
    """
    given = _checked(weak_logits, module_logits, labels, others_may_lose)
    if probability_floor(given.weak) is not None:
        say(TAKEN_FOR_PROBABILITIES)
    judged = helpful_modules(given.weak, given.outputs, given.labels, given.targets, seed)
    wanted = {one.target_class for one in judged if one.helps or one.target_class >= given.weak.shape[1] or not auto}
    taken = [target in wanted for target in given.targets]
    fitted = _fitted(given, taken, others_may_lose, seed)
    without = replace(given, outputs=np.zeros_like(given.outputs))
    control = None if fitted.rule is None else _fitted(without, taken, others_may_lose, seed)
    return replace(fitted, judged=tuple(judged), no_module=control)


def fit_patch(
    weak_logits: Array,
    module_logits: ModuleLogits,
    labels: Array,
    *,
    others_may_lose: float | None = None,
    seed: int = 0,
) -> Patch:
    """As `patch` with all modules, none of which is judged or compared with a control."""
    given = _checked(weak_logits, module_logits, labels, others_may_lose)
    return _fitted(given, [True] * len(given.targets), others_may_lose, seed)


@dataclass(frozen=True)
class _Given:
    """Checked arrays of validation images."""

    weak: np.ndarray  # (images, weak classes) float64: logits or probabilities
    num_classes: int  # with those that are added
    targets: list[int]
    outputs: np.ndarray  # (images, modules)
    labels: np.ndarray  # (images,) int64


def _checked(weak_logits: Array, module_logits: ModuleLogits, labels: Array, others_may_lose: float | None) -> _Given:
    if others_may_lose is not None and not 0 <= others_may_lose <= 1:
        raise UserError(f"others_may_lose: expected a share from 0 to 1, given {others_may_lose:g}")
    weak = _checked_logits(weak_logits, "weak_logits")
    weak_classes = weak.shape[1]
    if wrong := [target for target in module_logits if not isinstance(target, int | np.integer)]:
        raise UserError(f"module_logits: expected whole numbers of target classes, given {wrong[0]!r}")
    targets = sorted(module_logits)
    if not targets:
        raise UserError("module_logits: expected the outputs of at least one module, given none")
    added = [target for target in targets if target >= weak_classes]
    if targets[0] < 0 or added != list(range(weak_classes, weak_classes + len(added))):
        raise UserError(
            f"module_logits: expected target classes from 0 to {weak_classes - 1}, or the next numbers for classes to "
            f"add, given {', '.join(map(str, targets))}"
        )
    num_classes = weak_classes + len(added)
    wanted = _checked_labels(labels, len(weak), num_classes)
    for target in targets:
        if not (wanted == target).any():
            raise UserError(f"target class {target}: expected validation images of it, given none; add some")
    return _Given(weak, num_classes, targets, _stacked(module_logits, len(weak)), wanted)


def _fitted(given: _Given, taken: Sequence[bool], others_may_lose: float | None, seed: int) -> Patch:
    weak_classes, num_classes = given.weak.shape[1], given.num_classes
    targets = [target for target, is_taken in zip(given.targets, taken, strict=True) if is_taken]
    if not targets:
        return Patch(weak_classes, num_classes, (), None)
    # To spare the other classes, the choice among them stays the weak model's.
    forms = FORMS if others_may_lose is None else [form for form in FORMS if form != "vector"]
    found = fit_linear_map(given.weak, given.outputs[:, list(taken)], given.labels, targets, seed, forms)
    fitted = Patch(weak_classes, num_classes, tuple(targets), Learned(**vars(found)))
    return fitted if others_may_lose is None else _sparing_others(fitted, given, others_may_lose)


def _sparing_others(fitted: Patch, given: _Given, may_lose: float) -> Patch:
    """The same with the target classes' scores lowered until the others are right nearly as often as before."""
    targets, weak = fitted.target_classes, given.weak
    outputs = {target: given.outputs[:, given.targets.index(target)] for target in targets}
    of_others = int((~np.isin(given.labels, targets)).sum())
    right = math.ceil(others_right(weak.argmax(1), given.labels, targets) - may_lose * of_others)
    lowering = least_lowering(fitted(weak, outputs), given.labels, targets, right)
    rule = fitted.rule
    bias = rule.bias.clone()
    bias[list(targets)] -= lowering
    return replace(fitted, rule=Learned.from_json({**rule.to_json(), "bias": bias, "lowered_by": lowering}))


def _stacked(module_logits: ModuleLogits, images: int) -> np.ndarray:
    """(images, modules) in the order of the target classes. Raises UserError."""
    return np.stack([_checked_output(module_logits[target], target, images) for target in sorted(module_logits)], 1)


def _of(module_logits: ModuleLogits, target: int) -> Array:
    if target not in module_logits:
        raise UserError(f"module_logits: expected the outputs of the module of class {target}, given none")
    return module_logits[target]


def _checked_output(output: Array, target: int, images: int) -> np.ndarray:
    values = _plain(output)
    if values.ndim != 1 or len(values) != images or values.dtype.kind not in "fiu":
        raise UserError(
            f"module_logits[{target}]: expected one number for each of {images} images, given {values.dtype} of shape "
            f"{values.shape}"
        )
    return _finite(values, f"module_logits[{target}]").astype(np.float64)


def _checked_logits(logits: Array, name: str, classes: int | None = None) -> np.ndarray:
    values = _plain(logits)
    if values.ndim != 2 or values.shape[1] < 2 or not len(values) or values.dtype.kind not in "fiu":
        raise UserError(
            f"{name}: expected (images, classes) real numbers, given {values.dtype} of shape {values.shape}"
        )
    if classes is not None and values.shape[1] != classes:
        raise UserError(f"{name}: expected logits of {classes} classes, given {values.shape[1]}")
    return _finite(values, name).astype(np.float64)


def _checked_labels(labels: Array, images: int, classes: int) -> np.ndarray:
    values = _plain(labels)
    if values.shape != (images,) or values.dtype.kind not in "iu":
        raise UserError(
            f"labels: expected a whole number for each of {images} images, given {values.dtype} of shape {values.shape}"
        )
    if values.min() < 0 or values.max() >= classes:
        raise UserError(
            f"labels: expected classes from 0 to {classes - 1}, given {values.min()} to {values.max()}; a class that "
            "the weak model does not know needs a module"
        )
    return values.astype(np.int64)


def _finite(values: np.ndarray, name: str) -> np.ndarray:
    bad = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(1))
    if len(bad):
        raise UserError(f"{name}: {len(bad)} of {len(values)} images have NaN or infinity, the first is {bad[0]}")
    return values


def _plain(values: Array) -> np.ndarray:
    if not isinstance(values, Tensor):
        return np.asarray(values)
    given = values.detach().cpu()
    return (given.float() if given.dtype == torch.bfloat16 else given).numpy()
