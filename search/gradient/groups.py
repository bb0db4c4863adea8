"""Modules are trained in groups, one after the other, so that memory does not depend on how many modules there are.

A module does not depend on the size of its group.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor

import numpy as np
import torch
from torch import Tensor

from models.graph import Graph
from search.gradient.pruning import keep_target
from search.gradient.trained_module import TrainedModule
from search.gradient.trainer import ModuleTraining, Trainer
from utils.estimate import Estimate, free_memory
from utils.progress import say, steps

STEPS_PER_STATE = 50  # between two states on the disk
MOST_AT_ONCE = 12  # modules of a group: then the strong model's forward pass is a small share of a step
COPIES = 5  # of a module's weights in training: they, gradients, two moments, and of each the unit that it reads

Module = tuple[np.ndarray, Mapping[str, Tensor]]  # its mask (K,) bool, True = kept, and its state_dict
Begins = Callable[[int], Module]  # of a class
Learned = tuple[int, np.ndarray, Mapping[str, Tensor]]  # a class, and its module


def train_in_groups(
    strong: Graph,
    classes: Sequence[int],
    training: ModuleTraining,
    shares: tuple[float, float],
    workers: Executor,
    *,
    size: int = 1,
    begins: Begins | None = None,
    steps_done: int = 0,
    restore: Callable[[int, TrainedModule], object] = lambda *_: None,
    keep: Callable[[int, TrainedModule], object] = lambda *_: None,
    what: str = "gradient search",
) -> Iterator[Learned]:
    """Let modules take their steps of a round, and yield each of them when its group has.

    Args:
        strong: the strong model, on the device.
        classes: of the modules.
        training: of the modules.
        shares: of the kernels, that the round begins with, and that it goes down to.
        workers: run the modules of a group, one core each.
        size: of a group.
        begins: gives the module of a class before the round; None: it is the strong model.
        steps_done: in the rounds before.
        restore: lets a module go on from what an earlier run has kept of it.
        keep: keeps the state of a module, after each STEPS_PER_STATE steps.
        what: is done, for people.

    Raises LossNotFinite.
    """
    of_round = training.settings.steps
    groups = [classes[start : start + size] for start in range(0, len(classes), size)]
    estimate = Estimate(what, first_steps(list(map(len, groups)), of_round, *shares))
    with steps(f"{what}, steps", len(groups) * of_round) as advance:
        for group in groups:
            trainer = Trainer(strong, [(target_class,) for target_class in group], training, workers)
            modules = dict(zip(group, trainer.modules, strict=True))
            if begins is not None:
                trainer.begin_with([begins(target_class) for target_class in group], steps_done)
            for each in modules.items():
                restore(*each)
            if trainer.steps_done > steps_done:
                say(f"going on after step {trainer.steps_done}")
            for step in range(steps_done, steps_done + of_round):
                if step == trainer.steps_done:  # else an earlier run has taken it
                    trainer.step(*shares)
                    estimate.advance()
                    if (step + 1) % STEPS_PER_STATE == 0:
                        for each in modules.items():
                            keep(*each)
                advance()
            trainer.finish_round()
            yield from zip(group, trainer.masks(), trainer.weights(), strict=True)
            del trainer, modules, each  # before the next ones take as much memory


def first_steps(sizes: Sequence[int], steps: int, before: float, keep: float) -> float:
    """How many times as long as its first step a round takes, whose modules become cheaper as their units are dropped.

    Args:
        sizes: of the groups. A step takes the strong model forwards, and each module forwards and backwards, which is
            three times as much; until the last drop, backwards from the logits, too.
        steps: of the round.
        before, keep: the shares that it begins with, and goes down to.
    """

    def of_module(step: int) -> float:
        share = keep_target(before, keep, step, steps)
        return (5 if share > keep else 3) * share / before

    modules = sum(map(of_module, range(steps)))
    return sum(steps + size * modules for size in sizes) / (1 + of_module(0) * sizes[0]) if sizes else 0


def group_size(graph: Graph, device: torch.device) -> int:
    """How many modules are trained at a time: what half of the free memory holds, one for each thread or more."""
    free, threads = free_memory(), torch.get_num_threads() if device.type == "cpu" else 1
    if device.type == "cuda":  # torch keeps what it frees
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        free = torch.cuda.mem_get_info(device)[0] + unused
    of_module = COPIES * sum(value.nbytes for value in graph.constants.values())
    return max(threads, MOST_AT_ONCE if free is None else min(MOST_AT_ONCE, free // (2 * of_module)))
