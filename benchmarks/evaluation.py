"""How fast chromosomes are evaluated: a population in, outputs out, beside a network and a DataLoader per chromosome.

    python benchmarks/evaluation.py --model simcnn_x0_25 --dataset cifar10
    python benchmarks/evaluation.py --model simcnn --dataset cifar10 --untrained --images 1000

Also the share of the machine's own convolution and matrix product peaks, measured in the same run, and what bfloat16
does to outputs and to the composed model's accuracy. Writes data/benchmark/MODEL_DATASET/evaluation.json.
"""

import statistics
from typing import Any

import naive
import numpy as np
import torch
from measuring import (
    Benchmark,
    Size,
    Timing,
    Work,
    benchmark_parser,
    compare,
    convolution_peak,
    exact_results,
    matmul_peak,
    must_agree,
    open_benchmark,
    save_benchmark,
    show_rows,
    time_in_turns,
)
from subjects import first_masks, model_to_measure, naive_network, resident

from dataset.labelled_images import Images
from dataset.splits import load_split
from models.graph import Graph, flops_of
from modules.population_outputs import population_outputs
from utils.errors import run

SIZES = {
    "images": Size(10_000, 40, "validation images"),
    "chromosomes": Size(20, 2, "size of the population"),
}
TOLERANCE = 1e-4  # of float32 outputs; relative to the largest one where that is above 1


def main() -> None:
    parser = benchmark_parser(__doc__, SIZES)
    parser.add_argument("--untrained", action="store_true", help="a network with random weights, where none is trained")
    arguments = parser.parse_args()
    benchmark = open_benchmark(arguments, "evaluation", SIZES)
    stage = benchmark.stage
    graph = model_to_measure(stage, untrained=arguments.untrained)
    network = naive_network(stage, graph)
    images = load_split(stage.config).valid.first(benchmark.sizes["images"])
    first = first_masks(stage, graph, images, benchmark.sizes["chromosomes"])
    masks, target_class = first[0], 0

    def evaluate(dtype: torch.dtype, count: int) -> Work:
        pixels = resident(images, stage, dtype)
        return Work(lambda: population_outputs(graph, masks[:count], [target_class] * count, pixels), count)

    def evaluate_naively() -> np.ndarray:
        kernel_mask = graph.units.spread(masks[0])
        return naive.module_outputs(network, kernel_mask, target_class, naive.batches(images, stage.device))

    works = {"naive": Work(evaluate_naively)}
    for name, dtype in benchmark.precisions.items():
        works[f"prepare {name}"] = Work(lambda d=dtype: resident(images, stage, d))
        works[f"one {name}"] = evaluate(dtype, 1)
        works[f"all {name}"] = evaluate(dtype, len(masks))
    timings = time_in_turns(works, benchmark.repetitions, stage.device)

    exact = exact_results(works, timings, stage.device, "naive", "one float32", "all float32")
    expected = exact["naive"]
    for count in ("one", "all"):
        difference = float(np.abs(exact[f"{count} float32"][0] - expected).max())
        must_agree(difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())), f"outputs by {difference}")
    comparison = [
        compare(f"{count} {name}", "chromosome", timings["naive"], timings[f"{count} {name}"])
        for name in benchmark.precisions
        for count in ("one", "all")
    ]
    flops = [flops_of(graph.cut(mask, target_class), graph.image_shape) for mask in masks]
    speed = speed_rows(benchmark, timings, flops, len(images))
    effect = [{"float32 - naive, max": float(np.abs(exact["one float32"][0] - expected).max())}]
    if "bfloat16" in benchmark.precisions:
        effect[0] |= effect_of_bfloat16(graph, first[:, 0], images, benchmark)
    show_rows(f"one or all of {len(masks)} chromosomes; the naive side: one, in float32", comparison)
    show_rows(f"speed; FLOPs of a module and an image by torch's counter: {statistics.mean(flops):,.0f}", speed)
    show_rows(f"float32 against naive, and bfloat16 against float32, on {len(images)} images", effect)
    save_benchmark(benchmark, {"comparison": comparison, "speed": speed, "effect_of_bfloat16": effect})


def speed_rows(
    benchmark: Benchmark, timings: dict[str, Timing], flops: list[int], num_images: int
) -> list[dict[str, Any]]:
    """Rates of each way to evaluate; shared prefixes count as if each chromosome had computed them."""
    peaks = {
        dtype: (convolution_peak(benchmark, dtype), matmul_peak(benchmark, dtype))
        for dtype in benchmark.precisions.values()
    }
    rows = []
    for name in ("naive", *(f"{count} {precision}" for precision in benchmark.precisions for count in ("one", "all"))):
        timing = timings[name]
        rate = statistics.mean(flops[: timing.units]) * num_images / timing.per_unit / 1e9
        convolution, product = peaks[benchmark.precisions[name.split()[-1]] if " " in name else torch.float32]
        prepare = timings.get(f"prepare {name.split()[-1]}")
        rows.append(
            {
                "what": name,
                "chromosomes/s": 1 / timing.per_unit,
                "images/s": num_images / timing.per_unit,
                "GFLOP/s": rate,
                "% of convolution peak": 100 * rate / convolution,
                "convolution peak": convolution,
                "% of matmul peak": 100 * rate / product,
                "matmul peak": product,
                "once, images ms": prepare.per_unit * 1e3 if prepare else 0.0,
            }
        )
    return rows


def effect_of_bfloat16(graph: Graph, masks: np.ndarray, images: Images, benchmark: Benchmark) -> dict[str, Any]:
    """How much bfloat16 changes the outputs of one module per class, unit masks (classes, U), and what they decide."""
    classes = list(range(len(masks)))
    exact, rounded = (
        population_outputs(graph, masks, classes, resident(images, benchmark.stage, dtype))
        for dtype in (torch.float32, torch.bfloat16)
    )
    difference = np.abs(rounded - exact)
    decisions = exact.argmax(0), rounded.argmax(0)
    return {
        "bfloat16 - float32, mean": float(difference.mean()),
        "max": float(difference.max()),
        "standard deviation of outputs": float(exact.std()),
        "decisions changed": int((decisions[0] != decisions[1]).sum()),
        "right, float32": int((decisions[0] == images.labels).sum()),
        "right, bfloat16": int((decisions[1] == images.labels).sum()),
        "images": len(images),
    }


if __name__ == "__main__":
    run(main)
