"""A patch of a weak model that was not made here: what the networks say, its controls, and what it costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from configures.base import Config
from models.graph import flops_of
from models.weights import count_parameters
from patching.from_arrays import Patch, PatchReport, fit_patch
from patching.own_weak_model import Classes


@dataclass(frozen=True)
class Answers:
    """What the networks say about the images of one part."""

    labels: np.ndarray  # (images,) int64
    weak: np.ndarray  # (images, weak classes) float
    modules: dict[int, np.ndarray]  # target class -> (images,)
    strong: dict[int, np.ndarray]  # the same of the whole strong model


def control_of(
    patched: Patch,
    valid: Answers,
    test: Answers,
    outputs: Sequence[Mapping[int, np.ndarray]],
    classes: Classes,
    others_may_lose: float | None,
    seed: int,
) -> PatchReport:
    """The same patch with others' outputs on valid and test in the modules' place.

    The whole strong model's logits are what perfect modules would give; none, which is 0 for all images, what
    recalibrating the weak model alone gives.
    """
    kept = {*patched.target_classes, *range(classes.weak_classes, len(classes.names))}
    of_valid, of_test = (
        {target: given.get(target, np.zeros(len(part.labels))) for target in kept}
        for given, part in zip(outputs, (valid, test), strict=True)
    )
    other = None if any(outputs) else patched.no_module
    if other is None:
        other = fit_patch(valid.weak, of_valid, valid.labels, others_may_lose=others_may_lose, seed=seed)
    return other.report(test.weak, of_test, test.labels, classes.names, seed)


def cost_of(
    config: Config, weak_config: Config, weak: nn.Module | None, modules: Mapping[int, nn.Module], report: PatchReport
) -> dict[str, Any]:
    """FLOPs of one image and parameters; of a weak model that is known by its logits alone, nothing.

    Percentage points of F1 per GFLOP count from the control without a module.
    """
    image, weak_image = ((3, each.image_side, each.image_side) for each in (config, weak_config))
    added = [sum(flops_of(module, image) for module in modules.values()), sum(map(count_parameters, modules.values()))]
    own = None if weak is None else [flops_of(weak, weak_image), count_parameters(weak)]
    composed = None if own is None else [own[0] + added[0], own[1] + added[1]]
    return {
        "weak": own,
        "modules": added,
        "composed": composed,
        "f1_points_per_gflop": 100 * report.f1_over_no_module / (added[0] / 1e9),
    }
