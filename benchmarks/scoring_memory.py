"""Scoring one generation in a process of its own, to know its peak memory."""

import resource
import sys
import time
from typing import Any

from subjects import scoring_instance

from search.genetic.tournament import score_population

RSS_UNITS_PER_GIB = 2**30 if sys.platform == "darwin" else 2**20  # ru_maxrss: bytes there, KiB elsewhere


def score_alone(
    num_classes: int, population: int, num_images: int, num_kernels: int, seed: int, threads: int
) -> dict[str, Any]:
    """Score a made-up generation; its seconds, and the process's peak memory with everything and beyond the inputs."""
    instance = scoring_instance(num_classes, population, num_images, num_kernels, seed)
    before = _peak_gib()
    start = time.perf_counter()
    scores = score_population(**vars(instance), seed=seed, generation=0, threads=threads)
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "ensembles": scores.num_scored,
        "ensembles/s": scores.num_scored / seconds,
        "best accuracy": float(scores.ensemble_accuracy.max()),
        "final ensembles": len(scores.ensembles),
        "peak GiB": _peak_gib(),
        "peak increase GiB": _peak_gib() - before,
    }


def _peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / RSS_UNITS_PER_GIB
