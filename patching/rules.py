"""The rules by which a module's output takes the place of the weak model's opinion of the target class.

A rule is fitted on validation images and is then a part of the patched model. `min_max` is the published one (Qi et
al., ASE 2022, arXiv 2209.06116, section 3.3). A new rule is a class, and its line in `RULES`.
"""

from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from patching.calibration import log_probabilities, logits_of, probability_floor
from patching.learned import Array, fit_linear_map, limited
from utils.errors import UserError


class Rule(nn.Module):
    """Joins a weak model's logits, those of the target class last, and a module's output."""

    saved_as: ClassVar[str]  # what a saved patched model calls it: with its buffers, all that is saved of it

    @classmethod
    def fit(cls, weak_logits: Array, module_output: Array, labels: Array, class_outputs: Array | None = None) -> "Rule":
        """The rule for a weak model and a module by what they say about validation images.

        Args:
            weak_logits: (images, classes) float.
            module_output: (images,) float.
            labels: (images,) int64; the last class is the target class.
            class_outputs: (n,) float, the module's outputs on validation images of the target class, where there are
                more of them than the labels name.
        """
        raise NotImplementedError

    def forward(self, weak_logits: Tensor, module_output: Tensor) -> Tensor:
        """Scores (batch, classes) of weak logits (batch, classes) and module outputs (batch,): the largest decides."""
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
        """The rule of a saved patched model, of its buffers; as here, where those are what it is constructed of."""
        return cls(**buffers)


class RangeRule(Rule):
    """The target class's entry of the weak model's softmax gives way to the module's output, scaled by its range.

    The scores are no probabilities: a row need not sum to 1.
    """

    saved_as = "range"
    low: Tensor
    high: Tensor
    probability_floor: Tensor | None

    def __init__(self, low: float, high: float, probability_floor: float | None = None) -> None:
        super().__init__()
        self.range = {"low": float(low), "high": float(high)}  # the buffers are rounded
        if probability_floor is not None:
            self.range["probability_floor"] = float(probability_floor)
        for name in ("low", "high", "probability_floor"):
            self.register_buffer(name, _buffer(self.range.get(name)))

    @staticmethod
    def range_of(outputs: np.ndarray) -> Iterable[float]:
        """The low and the high end of outputs (n,) on images of the target class."""
        raise NotImplementedError

    @classmethod
    def fit(
        cls, weak_logits: Array, module_output: Array, labels: Array, class_outputs: Array | None = None
    ) -> "RangeRule":
        """Raises UserError where no image is of the target class."""
        if class_outputs is None:
            class_outputs = np.asarray(module_output)[np.asarray(labels) == weak_logits.shape[1] - 1]
        if not len(class_outputs):
            raise UserError("a range of a module's outputs: expected validation images of the target class, given none")
        return cls(*cls.range_of(np.asarray(class_outputs)), probability_floor(np.asarray(weak_logits)))

    def forward(self, weak_logits: Tensor, module_output: Tensor) -> Tensor:
        others = torch.softmax(logits_of(weak_logits, self.probability_floor), 1)[:, :-1]
        return torch.cat([others, scale_to_range(module_output, self.low, self.high)[:, None]], 1)

    def to_json(self) -> dict[str, Any]:
        return self.range


def scale_to_range(output: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """(output - low) / (high - low). Where the range is a single value: 0 below it, 0.5 at it, 1 above it."""
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
        return np.percentile(outputs, (10, 90))


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
        buffers = {
            "weight": weight,
            "bias": bias,
            "scale": scale,
            "low": low,
            "high": high,
            "probability_floor": probability_floor,
        }
        for name, value in buffers.items():
            self.register_buffer(name, _buffer(value))
        if self.weight is None or self.bias is None or len({value is None for value in (scale, low, high)}) > 1:
            raise ValueError("expected weight and bias, and scale, low and high together or none of them")

    @classmethod
    def fit(
        cls, weak_logits: Array, module_output: Array | None, labels: Array, class_outputs: Array | None = None
    ) -> "Learned":
        """Without a module's output: the control that only recalibrates the weak model."""
        outputs = None if module_output is None else torch.as_tensor(module_output)[:, None]
        return cls(**vars(fit_linear_map(weak_logits, outputs, labels, [weak_logits.shape[1] - 1])))

    def forward(self, weak_logits: Tensor, module_output: Tensor) -> Tensor:
        """As every rule; and several modules' outputs (batch, modules)."""
        outputs = module_output[:, None].flatten(1)
        if self.scale is None:
            known = weak_logits
        else:
            known = log_probabilities(weak_logits, self.scale, self.probability_floor)
            outputs = limited(outputs, self.low, self.high)
        return nn.functional.linear(torch.cat([known, outputs], 1), self.weight, self.bias)

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
    """The class of the rule in a saved patched model. Raises KeyError where no rule is saved as `name`."""
    # RangeRule stands last, for all of its kind: a saved model does not say how the range was found.
    return {rule.saved_as: rule for rule in (*RULES.values(), RangeRule)}[name]
