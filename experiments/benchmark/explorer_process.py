"""An explorer's evaluation in a process of its own: the images and the model once, then shares of the chromosomes."""

import time
from argparse import Namespace
from collections.abc import Callable
from multiprocessing.synchronize import Barrier

import torch
from subjects import first_masks, resident

from models.population_outputs import population_outputs
from models.strong_model import load_strong_model
from utils.datasets import load_split
from utils.device import PRECISIONS
from utils.stage import open_stage

STATE: dict[str, tuple[Barrier, Callable[[int, int], object]]] = {}  # of this process


def prepare(
    barrier: Barrier, model_name: str, dataset: str, settings: list[str], precision: str, threads: int, sizes: list[int]
) -> None:
    """Load everything; called once in a new process."""
    torch.set_num_threads(threads)
    stage = open_stage(Namespace(model=model_name, dataset=dataset, set=settings), announce=False)
    num_images, num_chromosomes = sizes
    model = load_strong_model(stage.config, stage.artifacts, stage.device)
    images = load_split(stage.config).valid.first(num_images)
    masks = first_masks(stage, model, images, num_chromosomes)[0]
    pixels = resident(images, stage, PRECISIONS[precision])

    def evaluate(share: int, shares: int) -> None:
        mine = masks[share::shares]
        population_outputs(model, mine, [0] * len(mine), pixels)

    STATE["explorer"] = barrier, evaluate


def evaluate_share(share: int, shares: int) -> tuple[float, float]:
    """Evaluate every so-manyth chromosome; start and end on the clock that all processes of a machine share."""
    barrier, evaluate = STATE["explorer"]
    barrier.wait()
    start = time.perf_counter()
    evaluate(share, shares)
    return start, time.perf_counter()
