"""Whether the fast training is as good as the plain one: the same training from several seeds, on both sides.

    python benchmarks/training_accuracy.py --model simcnn_x0_25 --dataset digits

All sides begin with the same first weights of each seed; the weights after the last epoch count.
Writes data/benchmark/MODEL_DATASET/training_accuracy.json.
"""

import dataclasses
import statistics
from collections.abc import Callable

import naive
import torch
from measuring import Size, benchmark_parser, open_benchmark, save_benchmark, show_rows
from torch import nn

from dataset.splits import load_split
from models.strong_model import build_strong_network, strong_model_training
from models.training import count_right, predict, train
from utils.errors import run
from utils.seeds import torch_seed

SIZES = {
    "seeds": Size(3, 2, "trainings of each kind"),
    "epochs": Size(30, 1, "epochs of each"),
    "images": Size(50_000, 64, "training images at the most"),
}


def main() -> None:
    benchmark = open_benchmark(benchmark_parser(__doc__, SIZES).parse_args(), "training_accuracy", SIZES)
    stage, config, sizes = benchmark.stage, benchmark.stage.config, benchmark.sizes
    split = load_split(config)
    images = split.train.first(sizes["images"])
    settings = dataclasses.replace(strong_model_training(config), epochs=sizes["epochs"])

    def slow(model: nn.Module, seed: int) -> None:
        naive.train(model, images, settings, stage.device, seed)

    def fast(dtype: torch.dtype) -> Callable[[nn.Module, int], None]:
        def train_fast(model: nn.Module, seed: int) -> None:
            model.to(memory_format=torch.channels_last)
            train(model, images, split.valid, settings, device=stage.device, dtype=dtype, seed=seed)

        return train_fast

    ways = {"naive": slow, **{name: fast(dtype) for name, dtype in benchmark.precisions.items()}}
    rows = []
    for what, train_one in ways.items():
        right = []
        for seed in range(sizes["seeds"]):
            torch.manual_seed(torch_seed(seed, "initial weights"))
            model = build_strong_network(config).to(stage.device)
            train_one(model, seed)
            right.append(count_right(predict(model.eval(), split.test, stage.device), split.test.labels))
            print(f"{what}, seed {seed}: {right[-1]} of {len(split.test)} test images right", flush=True)
        rows.append(
            {
                "what": what,
                "mean %": 100 * statistics.mean(right) / len(split.test),
                **{f"seed {seed}": count for seed, count in enumerate(right)},
                "test images": len(split.test),
            }
        )
    show_rows(f"test images that are right after {settings.epochs} epochs on {len(images)} images", rows)
    save_benchmark(benchmark, {"accuracy": rows})


if __name__ == "__main__":
    run(main)
