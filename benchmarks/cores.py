"""One process per core, or one process with all cores: what the explorers of a search should do on one machine.

    python benchmarks/cores.py --model simcnn_x0_25 --dataset cifar10

The same chromosomes are evaluated in both ways, and by as many processes that each take all cores, as explorers would
without a setting. Writes data/benchmark/MODEL_DATASET/cores.json.
"""

import multiprocessing
import statistics
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from explorer_process import evaluate_share, prepare
from measuring import Benchmark, Size, benchmark_parser, open_benchmark, save_benchmark, show_rows

from models import files as model_files
from utils.errors import run

SIZES = {
    "images": Size(2_000, 10, "validation images"),
    "chromosomes": Size(24, 2, "chromosomes, shared among the processes"),
}


def main() -> None:
    arguments = benchmark_parser(__doc__, SIZES).parse_args()
    benchmark = open_benchmark(arguments, "cores", SIZES)
    stage, sizes, cores = benchmark.stage, benchmark.sizes, benchmark.threads
    model_files.entire_model(stage.artifacts).check_is_there()
    rows: list[dict[str, Any]] = []
    arrangements = tuple(dict.fromkeys(((cores, 1), (1, cores), (cores, cores))))
    measured = {arrangement: measure(benchmark, arguments.set, *arrangement) for arrangement in arrangements}
    for name in benchmark.precisions:
        seconds = {arrangement: times[name] for arrangement, times in measured.items()}
        slowest = max(map(statistics.median, seconds.values()))
        for (processes, threads), times in seconds.items():
            rows.append(
                {
                    "ratio to the slowest": slowest / statistics.median(times),
                    "processes": processes,
                    "threads each": threads,
                    "precision": name,
                    "chromosomes/s": sizes["chromosomes"] / statistics.median(times),
                    "seconds": statistics.median(times),
                    "lowest": min(times),
                    "highest": max(times),
                }
            )
    show_rows(f"{sizes['chromosomes']} chromosomes, {sizes['images']} images, {cores} cores", rows)
    save_benchmark(benchmark, {"arrangements": rows})


def measure(benchmark: Benchmark, assignments: list[str], processes: int, threads: int) -> dict[str, list[float]]:
    """Per precision: seconds from the first process's start to the last one's end, of each repetition."""
    context = multiprocessing.get_context("spawn")
    config, sizes = benchmark.stage.config, list(benchmark.sizes.values())
    names = list(benchmark.precisions)
    settings = (context.Barrier(processes), config.model, config.dataset, assignments, threads, sizes, names)
    seconds: dict[str, list[float]] = {name: [] for name in benchmark.precisions}
    with ProcessPoolExecutor(processes, context, prepare, settings) as pool:
        for turn in range(benchmark.repetitions + 1):  # the first one warms up
            for name in benchmark.precisions:
                spans = list(pool.map(evaluate_share, range(processes), [processes] * processes, [name] * processes))
                if turn > 0:
                    seconds[name].append(max(end for _, end in spans) - min(start for start, _ in spans))
    return seconds


if __name__ == "__main__":
    run(main)
