"""A patch and its controls: the members' outputs for images, and the results of each rule."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from patching.from_arrays import Patch, fit_patch
from patching.report import BEFORE, NO_MODULE, WHOLE_MODEL, methods_of

Outputs = dict[int, np.ndarray]  # target class, by its number among the patch's classes -> (images,) float


@dataclass(frozen=True)
class Answers:
    """The members' outputs for the images of one part."""

    labels: np.ndarray  # (images,) int64, of the patch's classes
    weak: np.ndarray  # (images, weak classes) float
    modules: Outputs
    strong: Outputs  # the whole strong model's logit of each target class
    modules_of_class: Outputs = field(default_factory=dict)  # on all validation images of their class: more than these
    strong_of_class: Outputs = field(default_factory=dict)  # likewise


def compare(
    valid: Answers,
    test: Answers,
    classes: Sequence[str],
    calibrations: Sequence[str] = ("learned",),
    *,
    patched: Patch | None = None,
    others_may_lose: float | None = None,
    seed: int = 0,
) -> tuple[dict[str, Patch], dict[str, Any]]:
    """Fit each calibration and its controls on `valid`, and count what they make of `test`.

    The controls say what is owed to what: each calibration with the whole strong model's logits instead of the modules'
    outputs (what perfect modules could give), and the learned one without modules (what recalibrating the weak model
    alone gives).

    Args:
        valid, test: the members' outputs.
        classes: the names of the patch's classes.
        calibrations: rules, by their names in RULES.
        patched: the learned rule as `patch` fitted it, with the modules that it took; None = with all modules.
        others_may_lose: as for `patch`.
        seed: of the folds and the bootstrap.

    Returns the patches and the entries of the report, both by the method's name.
    """
    targets = patched.target_classes if patched else tuple(sorted(valid.modules))
    answers, patches = {BEFORE: test.weak.argmax(1)}, {}

    def fit(calibration: str, outputs: Mapping[int, np.ndarray], of_class: Mapping[int, np.ndarray]) -> Patch:
        given = valid.weak, {target: outputs[target] for target in targets}, valid.labels
        return fit_patch(
            *given,
            calibration=calibration,
            class_outputs=of_class or None,
            others_may_lose=others_may_lose,
            seed=seed,
        )

    def add(name: str, patch: Patch, outputs: Mapping[int, np.ndarray]) -> None:
        patches[name], answers[name] = patch, patch(test.weak, outputs).argmax(1)

    for calibration in calibrations if targets else ():
        add(calibration, patched or fit(calibration, valid.modules, valid.modules_of_class), test.modules)
        whole = fit(calibration, valid.strong, valid.strong_of_class)
        add(WHOLE_MODEL.format(calibration), whole, test.strong)
    if targets:
        nothing = patched and patched.no_module
        nothing = nothing or fit("learned", dict.fromkeys(targets, np.zeros(len(valid.labels))), {})
        patches[NO_MODULE], answers[NO_MODULE] = nothing, nothing.without(test.weak).argmax(1)
        if "learned" not in calibrations:
            add(WHOLE_MODEL.format("learned"), fit("learned", valid.strong, {}), test.strong)
    rules = {name: patch.rule for name, patch in patches.items()}
    return patches, methods_of(test.labels, answers, rules, classes, targets, seed)
