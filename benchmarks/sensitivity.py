"""How fast the sensitivity of all layers is measured, beside a network per layer, ratio and class.

    python benchmarks/sensitivity.py --model simcnn_x0_25 --dataset cifar10

The naive side is given a few points (a layer at a ratio), spread over all. Writes
data/benchmark/MODEL_DATASET/sensitivity.json.
"""

import naive
import numpy as np
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
from subjects import naive_network, resident

from dataset.images import to_device
from dataset.splits import load_split
from models.strong_model import load_strong_model
from modules.kernel_importance import kernel_importance
from modules.layer_sensitivity import layer_sensitivity
from modules.sensitivity import top_ratio_masks
from utils.errors import run

SIZES = {
    "images": Size(2_000, 30, "validation images"),
    "naive_points": Size(3, 1, "points that the naive side is given"),
}


def main() -> None:
    benchmark = open_benchmark(benchmark_parser(__doc__, SIZES).parse_args(), "sensitivity", SIZES)
    stage, config = benchmark.stage, benchmark.stage.config
    graph = load_strong_model(config, stage.artifacts, stage.device)
    network, units, ratios = naive_network(stage, graph), graph.units, config.sensitivity_ratios
    images = load_split(config).valid.first(benchmark.sizes["images"])
    pixels, labels = to_device(images, stage.device)
    importance, _ = kernel_importance(graph, pixels, labels, config.importance_confidence, images.normalisation)
    points = [(layer, index) for layer in units.tied_layers for index in range(len(ratios))]
    count = min(benchmark.sizes["naive_points"], len(points))
    chosen = [points[place] for place in np.linspace(0, len(points), count, endpoint=False, dtype=int) + 1]

    def slow() -> list[float]:
        accuracies = []
        for layer, index in chosen:
            masks = units.spread(top_ratio_masks(importance, units, layer, ratios[index]))
            accuracies.append(naive.composed_accuracy(network, masks, images, stage.device))
        return accuracies

    def fast(name: str) -> Work:
        normalised = resident(images, stage, benchmark.precisions[name])
        return Work(
            lambda: {
                layer: layer_sensitivity(graph, importance, layer, ratios, normalised, images.labels)
                for layer in units.tied_layers
            },
            len(points),
        )

    works = {"naive": Work(slow, count), **{name: fast(name) for name in benchmark.precisions}}
    timings = time_in_turns(works, min(3, benchmark.repetitions), stage.device, warm_up=False)
    curves = {name: timings[name].result for name in benchmark.precisions}
    for (layer, index), accuracy in zip(chosen, timings["naive"].result, strict=True):
        difference = abs(accuracy - float(curves["float32"][layer][index, 1])) * len(images)
        must_agree(difference < 1.5, f"conv {layer} at {ratios[index]} by {difference:.1f} images")  # one may be a tie
    rows = [compare(f"all layers, {name}", "point", timings["naive"], timings[name]) for name in benchmark.precisions]
    for row, name in zip(rows, benchmark.precisions, strict=True):
        row["whole, fast s"] = timings[name].per_unit * len(points)
        row["whole, naive s"] = timings["naive"].per_unit * len(points)
        changes = [abs(curves[name][layer][:, 1] - curves["float32"][layer][:, 1]).max() for layer in curves[name]]
        row["accuracy changed by, max"] = float(max(changes))
    show_rows(
        f"{len(units.tied_layers)} layers x {len(ratios)} ratios, {config.num_classes} classes, {len(images)} "
        f"images; the naive side: {count} points, on which both agree",
        rows,
    )
    save_benchmark(benchmark, {"comparison": rows})


if __name__ == "__main__":
    run(main)
