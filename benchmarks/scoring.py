"""How fast a generation is scored, beside a Python loop over its ensembles, and how much memory that takes.

    python benchmarks/scoring.py --model simcnn_x0_25 --dataset cifar10

The most ensembles survive each round. The two sides are compared, to the last bit, on modules of the strong model as a
search begins with them, so few that the loop can finish. The full size is made up, and runs in a process of its own,
whose peak memory is read. Writes data/benchmark/MODEL_DATASET/scoring.json.
"""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import naive
from explorer_process import end_with_parent
from measuring import (
    Size,
    Work,
    benchmark_parser,
    compare,
    must_agree,
    open_benchmark,
    save_benchmark,
    show_rows,
    time_in_turns,
)
from scoring_memory import score_alone
from subjects import searched_instance

from models.strong_model import graph_of
from search.genetic.tournament import Scores, score_population
from utils.errors import run

SIZES = {
    "naive_population": Size(10, 4, "chromosomes per class that both sides score"),
    "naive_images": Size(2_000, 100, "validation images that they are scored on"),
    "classes": Size(10, 5, "classes of the full size"),
    "population": Size(100, 8, "its chromosomes per class"),
    "images": Size(10_000, 300, "its images"),
}


def main() -> None:
    benchmark = open_benchmark(benchmark_parser(__doc__, SIZES).parse_args(), "scoring", SIZES)
    stage, sizes = benchmark.stage, benchmark.sizes
    num_kernels = graph_of(stage.config).units.num_kernels
    small = searched_instance(stage, sizes["naive_population"], sizes["naive_images"])

    def fast() -> Scores:
        return score_population(**vars(small), seed=stage.seed, generation=0, threads=benchmark.threads)

    def slow() -> Scores:
        return naive.tournament(**vars(small), seed=stage.seed, generation=0)

    fast()
    num_scored = fast().num_scored
    works = {"naive": Work(slow, num_scored), "fast": Work(fast, num_scored)}
    timings = time_in_turns(works, min(3, benchmark.repetitions), stage.device, warm_up=False)
    must_agree(naive.same_scores(timings["naive"].result, timings["fast"].result), "scores, to the last bit")
    comparison = [compare("scoring", "ensemble", timings["naive"], timings["fast"])]

    full = (sizes["classes"], sizes["population"], sizes["images"], num_kernels, stage.seed)
    context = multiprocessing.get_context("spawn")
    runs = []
    for _ in range(benchmark.repetitions):
        with ProcessPoolExecutor(1, context, end_with_parent) as alone:
            runs.append(alone.submit(score_alone, *full, benchmark.threads).result())
    runs.sort(key=lambda row: row["seconds"])
    row = runs[len(runs) // 2]
    row["peak GiB"] = max(other["peak GiB"] for other in runs)
    row["peak increase GiB"] = max(other["peak increase GiB"] for other in runs)
    show_rows(
        f"both on {len(small.outputs)} classes, {sizes['naive_population']} chromosomes, {len(small.labels)} images, "
        f"{num_scored} ensembles; accuracies, survivors and fitness equal to the last bit",
        comparison,
    )
    show_rows(
        f"alone: {sizes['classes']} classes, {sizes['population']} chromosomes, {sizes['images']} images; median "
        f"seconds and largest memory of {len(runs)} processes",
        [row],
    )
    save_benchmark(benchmark, {"comparison": comparison, "alone": [row]})


if __name__ == "__main__":
    run(main)
