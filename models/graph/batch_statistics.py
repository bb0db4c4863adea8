"""Batch norm by the statistics of the batch: for training, and for estimating new running statistics."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from models.graph.network import GraphNetwork
from models.graph.running import Program

STATISTICS_IMAGES, STATISTICS_BATCH = 1000, 250  # that statistics are estimated on, and how many at a time
LARGE_SIDE, LARGE_BATCH = 64, 50  # of images with more pixels a side, fewer at a time: memory is bounded by the batch
TRAINING, MOMENTUM = 5, 6  # the arguments' places in aten.batch_norm


def has_batch_norm(program: Program) -> bool:
    """Whether it normalises by running statistics."""
    return any(step.function is torch.ops.aten.batch_norm.default and not step.args[TRAINING] for step in program.steps)


def with_batch_statistics(program: Program, momentum: float | None = None) -> Program:
    """The same program, whose batch norms normalise by the batch, and move their running statistics towards it.

    Args:
        program: in evaluation mode.
        momentum: the batch's weight in the running statistics, 0 to 1; None = the network's own.
    """
    steps = []
    for step in program.steps:
        if step.function is torch.ops.aten.batch_norm.default and not step.args[TRAINING]:
            args = list(step.args)
            args[TRAINING] = True
            args[MOMENTUM] = args[MOMENTUM] if momentum is None else momentum
            step = replace(step, args=tuple(args))
        steps.append(step)
    return replace(program, steps=tuple(steps))


def statistics_batches(images: Tensor, image_side: int) -> Sequence[Tensor]:
    """Images (n, ...) of this side, or their places (n,), in batches of equal size: each counts alike."""
    most = STATISTICS_BATCH if image_side <= LARGE_SIDE else LARGE_BATCH
    return images.tensor_split(-(-len(images) // most))


@torch.no_grad()
def estimate_statistics(network: GraphNetwork, batches: Iterable[Tensor]) -> None:
    """Replace a network's running statistics by the mean of batches' (batch, channels, side, side), in place.

    Batches count alike, whatever their sizes (`statistics_batches`).

    A network whose kernels were dropped or trained has other feature maps than the one that the statistics were
    measured on.
    """
    if not has_batch_norm(network.graph_program):
        return
    for number, images in enumerate(batches):
        network.run_graph(with_batch_statistics(network.graph_program, 1 / (number + 1)), images)
