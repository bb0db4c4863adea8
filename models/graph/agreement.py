"""Whether a traced graph answers as the network that it was traced from."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from models.graph.atoms import kind
from models.graph.errors import NetworkRefused
from models.graph.tracing import floating_parameter, in_evaluation_mode
from utils.quiet import quiet

LEAST_LIMIT = 0.01  # of the largest logit: what TF32 rounds in a deep network


@torch.no_grad()
def check_answers(
    network: nn.Module,
    forward: Callable[[Tensor], Tensor],
    ends: Sequence[fx.Node],
    image_shape: tuple[int, int, int],
) -> None:
    """Compare what a traced graph gives with what the network gives, on two random images.

    Some versions of torch lose a write in place when they export a network (2.11 does, behind a dropout).

    Args:
        network: it is read in evaluation mode and left as it was.
        forward: the graph: images -> logits (n, classes).
        ends: the softmaxes and sigmoids that the network has behind them.
        image_shape: (channels, side, side).

    Raises NetworkRefused where they differ by more than rounding, or the network gives no floating-point numbers. What
    cannot be compared is let through: networks without values (`meta`), that refuse random images, that disagree with
    themselves.
    """
    like = floating_parameter(network)
    if like.is_meta:
        return
    images = torch.randn(2, *image_shape, generator=torch.Generator().manual_seed(0)).to(like)
    with in_evaluation_mode(network), _same_buffers(network), quiet():
        try:
            answers = [network(images.clone()) for _ in range(2)]
        except Exception:
            return
        found = forward(images)
        expected, again = (_first_like(found, answer) for answer in answers)
        if expected is None or again is None:
            return
        if not expected.is_floating_point():
            raise NetworkRefused(f"expected logits (n, classes), the network gives numbers of {expected.dtype}")
    for end in ends:
        found = end.target(found, *end.args[1:], **end.kwargs)
    if ends and "log" not in kind(ends[-1]):  # probabilities of small logits are all nearly the same
        found, expected, again = map(_centred_logarithms, (found, expected, again))
    if agrees(again, expected, like.dtype) and not agrees(found, expected, like.dtype):
        raise NetworkRefused(
            f"torch {torch.__version__} traces the network wrongly, its graph gives other logits: expected code that "
            "writes nothing in place (relu_, x += 1, inplace=True); write it so, or try another version of torch"
        )


def agrees(found: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    """Whether logits are the expected ones but for what a network of this dtype rounds; NaN where NaN is expected."""
    limit = max(LEAST_LIMIT, torch.finfo(dtype).eps ** 0.5) * float(expected.abs().nan_to_num(0, 0, 0).max())
    return torch.allclose(found, expected, rtol=0, atol=limit, equal_nan=True)


def _first_like(logits: Tensor, outputs: Any) -> Tensor | None:
    """What the graph has its logits of, among the values that a network gives for the same images."""
    tensors = (value for value in tree_leaves(outputs) if isinstance(value, Tensor))
    return next((value for value in tensors if value.shape == logits.shape), None)


def _centred_logarithms(probabilities: Tensor) -> Tensor:
    logarithms = probabilities.double().clamp_min(torch.finfo(torch.float32).tiny).log()
    return logarithms - logarithms.mean(1, keepdim=True)


@contextmanager
def _same_buffers(network: nn.Module) -> Iterator[None]:
    """What a network writes into its buffers meanwhile is undone."""
    before = [(buffer, buffer.clone()) for buffer in network.buffers()]
    try:
        yield
    finally:
        for buffer, values in before:
            buffer.copy_(values)
