"""The rules by which modules' outputs replace the weak model's opinion of the target classes.

A rule is fitted on validation images and is then a part of the patched model. `min_max` is the published one (Qi et
al., ASE 2022, arXiv 2209.06116, section 3.3). A new rule is a class, and its line in `RULES`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from patching.calibration import log_probabilities, logits_of, probability_floor
from patching.learned import FORMS, fit_linear_map, limited
from utils.errors import UserError


@dataclass(frozen=True)
class Given:
    """The outputs of the members of a patch for validation images."""

    weak: np.ndarray  # (images, weak classes) float: logits or probabilities
    outputs: np.ndarray  # (images, modules) float
    labels: np.ndarray  # (images,) int64
    targets: tuple[int, ...]  # the class of each module, ascending; from the number of weak classes on, classes to add
    class_outputs: Sequence[np.ndarray] | None = None  # of each module, on all validation images of its class
    seed: int = 0  # of the assignment of images to folds
    forms: Sequence[str] = FORMS  # that a learned rule may have


class Rule(nn.Module):
    """Joins a weak model's logits and the outputs of modules, each of which is for another target class."""

    saved_as: ClassVar[str]  # what a saved patched model calls it: with its buffers, all that is saved of it

    @classmethod
    def fit(cls, given: Given) -> "Rule":
        """The rule for a weak model and modules, fitted on their outputs for validation images."""
        raise NotImplementedError

    def forward(self, weak_logits: Tensor, outputs: Tensor) -> Tensor:
        """Scores (batch, classes) of weak logits (batch, weak classes) and outputs (batch, modules).

        The largest score decides.
        """
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """What was fitted, as plain values."""
        raise NotImplementedError

    @classmethod
    def from_json(cls, fitted: dict[str, Any]) -> "Rule":
        """The rule of what was fitted. Raises TypeError, ValueError or RuntimeError for values of no such rule."""
        return cls(**fitted)

    @classmethod
    def from_buffers(cls, buffers: dict[str, Tensor]) -> "Rule":
        """The rule of a saved patched model, of its buffers; as here, if those are what it is constructed of."""
        return cls(**buffers)


class RangeRule(Rule):
    """A target class's entry of the weak model's softmax is replaced by its module's output, scaled by its range.

    The scores are no probabilities: a row need not sum to 1.

    Args:
        low, high: of each module's outputs, in the order of `targets`.
        targets: the target classes; None = the last class.
        probability_floor: of the weak model's probabilities; None if it gives logits.
    """

    saved_as = "range"
    low: Tensor
    high: Tensor
    probability_floor: Tensor | None

    def __init__(self, low: Any, high: Any, targets: Any = None, probability_floor: Any = None) -> None:
        super().__init__()
        # Besides the buffers, which are rounded.
        self.fitted = {name: np.ravel(value).astype(float).tolist() for name, value in (("low", low), ("high", high))}
        if targets is not None:
            self.fitted["targets"] = np.ravel(targets).astype(int).tolist()
        if probability_floor is not None:
            self.fitted["probability_floor"] = float(probability_floor)
        for name in ("low", "high", "probability_floor"):
            self.register_buffer(name, _buffer(self.fitted.get(name)))
        self.register_buffer("targets", torch.tensor(self.fitted["targets"]) if targets is not None else None)
        if not len(self.low) == len(self.high) == len(self.fitted.get("targets", [-1])):
            raise ValueError("expected a low and a high end for each target class")

    @staticmethod
    def range_of(outputs: np.ndarray) -> Iterable[float]:
        """The low and the high end of outputs (n,) on images of the target class."""
        raise NotImplementedError

    @classmethod
    def fit(cls, given: Given) -> "RangeRule":
        """Raises UserError if there is no image of a target class."""
        class_outputs = given.class_outputs
        if class_outputs is None:
            columns = zip(given.targets, given.outputs.T, strict=True)
            class_outputs = [outputs[given.labels == target] for target, outputs in columns]
        if not all(map(len, class_outputs)):
            raise UserError("a range of a module's outputs: expected validation images of the target class, given none")
        ranges = np.array([[*cls.range_of(outputs)] for outputs in class_outputs], np.float64)
        return cls(ranges[:, 0], ranges[:, 1], given.targets, probability_floor(given.weak))

    def forward(self, weak_logits: Tensor, outputs: Tensor) -> Tensor:
        known = torch.softmax(logits_of(weak_logits, self.probability_floor), 1)
        scaled = scale_to_range(outputs, self.low, self.high)
        targets = self.fitted.get("targets", [known.shape[1] - 1])
        columns = [known[:, number : number + 1] for number in range(known.shape[1])]
        for number, target in enumerate(targets):  # an added class comes after the others
            columns[target : target + 1] = [scaled[:, number : number + 1]]
        return torch.cat(columns, 1)

    def to_json(self) -> dict[str, Any]:
        return self.fitted


def scale_to_range(output: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """(output - low) / (high - low). If the range is a single value: 0 below it, 0.5 at it, 1 above it."""
    width = high - low
    scaled = (output - low) / torch.where(width > 0, width, 1)
    return torch.where(width > 0, scaled, (1 + torch.sign(output - low)) / 2)


class MinMax(RangeRule):
    """From the smallest to the largest output: the published range."""

    @staticmethod
    def range_of(outputs: np.ndarray) -> Iterable[float]:
        return outputs.min(), outputs.max()


class Percentile(RangeRule):
    """From the 10th to the 90th percentile."""

    @staticmethod
    def range_of(outputs: np.ndarray) -> Iterable[float]:
        low, high = np.percentile(outputs, (10, 90))
        return low, high


class Outlier(RangeRule):
    """From the smallest to the largest output within Tukey's fences, 1.5 interquartile ranges beyond the quartiles."""

    @staticmethod
    def range_of(outputs: np.ndarray) -> Iterable[float]:
        first, third = np.percentile(outputs, (25, 75))
        reach = 1.5 * (third - first)
        return MinMax.range_of(outputs[(outputs >= first - reach) & (outputs <= third + reach)])


class Norm(RangeRule):
    """One standard deviation below and above the mean, so that the mean output counts 0.5."""

    @staticmethod
    def range_of(outputs: np.ndarray) -> Iterable[float]:
        mean, deviation = outputs.mean(dtype=np.float64), outputs.std(dtype=np.float64)
        return mean - deviation, mean + deviation


class Learned(Rule):
    """A linear map of the weak model's log-probabilities and the modules' outputs, one or several.

    The rule itself makes log-probabilities of the weak model's logits or probabilities, so neither a positive factor of
    its logits nor a constant added to all logits of an image matters: both of them cancel.
    """

    saved_as = "linear"
    weight: Tensor
    bias: Tensor
    scale: Tensor | None
    low: Tensor | None
    high: Tensor | None
    probability_floor: Tensor | None

    def __init__(
        self,
        weight: Any,
        bias: Any,
        scale: Any = None,
        low: Any = None,
        high: Any = None,
        probability_floor: Any = None,
        **found_by: Any,
    ) -> None:
        """The arguments are the fields of a `LinearFit`; a saved patched model does not have those of `found_by`.

        Without `scale`, `low` and `high`, as earlier versions fitted it, the map is one of logits and outputs.
        """
        super().__init__()
        self.found_by = found_by
        buffers = {"weight": weight, "bias": bias, "scale": scale, "low": low, "high": high}
        for name, value in {**buffers, "probability_floor": probability_floor}.items():
            self.register_buffer(name, _buffer(value))
        if self.weight is None or self.bias is None or len({value is None for value in (scale, low, high)}) > 1:
            raise ValueError("expected weight and bias, and scale, low and high together or none of them")

    @classmethod
    def fit(cls, given: Given) -> "Learned":
        """Outputs that are 0 for all images are the control that only recalibrates the weak model."""
        fit = fit_linear_map(given.weak, given.outputs, given.labels, given.targets, given.seed, given.forms)
        return cls(**vars(fit))

    def forward(self, weak_logits: Tensor, outputs: Tensor) -> Tensor:
        if self.scale is not None and self.low is not None and self.high is not None:
            weak_logits = log_probabilities(weak_logits, self.scale, self.probability_floor)
            outputs = limited(outputs, self.low, self.high)
        return nn.functional.linear(torch.cat([weak_logits, outputs], 1), self.weight, self.bias)

    def lowered(self, targets: Sequence[int], lowering: float) -> "Learned":
        """The rule with the target classes' scores lowered."""
        bias = self.bias.clone()
        bias[list(targets)] -= lowering
        return Learned(**{**self.to_json(), "bias": bias, "lowered_by": lowering})

    def to_json(self) -> dict[str, Any]:
        return {**{name: value.tolist() for name, value in self.named_buffers()}, **self.found_by}


def _buffer(value: Any) -> Tensor | None:
    return None if value is None else torch.as_tensor(value, dtype=torch.float32).clone()


RULES: dict[str, type[Rule]] = {
    "min_max": MinMax,
    "percentile": Percentile,
    "outlier": Outlier,
    "norm": Norm,
    "learned": Learned,
}


def rule_saved_as(name: str) -> type[Rule]:
    """The class of the rule in a saved patched model. Raises KeyError if no rule is saved as `name`."""
    # RangeRule stands last, for all of its kind: a saved model does not say how the range was found.
    rules: list[type[Rule]] = [*RULES.values(), RangeRule]
    return {rule.saved_as: rule for rule in rules}[name]
