"""Batch norm by the statistics of the batch: for training, and for estimating new running statistics."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from models.graph.network import GraphNetwork
from models.graph.running import Program, Step

STATISTICS_IMAGES, STATISTICS_BATCH = 1000, 250  # that statistics are estimated on, and how many at a time
LARGE_SIDE, LARGE_BATCH = 64, 50  # of images with more pixels a side, fewer at a time: memory is bounded by the batch
MEAN, TRAINING, MOMENTUM = 3, 5, 6  # the arguments' places in aten.batch_norm


def has_batch_norm(program: Program) -> bool:
    """Whether it normalises by running statistics."""
    return any(map(_is_evaluated, program.steps))


def with_batch_statistics(program: Program, batches_before: int | None = None) -> Program:
    """The same program, whose batch norms normalise by the batch, and move their running statistics towards it.

    Args:
        program: in evaluation mode.
        batches_before: whose mean the running statistics are, so that they become that of one batch more; None = they
            move by the network's own momentum.
    """
    calls = Counter(step.args[MEAN] for step in program.steps if _is_evaluated(step))
    counted = {mean: count * (batches_before or 0) for mean, count in calls.items()}  # each call alike
    steps = []
    for step in program.steps:
        if _is_evaluated(step):
            args = list(step.args)
            args[TRAINING] = True
            if batches_before is not None:
                counted[args[MEAN]] += 1
                args[MOMENTUM] = 1 / counted[args[MEAN]]
            step = replace(step, args=tuple(args))
        steps.append(step)
    return replace(program, steps=tuple(steps))


def _is_evaluated(step: Step) -> bool:
    """Whether it is a batch norm that normalises by running statistics."""
    return step.function is torch.ops.aten.batch_norm.default and not step.args[TRAINING]


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
        network.run_graph(with_batch_statistics(network.graph_program, number), images)
