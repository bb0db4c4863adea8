"""How fast kernel importance is measured, beside one image after the other.

    python benchmarks/importance.py --model simcnn_x0_25 --dataset cifar10

Writes data/benchmark/MODEL_DATASET/importance.json.
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
from subjects import naive_network

from dataset.images import to_device
from dataset.labelled_images import Images
from dataset.splits import load_split
from models.strong_model import load_strong_model
from modules.kernel_importance import kernel_importance
from utils.errors import run

SIZES = {
    "images": Size(10_000, 60, "validation images"),
    "naive_images": Size(500, 30, "of these, those that the naive side is given"),
}
TOLERANCE = 1e-4  # relative


def main() -> None:
    benchmark = open_benchmark(benchmark_parser(__doc__, SIZES).parse_args(), "importance", SIZES)
    stage, config = benchmark.stage, benchmark.stage.config
    graph = load_strong_model(config, stage.artifacts, stage.device)
    network = naive_network(stage, graph)
    images = load_split(config).valid.first(benchmark.sizes["images"])
    part = images.first(benchmark.sizes["naive_images"])

    def fast(some: Images) -> np.ndarray:
        pixels, labels = to_device(some, stage.device)
        return kernel_importance(graph, pixels, labels, config.importance_confidence, some.normalisation)[0]

    def slow() -> np.ndarray:
        single = naive.batches(part, stage.device, batch_size=1)
        confidence = config.importance_confidence
        return naive.kernel_importance(network, single, part.labels, config.num_classes, confidence)[0]

    works = {"naive": Work(slow, len(part)), "fast": Work(lambda: fast(images), len(images))}
    timings = time_in_turns(works, benchmark.repetitions, stage.device)
    agree = np.allclose(timings["naive"].result, fast(part), rtol=TOLERANCE, atol=TOLERANCE)
    must_agree(agree, f"importance on {len(part)} images")
    rows = [compare("importance", "image", timings["naive"], timings["fast"])]
    rows[0]["whole, fast s"] = timings["fast"].per_unit * len(images)
    rows[0]["whole, naive s"] = timings["naive"].per_unit * len(images)
    show_rows(f"on {len(images)} images; the naive side on {len(part)}, on which both agree", rows)
    save_benchmark(benchmark, {"comparison": rows})


if __name__ == "__main__":
    run(main)
