"""How cost grows: evaluation with population, images and width, scoring with population, images and classes.

    python benchmarks/growth.py --model simcnn_x0_25 --dataset cifar10

One of them is doubled at a time, the others stay. Networks have random weights, outputs to score are made up: neither
changes the time. `exponent` e: twice as much takes 2^e times as long. Writes data/benchmark/MODEL_DATASET/growth.json.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from measuring import (
    Benchmark,
    Size,
    Work,
    benchmark_parser,
    open_benchmark,
    save_benchmark,
    show_rows,
    time_in_turns,
)
from subjects import first_masks, resident, scoring_instance, untrained_graph

from dataset.splits import load_split
from models.registry import WIDTH_SUFFIX
from models.strong_model import graph_of
from modules.population_outputs import population_outputs
from search.genetic.tournament import score_population
from utils.errors import run

SIZES = {
    "population": Size(5, 1, "smallest population to evaluate"),
    "images": Size(500, 10, "fewest images to evaluate on"),
    "scoring_population": Size(25, 3, "smallest population to score"),
    "scoring_images": Size(2_500, 40, "fewest images to score on"),
    "steps": Size(3, 2, "sizes of each, every one twice the one before"),
}
WIDTH = "width"


def main() -> None:
    benchmark = open_benchmark(benchmark_parser(__doc__, SIZES).parse_args(), "growth", SIZES)
    sizes = benchmark.sizes
    evaluation = {"population": sizes["population"], "images": sizes["images"], WIDTH: 1}
    scoring = {
        "population": sizes["scoring_population"],
        "images": sizes["scoring_images"],
        "classes": max(2, benchmark.stage.config.num_classes // 2 ** (sizes["steps"] - 1)),
    }
    tables = {
        **{
            f"evaluation_{name}": grow(benchmark, evaluation, lambda point, d=dtype: evaluate(benchmark, point, d))
            for name, dtype in benchmark.precisions.items()
        },
        "scoring": grow(benchmark, scoring, lambda point: score(benchmark, point)),
    }
    for title, rows in tables.items():
        show_rows(title.replace("_", ", "), rows)
    save_benchmark(benchmark, tables)


def grow(
    benchmark: Benchmark, smallest: dict[str, int], work_at: Callable[[dict[str, int]], Work]
) -> list[dict[str, Any]]:
    """One row per point: each quantity in turn doubled step by step, the others at their smallest."""
    rows = []
    for quantity in smallest:
        last = math.nan
        for step in range(benchmark.sizes["steps"]):
            point = {**smallest, quantity: smallest[quantity] * 2**step}
            timing = time_in_turns({"fast": work_at(point)}, benchmark.repetitions, benchmark.stage.device)["fast"]
            seconds = timing.per_unit * timing.units
            exponent = math.log2(seconds / last)
            rows.append(
                {
                    "grows": quantity,
                    **point,
                    "seconds": seconds,
                    "exponent": "" if math.isnan(exponent) else round(exponent, 2),
                }
            )
            last = seconds
    return rows


def evaluate(benchmark: Benchmark, point: dict[str, int], dtype: torch.dtype) -> Work:
    """The evaluation of one class's first population by a network so many times as wide as the model."""
    stage = benchmark.stage
    graph = untrained_graph(stage, so_much_wider(stage.config.network_name, point[WIDTH]))
    images = load_split(stage.config).valid.first(point["images"])
    masks = first_masks(stage, graph, images, point["population"])[0]
    pixels = resident(images, stage, dtype)
    return Work(lambda: population_outputs(graph, masks, [0] * len(masks), pixels))


def so_much_wider(name: str, times: int) -> str:
    """The name of one of our networks so many times as wide."""
    suffix = WIDTH_SUFFIX.match(name)
    base, width = (suffix["base"], float(f"{suffix['whole']}.{suffix['fraction']}")) if suffix else (name, 1.0)
    return f"{base}_x{width * times}".replace(".", "_")


def score(benchmark: Benchmark, point: dict[str, int]) -> Work:
    """The scoring of a made-up generation."""
    stage = benchmark.stage
    num_kernels = graph_of(stage.config).units.num_kernels
    instance = scoring_instance(point["classes"], point["population"], point["images"], num_kernels, stage.seed)
    options = {"seed": stage.seed, "generation": 0, "threads": benchmark.threads}
    return Work(lambda: score_population(**vars(instance), **options))


if __name__ == "__main__":
    run(main)
