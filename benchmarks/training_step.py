"""How fast a training epoch is, beside a DataLoader with Pillow transforms and a plain loop.

    python benchmarks/training_step.py --model simcnn_x0_25 --dataset cifar10
    python benchmarks/training_step.py --model simcnn_x0_25 --dataset cifar10 --compile

One epoch on some of the training images, from the same first weights on both sides, validation not counted. Writes
data/benchmark/MODEL_DATASET/training_step.json.
"""

import dataclasses
import math

import naive
import torch
from measuring import (
    Size,
    Timing,
    benchmark_parser,
    compare,
    must_agree,
    open_benchmark,
    save_benchmark,
    show_rows,
)
from torch import nn

from dataset.splits import load_split
from models.strong_model import build_strong_network, strong_model_training
from models.training import train
from utils.errors import run
from utils.seeds import torch_seed

SIZES = {
    "images": Size(6_400, 64, "training images"),
    "valid_images": Size(500, 10, "validation images, whose evaluation is not counted"),
}


def main() -> None:
    parser = benchmark_parser(__doc__, SIZES)
    parser.add_argument("--compile", action="store_true", help="also through torch.compile; takes minutes")
    arguments = parser.parse_args()
    benchmark = open_benchmark(arguments, "training_step", SIZES)
    stage, config = benchmark.stage, benchmark.stage.config
    split = load_split(config)
    images = split.train.first(benchmark.sizes["images"])
    valid = split.valid.first(benchmark.sizes["valid_images"])
    settings = dataclasses.replace(
        strong_model_training(config),
        epochs=1,
        schedule="step",
        batch_size=min(config.batch_size, len(images)),
        learning_rate=config.learning_rate / 10,  # that of the first steps of a schedule that rises
    )

    def untrained(memory_format: torch.memory_format) -> nn.Module:
        torch.manual_seed(torch_seed(stage.seed, "initial weights"))
        return build_strong_network(config).to(stage.device, memory_format=memory_format)

    def slow() -> tuple[float, float]:
        model = untrained(torch.contiguous_format)
        return naive.train(model, images, settings, stage.device, stage.seed)[0]

    def fast(dtype: torch.dtype, compiled: bool) -> tuple[float, float]:
        # A compiled step is compiled in the first of two epochs; the second one counts.
        epochs = dataclasses.replace(settings, epochs=2) if compiled else settings
        training = train(
            untrained(torch.channels_last),
            images,
            valid,
            epochs,
            device=stage.device,
            dtype=dtype,
            seed=stage.seed,
            compiled=compiled,
        )
        return training.history[0].train_loss, training.history[-1].seconds

    ways = {"naive": slow, **{name: lambda d=dtype: fast(d, False) for name, dtype in benchmark.precisions.items()}}
    if arguments.compile:
        ways |= {f"{name}, compiled": lambda d=dtype: fast(d, True) for name, dtype in benchmark.precisions.items()}
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for turn in range(benchmark.repetitions + 1):  # the first one warms up
        for name, way in ways.items():
            result = way()
            if turn > 0:
                measured[name].append(result)
    steps = math.ceil(len(images) / settings.batch_size)
    timings = {name: Timing(tuple(seconds for _, seconds in runs), steps, None) for name, runs in measured.items()}
    rows = [compare(name, "step", timings["naive"], timings[name]) for name in ways if name != "naive"]
    for row in rows:
        row["images/s"] = settings.batch_size / timings[row["what"]].per_unit
        row["loss"] = measured[row["what"]][-1][0]
        row["naive loss"] = measured["naive"][-1][0]
        must_agree(abs(row["loss"] - row["naive loss"]) < 0.25 * row["naive loss"], "the loss of the first epoch")
    show_rows(f"{steps} steps of {settings.batch_size} images", rows)
    save_benchmark(benchmark, {"comparison": rows})


if __name__ == "__main__":
    run(main)
