"""How fast a step of the gradient search gets its gradient, beside ten masked networks one after the other.

    python benchmarks/mask_gradient.py --model simcnn_x0_25 --dataset cifar10

Writes data/benchmark/MODEL_DATASET/mask_gradient.json.
"""

import naive
import torch
import torch.nn.functional as F
from measuring import (
    Size,
    Work,
    benchmark_parser,
    compare,
    exact_results,
    must_agree,
    open_benchmark,
    save_benchmark,
    show_rows,
    time_in_turns,
)
from subjects import model_to_measure
from torch import Tensor

from dataset.images import normalise, to_device
from dataset.splits import load_split
from modules.masked_modules import freeze, mask_gradient
from utils.core_threads import core_threads
from utils.errors import run

SIZES = {"images": Size(64, 8, "training images of the step"), "steps": Size(4, 1, "steps at a time")}
TOLERANCE = 1e-2  # of the largest gradient; rounding decides which of two nearly equal values is pooled
KEPT = 0.7  # of the units, at random


def main() -> None:
    parser = benchmark_parser(__doc__, SIZES)
    parser.add_argument("--untrained", action="store_true", help="random weights in place of the strong model's")
    arguments = parser.parse_args()
    benchmark = open_benchmark(arguments, "mask_gradient", SIZES)
    stage, steps = benchmark.stage, benchmark.sizes["steps"]
    graph = model_to_measure(stage, untrained=arguments.untrained)
    images = load_split(stage.config).train.first(benchmark.sizes["images"])
    pixels, labels = to_device(images, stage.device)
    generator = torch.Generator().manual_seed(stage.seed)
    random = torch.rand(graph.num_classes, graph.num_units, generator=generator)
    masks = (random < KEPT).float().to(stage.device)

    def loss(logits: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels)

    with core_threads(stage.device) as workers:

        def fast(dtype: torch.dtype) -> Tensor:
            frozen = freeze(graph, dtype)
            for _ in range(steps):
                _, gradient = mask_gradient(
                    frozen, normalise(pixels, images.normalisation, dtype), masks, loss, workers
                )
            return gradient

        def slow() -> Tensor:
            for _ in range(steps):
                (batch,) = naive.batches(images, stage.device, len(images))
                _, gradient = naive.mask_gradient(graph, batch, masks, loss)
            return gradient

        works = {
            "naive": Work(slow, steps),
            **{name: Work(lambda d=dtype: fast(d), steps) for name, dtype in benchmark.precisions.items()},
        }
        timings = time_in_turns(works, benchmark.repetitions, stage.device)
        exact = exact_results(works, timings, stage.device, "naive", "float32")
    expected, found = exact["naive"], exact["float32"]
    agree = bool((expected - found).abs().max() <= TOLERANCE * expected.abs().max())
    must_agree(agree, "the gradient of the masks")
    rows = [
        compare(f"gradient of all masks, {name}", "step", timings["naive"], timings[name])
        for name in benchmark.precisions
    ]
    show_rows(f"{len(images)} images a step, {len(masks)} modules", rows)
    save_benchmark(benchmark, {"comparison": rows})


if __name__ == "__main__":
    run(main)
