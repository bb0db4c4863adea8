"""What benchmarks run in processes of their own: an explorer's evaluation, and scoring, to know its peak memory."""

import multiprocessing
import multiprocessing.connection
import os
import resource
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.synchronize import Barrier

import torch
from measuring import Benchmark, Row
from subjects import first_masks, resident, scoring_instance

from dataset.splits import load_split
from models.opening import open_stage
from models.strong_model import load_strong_model
from modules.population_outputs import population_outputs
from search.genetic.tournament import score_population
from utils.device import PRECISIONS

RSS_UNITS_PER_GIB = 2**30 if sys.platform == "darwin" else 2**20  # ru_maxrss: bytes there, KiB elsewhere
STATE: dict[str, tuple[Barrier, Callable[[int, int, str], None]]] = {}  # of this process


def end_with_parent() -> None:
    """End this process when the one that started it is gone, in whatever way."""

    def wait_for_its_end() -> None:
        if parent := multiprocessing.parent_process():
            multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait_for_its_end, daemon=True).start()


def score_alone(num_classes: int, population: int, num_images: int, num_kernels: int, seed: int, threads: int) -> Row:
    """Score a made-up generation; its seconds, and the process's peak memory."""
    instance = scoring_instance(num_classes, population, num_images, num_kernels, seed)
    start = time.perf_counter()
    scores = score_population(**vars(instance), seed=seed, generation=0, threads=threads)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / RSS_UNITS_PER_GIB
    return {"seconds": seconds, "ensembles": scores.num_scored, "survivors": len(scores.ensembles), "peak GiB": peak}


def evaluation_seconds(benchmark: Benchmark, processes: int, threads: int) -> dict[str, list[float]]:
    """Per precision: seconds from the first process's start to the last one's end, of each repetition."""
    context, config = multiprocessing.get_context("spawn"), benchmark.stage.config
    names, sizes = list(benchmark.precisions), (benchmark.sizes["images"], benchmark.sizes["chromosomes"])
    settings = (context.Barrier(processes), config.model, config.dataset, benchmark.options.set, threads, sizes, names)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with ProcessPoolExecutor(processes, context, _prepare, settings) as pool:
        for turn in range(benchmark.repetitions + 1):  # the first one warms up
            for name in names:
                spans = list(pool.map(_evaluate_share, range(processes), [processes] * processes, [name] * processes))
                if turn > 0:
                    seconds[name].append(max(end for _, end in spans) - min(start for start, _ in spans))
    return seconds


def _prepare(
    barrier: Barrier,
    model: str,
    dataset: str,
    assignments: list[str],
    threads: int,
    sizes: tuple[int, int],
    precisions: list[str],
) -> None:
    """Load everything; called once in a new process."""
    end_with_parent()
    torch.set_num_threads(threads)
    stage = open_stage(Namespace(model=model, dataset=dataset, set=assignments, quiet=True))
    num_images, num_chromosomes = sizes
    graph = load_strong_model(stage.config, stage.artifacts, stage.device)
    images = load_split(stage.config).valid.first(num_images)
    masks = first_masks(stage, graph, images, num_chromosomes)[0]
    pixels = {name: resident(images, stage, PRECISIONS[name]) for name in precisions}

    def evaluate(share: int, shares: int, precision: str) -> None:
        mine = masks[share::shares]
        population_outputs(graph, mine, [0] * len(mine), pixels[precision])

    STATE["explorer"] = barrier, evaluate


def _evaluate_share(share: int, shares: int, precision: str) -> tuple[float, float]:
    """Evaluate every `shares`-th chromosome; start and end on the clock that all processes of a machine share."""
    barrier, evaluate = STATE["explorer"]
    barrier.wait()  # so that no process takes two shares, and all start together
    start = time.perf_counter()
    evaluate(share, shares, precision)
    return start, time.perf_counter()
