"""An explorer's evaluation in a process of its own: the images and the model once, then shares of the chromosomes."""

import multiprocessing.connection
import os
import threading
import time
from argparse import Namespace
from collections.abc import Callable
from multiprocessing.synchronize import Barrier

import torch
from subjects import first_masks, resident

from dataset.splits import load_split
from models.opening import open_stage
from models.strong_model import load_strong_model
from modules.population_outputs import population_outputs
from utils.device import PRECISIONS

STATE: dict[str, tuple[Barrier, Callable[[int, int, str], None]]] = {}  # of this process


def end_with_parent() -> None:
    """End this process when the one that started it is gone, in whatever way."""

    def wait_for_its_end() -> None:
        multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
        os._exit(1)

    threading.Thread(target=wait_for_its_end, daemon=True).start()


def prepare(
    barrier: Barrier,
    model_name: str,
    dataset: str,
    assignments: list[str],
    threads: int,
    sizes: list[int],
    precisions: list[str],
) -> None:
    """Load everything; called once in a new process."""
    end_with_parent()
    torch.set_num_threads(threads)
    stage = open_stage(Namespace(model=model_name, dataset=dataset, set=assignments, quiet=True))
    num_images, num_chromosomes = sizes
    graph = load_strong_model(stage.config, stage.artifacts, stage.device)
    images = load_split(stage.config).valid.first(num_images)
    masks = first_masks(stage, graph, images, num_chromosomes)[0]
    pixels = {name: resident(images, stage, PRECISIONS[name]) for name in precisions}

    def evaluate(share: int, shares: int, precision: str) -> None:
        mine = masks[share::shares]
        population_outputs(graph, mine, [0] * len(mine), pixels[precision])

    STATE["explorer"] = barrier, evaluate


def evaluate_share(share: int, shares: int, precision: str) -> tuple[float, float]:
    """Evaluate every so-manyth chromosome; start and end on the clock that all processes of a machine share."""
    barrier, evaluate = STATE["explorer"]
    barrier.wait()  # so that no process takes two shares, and all start together
    start = time.perf_counter()
    evaluate(share, shares, precision)
    return start, time.perf_counter()
