"""Patch a weak model by its logits and the modules' outputs for some images: no network is needed.

from patching.from_arrays import patch
patched = patch(weak_logits, {3: module_of_class_3, 5: module_of_class_5}, labels)   # of validation images
scores = patched(new_weak_logits, {3: new_outputs_3, 5: new_outputs_5})
print(patched.report(test_weak_logits, {3: test_outputs_3, 5: test_outputs_5}, test_labels))
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from patching.calibration import TAKEN_FOR_PROBABILITIES, probability_floor
from patching.helpful import JudgedModule, helpful_modules
from patching.learned import FORMS, Array
from patching.report import BEFORE, NO_MODULE, PatchedWeakModel, methods_of
from patching.rules import RULES, Given, Learned, Rule
from utils.errors import UserError
from utils.progress import say

FEWEST_ROWS = 20  # images: fewer rows of logits may be between 0 and 1 and have the sum 1 by chance
SLACK = 1e-4  # by which a lowered score stays below the one that it is to leave first, in spite of rounding

ModuleLogits = Mapping[int, Array]  # target class -> (images,) float


@dataclass(frozen=True)
class Patch:
    """A fitted patch: a call takes logits and returns scores; `report` evaluates it. `patch` fits one.

    Attributes:
        weak_classes: how many classes the weak model knows.
        num_classes: how many there are with the added classes, which are the last ones.
        target_classes: the patched classes, in the order of the rule's columns.
        rule: weak logits (n, weak classes) and module outputs (n, modules) -> scores (n, classes); None if `auto` was
            asked for and no module helps.
        judged: every module that was considered, in the order in which they help: its class, gain and standard error.
        no_module: the control, which is the same fit without the modules' outputs.
        calibration: the rule's name in `patching.rules.RULES`.
    """

    weak_classes: int
    num_classes: int
    target_classes: tuple[int, ...]
    rule: Rule | None
    judged: tuple[JudgedModule, ...] = ()
    no_module: "Patch | None" = None
    calibration: str = "learned"

    def __call__(self, weak_logits: Array, module_logits: ModuleLogits) -> np.ndarray:
        """Patch the weak model's logits of some images.

        Args:
            weak_logits: (n, weak classes) float.
            module_logits: target class -> (n,) float, its module's outputs for the same images.

        Returns:
            Scores (n, classes) float32: the largest one decides.

        Raises:
            UserError: the arrays do not fit.
        """
        weak = _checked_logits(weak_logits, "weak_logits", self.weak_classes)
        if self.rule is None:
            added = ((0, 0), (0, self.num_classes - weak.shape[1]))
            return np.pad(weak, added, constant_values=-np.inf).astype(np.float32)
        self._check_kind(weak)
        outputs = _stacked(module_logits, self.target_classes, len(weak))
        rule = copy.deepcopy(self.rule).double()  # so that a constant in all logits of an image costs no digits
        with torch.inference_mode():
            scores: Tensor = rule(torch.tensor(weak), torch.tensor(outputs))
            return scores.float().numpy()

    def _check_kind(self, weak: np.ndarray) -> None:
        given, of_probabilities = (
            floor is not None for floor in (probability_floor(weak), getattr(self.rule, "probability_floor", None))
        )
        if given != of_probabilities and (of_probabilities or len(weak) >= FEWEST_ROWS):
            kinds = ("logits", "probabilities")
            raise UserError(
                f"weak_logits: expected {kinds[of_probabilities]}, as the patch was fitted on, given {kinds[given]}"
            )

    def without(self, weak_logits: Array) -> np.ndarray:
        """The scores of a patch that was fitted without modules' outputs."""
        return self(weak_logits, dict.fromkeys(self.target_classes, np.zeros(len(weak_logits))))

    def report(
        self,
        weak_logits: Array,
        module_logits: ModuleLogits,
        labels: Array,
        classes: Sequence[str] | None = None,
        seed: int = 0,
    ) -> PatchedWeakModel:
        """Before and after on test images, with confidence intervals; `print` it.

        Args:
            weak_logits: (n, weak classes) float.
            module_logits: target class -> (n,) float, its module's outputs for the same images.
            labels: (n,) int.
            classes: their names; by default their numbers.
            seed: of the bootstrap.

        Returns:
            A `PatchedWeakModel`; `str` of it has one line for each figure.

        Raises:
            UserError: the arrays do not fit.
        """
        weak = _checked_logits(weak_logits, "weak_logits", self.weak_classes)
        wanted = _checked_labels(labels, len(weak), self.num_classes)
        answers: dict[str, np.ndarray] = {BEFORE: weak.argmax(1)}
        rules: dict[str, Rule] = {}
        if self.rule is not None:
            answers[self.calibration], rules[self.calibration] = self(weak, module_logits).argmax(1), self.rule
        if self.no_module is not None and self.no_module.rule is not None:
            answers[NO_MODULE], rules[NO_MODULE] = self.no_module.without(weak).argmax(1), self.no_module.rule
        names = tuple(map(str, range(self.num_classes) if classes is None else classes))
        if len(names) != self.num_classes:
            raise UserError(f"classes: expected {self.num_classes} names, given {len(names)}")
        methods = methods_of(wanted, answers, rules, names, self.target_classes, seed)
        return PatchedWeakModel(names, self.target_classes, len(wanted), methods)


def patch(
    weak_logits: Array,
    module_logits: ModuleLogits,
    labels: Array,
    *,
    auto: bool = False,
    others_may_lose: float | None = None,
    seed: int = 0,
) -> Patch:
    """Fit a patch of one or several target classes at once, on validation images of the weak model.

    The weak model must not have been trained on these images.

    Example:

        fitted = patch(weak_logits, {3: outputs_of_module_3}, labels)  # of validation images
        print(fitted.report(test_weak_logits, {3: test_outputs_3}, test_labels))
        scores = fitted(new_weak_logits, {3: new_outputs_3})  # the largest one decides

    Args:
        weak_logits: (images, weak classes) float, the weak model's logits of any scale, or its probabilities: the
            logits times a positive factor, and plus a constant for each image, give the same patch, and so do
            log-probabilities. Rows between 0 and 1 whose sums are 1 are taken for probabilities.
        module_logits: target class -> (images,) float, its module's outputs for the same images. A class from
            `weak classes` on is unknown to the weak model: it is added.
        labels: (images,) int, from 0 to the number of classes with the added ones.
        auto: take only the modules that help, and those of added classes, and change nothing if none does.
        others_may_lose: at most this share of their accuracy, from 0 to 1, may the other classes lose on these images
            (0.01 = one percentage point); by default whatever is best for all images together.
        seed: of the cross-validation's folds.

    Returns:
        A `Patch`; call it on new logits for scores (n, classes); `.report(...)` evaluates it; `rule` is None if `auto`
        and no module helps.

    Raises:
        UserError: shapes do not fit, there is NaN, a label is out of range, or a target class has no validation images.
    """
    given = _checked(weak_logits, module_logits, labels, others_may_lose, seed)
    if probability_floor(given.weak) is not None:
        say(TAKEN_FOR_PROBABILITIES)
    judged = helpful_modules(given.weak, given.outputs, given.labels, given.targets, seed)
    wanted = {one.target_class for one in judged if one.helps or one.target_class >= given.weak.shape[1] or not auto}
    if not wanted:
        return Patch(given.weak.shape[1], given.weak.shape[1], (), None, tuple(judged))
    taken = [number for number, target in enumerate(given.targets) if target in wanted]
    given = replace(given, outputs=given.outputs[:, taken], targets=tuple(given.targets[number] for number in taken))
    control = _fitted(replace(given, outputs=np.zeros_like(given.outputs)), "learned", others_may_lose)
    return replace(_fitted(given, "learned", others_may_lose), judged=tuple(judged), no_module=control)


def fit_patch(
    weak_logits: Array,
    module_logits: ModuleLogits,
    labels: Array,
    *,
    calibration: str = "learned",
    class_outputs: ModuleLogits | None = None,
    others_may_lose: float | None = None,
    seed: int = 0,
) -> Patch:
    """As `patch` with all modules, without evaluating each and without the control, and by any rule.

    Example: `scores = fit_patch(weak_logits, {3: outputs_3}, labels, calibration="min_max")(new_logits, {3: new_3})`.

    Args:
        weak_logits, module_logits, labels: as for `patch`.
        calibration: the rule, one of RULES.
        class_outputs: target class -> (n,) float, its module's outputs for all validation images of the class, if
            there are more of them than these; for ranges.
        others_may_lose: as for `patch`; of the learned rule.
        seed: of the cross-validation's folds.

    Returns:
        A `Patch` without `judged` and `no_module`.

    Raises:
        UserError: as `patch`.
    """
    given = _checked(weak_logits, module_logits, labels, others_may_lose, seed)
    if class_outputs is not None:
        given = replace(given, class_outputs=[np.asarray(class_outputs[target]) for target in given.targets])
    return _fitted(given, calibration, others_may_lose)


def _checked(
    weak_logits: Array, module_logits: ModuleLogits, labels: Array, others_may_lose: float | None, seed: int
) -> Given:
    if others_may_lose is not None and not 0 <= others_may_lose <= 1:
        raise UserError(f"others_may_lose: expected a share from 0 to 1, given {others_may_lose:g}")
    weak = _checked_logits(weak_logits, "weak_logits")
    weak_classes = weak.shape[1]
    if len(weak) < 2:
        raise UserError("weak_logits: expected two or more validation images, of which some judge the others, given 1")
    if wrong := [target for target in module_logits if not isinstance(target, int | np.integer)]:
        raise UserError(f"module_logits: expected whole numbers of target classes, given {wrong[0]!r}")
    targets = sorted(map(int, module_logits))
    if not targets:
        raise UserError("module_logits: expected the outputs of at least one module, given none")
    added = [target for target in targets if target >= weak_classes]
    if targets[0] < 0 or added != list(range(weak_classes, weak_classes + len(added))):
        raise UserError(
            f"module_logits: expected target classes from 0 to {weak_classes - 1}, or the next numbers for classes to "
            f"add, given {', '.join(map(str, targets))}"
        )
    wanted = _checked_labels(labels, len(weak), weak_classes + len(added))
    for target in targets:
        if not (wanted == target).any():
            raise UserError(f"target class {target}: expected validation images of it, given none; add some")
    # To spare the other classes, the choice among them stays the weak model's.
    forms = FORMS if others_may_lose is None else [form for form in FORMS if form != "vector"]
    return Given(weak, _stacked(module_logits, targets, len(weak)), wanted, tuple(targets), seed=seed, forms=forms)


def _fitted(given: Given, calibration: str, others_may_lose: float | None) -> Patch:
    weak_classes, targets = given.weak.shape[1], given.targets
    num_classes = max(weak_classes, targets[-1] + 1)
    rule = RULES[calibration].fit(given)
    fitted = Patch(weak_classes, num_classes, targets, rule, calibration=calibration)
    if others_may_lose is None or not isinstance(rule, Learned):
        return fitted
    # The target classes' scores are lowered until the others are right nearly as often as before.
    is_other = ~np.isin(given.labels, targets)
    right = int((given.weak.argmax(1) == given.labels)[is_other].sum())
    scores = fitted(given.weak, dict(zip(targets, given.outputs.T, strict=True)))
    needed = math.ceil(right - others_may_lose * int(is_other.sum()))
    return replace(fitted, rule=rule.lowered(targets, least_lowering(scores, given.labels, targets, needed)))


def least_lowering(scores: np.ndarray, labels: np.ndarray, targets: Sequence[int], right: int) -> float:
    """What to take from all target classes' scores, 0 or more, for `right` images of other classes to be right.

    If fewer can be, the least that makes all of them right which can be. The fewer images of other classes are
    lost, the fewer of the target classes are won.

    Args:
        scores: (images, classes) float.
        labels: (images,) int64.
        targets: the target classes, of which at least one class is none.
        right: how many.
    """
    is_target = np.isin(np.arange(scores.shape[1]), list(targets))
    without = np.where(is_target, -np.inf, scores)
    winnable = without.argmax(1) == labels
    margins = np.sort((np.where(is_target, scores, -np.inf).max(1) - without.max(1))[winnable])
    needed = min(right, len(margins))
    return max(0.0, float(margins[needed - 1]) + SLACK) if needed > 0 else 0.0


def _stacked(module_logits: ModuleLogits, targets: Sequence[int], images: int) -> np.ndarray:
    """(images, modules) in the order of the target classes. Raises UserError."""
    return np.stack([_checked_output(module_logits, target, images) for target in targets], 1)


def _checked_output(module_logits: ModuleLogits, target: int, images: int) -> np.ndarray:
    if target not in module_logits:
        raise UserError(f"module_logits: expected the outputs of the module of class {target}, given none")
    values, name = _plain(module_logits[target]), f"module_logits[{target}]"
    if values.ndim != 1 or len(values) != images or values.dtype.kind not in "fiu":
        raise UserError(f"{name}: expected one number for each of {images} images, given {_form(values)}")
    return _finite(values, name).astype(np.float64)


def _checked_logits(logits: Array, name: str, classes: int | None = None) -> np.ndarray:
    values = _plain(logits)
    if values.ndim != 2 or values.shape[1] < 2 or not len(values) or values.dtype.kind not in "fiu":
        raise UserError(f"{name}: expected (images, classes) real numbers, given {_form(values)}")
    if classes is not None and values.shape[1] != classes:
        raise UserError(f"{name}: expected logits of {classes} classes, given {values.shape[1]}")
    return _finite(values, name).astype(np.float64)


def _checked_labels(labels: Array, images: int, classes: int) -> np.ndarray:
    values = _plain(labels)
    if values.shape != (images,) or values.dtype.kind not in "iu":
        raise UserError(f"labels: expected a whole number for each of {images} images, given {_form(values)}")
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


def _form(values: np.ndarray) -> str:
    return f"{values.dtype} of shape {values.shape}"
