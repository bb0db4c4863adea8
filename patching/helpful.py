"""Which modules help a weak model: by how much they reduce the cross-entropy on images that no fit has seen."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from patching.learned import RIDGES, Array, free_directions, held_out_scores, one_blas_thread, prepared

SURE = 1.645  # standard errors by which a gain must exceed 0: chance does that in one of twenty trials


@dataclass(frozen=True)
class JudgedModule:
    """What a module adds to those that were taken before it.

    Attributes:
        target_class: the number of its class.
        gain: the reduction of cross-entropy in cross-validation, nats per image.
        error: the gain's standard error over the images.
    """

    target_class: int
    gain: float
    error: float

    @property
    def helps(self) -> bool:
        """Whether the gain is more than chance."""
        return self.gain > SURE * self.error

    def __str__(self) -> str:
        verdict = "helps" if self.helps else "no more than chance"
        verb = "increases" if self.gain < 0 else "reduces"
        change = f"{verb} the cross-entropy by {abs(self.gain):.4f} nats per image"
        return f"{change} (standard error {self.error:.4f}): {verdict}"


@one_blas_thread
def helpful_modules(
    weak_logits: Array, module_outputs: Array, labels: Array, targets: Sequence[int], seed: int = 0
) -> list[JudgedModule]:
    """The modules in the order in which they help, each judged in addition to those before it; then those that do not.

    A module's gain is counted against the same weak model with a temperature and a bias of its own for each
    class, so that recalibrating is not the module's merit. Greedy: the most helpful one is taken first, then the most
    helpful in addition to it, until none helps in addition to those taken.

    The arguments are those of `fit_linear_map`.
    """
    data = prepared(weak_logits, module_outputs, labels, targets, seed)

    def losses(modules: list[int]) -> Tensor:
        """(images,) of the best ridge: the cross-entropy where the image was not fitted on."""
        found = torch.zeros(len(RIDGES), len(data.labels), dtype=torch.float64)
        directions = _directions(data.logits.shape[1], targets, modules)
        for number, outside, scores in held_out_scores(data, directions):
            found[number, outside] = F.cross_entropy(scores, data.labels[outside], reduction="none")
        return found[found.mean(1).argmin()]

    taken: list[int] = []
    left = list(range(len(targets)))
    judged: list[JudgedModule] = []
    without = losses(taken)
    while True:
        with_each = {module: losses([*taken, module]) for module in left}
        found = {module: _judged(targets[module], without - with_each[module]) for module in left}
        left.sort(key=lambda module: found[module].gain, reverse=True)
        best = next((module for module in left if found[module].helps), None)
        if best is None:
            return [*judged, *(found[module] for module in left)]
        judged.append(found[best])
        taken.append(best)
        left.remove(best)
        without = with_each[best]


def _judged(target_class: int, gains: Tensor) -> JudgedModule:
    # At least as if one image had changed by a nat: if the weak model is right about every image, all gains are tiny
    # and alike, and what they depend on is the prior of its temperature.
    error = max(float(gains.std()) / len(gains) ** 0.5, 1 / len(gains))
    return JudgedModule(target_class, float(gains.mean()), error)


def _directions(num_classes: int, targets: Sequence[int], modules: Sequence[int]) -> Tensor:
    """Each class's temperature and bias, and the outputs of some modules; all modules have columns."""
    own = free_directions(num_classes, "vector", [])  # the bias in the last column
    none = own.new_zeros(len(own), num_classes, len(targets))
    directions = [torch.cat([own[:, :, :-1], none, own[:, :, -1:]], 2)]
    for module in modules:
        direction = own.new_zeros(1, num_classes, num_classes + len(targets) + 1)
        direction[0, targets[module], num_classes + module] = 1
        directions.append(direction)
    return torch.cat(directions)
