"""A step's gradient with each module in a process of its own, an engine's seat, in two exchanges.

The driver sends every module its factors and gets its logits back; of the composed logits it takes the loss, sends
every module the slopes of its own, and gets the gradient of its factors back. What a module's run has to remember in
between stays in its process. Should that have died, the second exchange runs the module again. Which images a step
takes follows from its number, so they travel once, before the search.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engines.engine import Engine
from modules.evaluation_inputs import EvaluationInputs, graph_on_worker
from modules.masked_modules import FrozenGraph, freeze
from search.gradient.batches import any_of, batch_of_step
from utils.device import PRECISIONS


@dataclass(frozen=True)
class StepOfModule:
    """One module's part of a step."""

    step: int
    target_class: int
    factors: np.ndarray  # (units,) float32: its mask times its gains
    batch_size: int
    mirror: bool
    seed: int
    device: str


class ModulesOnEngine:
    """The modules of a strong model, on an engine.

    Args:
        engine: where they run.
        inputs: the strong model and the training images.
        batch_size, mirror, seed: what decides which images a step takes.
    """

    def __init__(self, engine: Engine, inputs: EvaluationInputs, batch_size: int, mirror: bool, seed: int) -> None:
        self._engine, self._inputs = engine, engine.share(inputs)
        self._settings = {"batch_size": batch_size, "mirror": mirror, "seed": seed, "device": engine.device}

    def mask_gradient(self, step: int, factors: Tensor, loss: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """The loss, detached, and its gradient (classes, units) with respect to factors (classes, units) of a step."""
        parts = [
            StepOfModule(step=step, target_class=target_class, factors=row, **self._settings)
            for target_class, row in enumerate(factors.numpy())
        ]
        composed = self._exchange(module_logits, [(part,) for part in parts], 1).requires_grad_()
        value = loss(composed)
        value.backward()
        slopes = composed.grad.T.contiguous().numpy()
        return value.detach(), self._exchange(module_gradient, list(zip(parts, slopes, strict=True)), 0)

    def _exchange(self, function: Callable[..., np.ndarray], arguments: list[tuple[Any, ...]], dim: int) -> Tensor:
        """The values of all modules, stacked along `dim`."""
        for target_class, of_module in enumerate(arguments):
            self._engine.submit(target_class, function, self._inputs, *of_module, seat=target_class)
        values = dict(self._engine.results())
        return torch.stack([torch.tensor(values[target_class]) for target_class in range(len(arguments))], dim)


def module_logits(inputs: EvaluationInputs, part: StepOfModule) -> np.ndarray:
    """A task: a module's logit (batch,) float32 on the images of a step."""
    for old in [run for run in _runs if run[0] != part.step]:
        del _runs[old]
    _, logits = _runs[part.step, part.target_class] = _run(inputs, part)
    return logits.detach().cpu().numpy()


def module_gradient(inputs: EvaluationInputs, part: StepOfModule, slopes: np.ndarray) -> np.ndarray:
    """A task: the gradient (units,) of a module's factors, by the slopes (batch,) of the loss in its logits."""
    factors, logits = _runs.pop((part.step, part.target_class), None) or _run(inputs, part)
    (gradient,) = torch.autograd.grad(logits, factors, torch.tensor(slopes, device=logits.device))
    return gradient.cpu().numpy()


# What a worker has in memory
_runs: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}  # by step and class: factors, and the logits that follow


def _run(inputs: EvaluationInputs, part: StepOfModule) -> tuple[Tensor, Tensor]:
    settings = part.batch_size, part.mirror, part.seed, part.device
    images, first_values = _first_values(inputs, part.step, *settings)
    factors = torch.tensor(part.factors, device=images.device, requires_grad=True)
    return factors, _frozen(inputs, part.device).logit(images, first_values, factors, part.target_class)


@functools.lru_cache(maxsize=1)
def _first_values(
    inputs: EvaluationInputs, step: int, batch_size: int, mirror: bool, seed: int, device: str
) -> tuple[Tensor, dict[str, Any]]:
    """The images of a step, and what of the strong model no mask changes on them."""
    pixels = _pixels(inputs, device)
    images, _ = batch_of_step(
        pixels,
        step,
        choose=functools.partial(any_of, len(pixels)),
        batch_size=batch_size,
        mirror=mirror,
        seed=seed,
        dtype=PRECISIONS[inputs.precision],
        normalisation=inputs.normalisation,
    )
    return images, _frozen(inputs, device).first_values(images)


@functools.lru_cache(maxsize=1)
def _frozen(inputs: EvaluationInputs, device: str) -> FrozenGraph:
    return freeze(graph_on_worker(inputs, torch.device(device)), PRECISIONS[inputs.precision])


@functools.lru_cache(maxsize=1)
def _pixels(inputs: EvaluationInputs, device: str) -> Tensor:
    return torch.tensor(inputs.pixels, device=device)
