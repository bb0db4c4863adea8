"""Whether a traced graph answers as the network that it was traced from."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from models.graph.errors import NetworkRefused
from models.graph.tracing import floating_parameter, in_evaluation_mode
from utils.quiet import quiet


@torch.no_grad()
def check_answers(network: nn.Module, forward: Callable[[Tensor], Tensor], image_shape: tuple[int, int, int]) -> None:
    """Compare the logits that a traced graph gives with what the network gives, on two random images.

    Some versions of torch lose a write in place when they export a network (2.11 does, behind a dropout).

    Args:
        network: it is read in evaluation mode and left as it was.
        forward: the graph: images -> logits (n, classes).
        image_shape: (channels, side, side).

    Raises NetworkRefused where they differ by more than rounding, and the network agrees with itself.
    """
    like = floating_parameter(network)
    images = torch.randn(2, *image_shape, generator=torch.Generator().manual_seed(0)).to(like)
    with in_evaluation_mode(network), quiet():
        logits = forward(images)
        expected, again = (_first_of_classes(network(images)) for _ in range(2))
    limit = max(0.01, torch.finfo(like.dtype).eps ** 0.5) * float(expected.abs().nan_to_num(0, 0, 0).max())
    answers = (logits, logits.softmax(1), logits.log_softmax(1), logits.softmax(1).softmax(1))

    def agrees(answer: Tensor) -> bool:
        return torch.allclose(answer, expected, rtol=0, atol=limit, equal_nan=True)

    if agrees(again) and not any(map(agrees, answers)):
        raise NetworkRefused(
            f"torch {torch.__version__} traces the network wrongly, its graph gives other logits: expected code that "
            "writes nothing in place (relu_, x += 1, inplace=True); write it so, or try another version of torch"
        )


def _first_of_classes(outputs: Any) -> Tensor:
    """What `_logits` chooses, of the values that a network gives for two images."""
    leaves = [value for value in tree_leaves(outputs) if isinstance(value, Tensor)]
    return next(value for value in leaves if value.dim() == 2 and len(value) == 2)
