"""Which of a module's conv layers take the time, and which way of convolving their maps is faster.

    python benchmarks/convolution.py --model simcnn_x0_25 --dataset cifar10 --threads 1

Every conv layer with random weights and a share of its kernels, with its ReLU and its pooling, each way on the maps in
the order that it wants them: F.conv2d, the banded matrix product of utils/convolution.py on maps small enough for it,
and minimal filtering. Needs no images and no strong model. Writes data/benchmark/MODEL_DATASET/convolution.json.
"""

import itertools
from functools import partial

import torch
import torch.nn.functional as F
from measuring import (
    Size,
    Work,
    benchmark_parser,
    convolution_peak,
    must_agree,
    open_benchmark,
    save_benchmark,
    show_rows,
    time_in_turns,
)
from models.cnn import IMAGE_CHANNELS

from models.registry import architecture_of
from modules.fast.convolution import banded_matrix, convolutions_for, convolve_by_rows, relu
from modules.fast.winograd import BATCH, MinimalFiltering
from utils.errors import run

SIZES = {
    "percent": Size(65, 65, "of its kernels that each layer keeps"),
    "images": Size(BATCH, 32, "in a batch"),
}
LARGEST_SIDE = 4  # pixels; the banded matrix of larger maps is nearly all zeros
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}  # of the largest output


@torch.inference_mode()
def main() -> None:
    benchmark = open_benchmark(benchmark_parser(__doc__, SIZES).parse_args(), "convolution", SIZES)
    device = benchmark.stage.device
    architecture = architecture_of(benchmark.stage.config.model)
    images = benchmark.sizes["images"]
    widths = [max(1, round(kernels * benchmark.sizes["percent"] / 100)) for kernels in architecture.num_kernels]
    generator = torch.Generator().manual_seed(benchmark.stage.seed)
    rows = []
    for name, dtype in benchmark.precisions.items():
        peak = convolution_peak(benchmark, dtype)
        taken = convolutions_for(torch.empty(0, dtype=dtype, device=device))

        def random(*shape: int, dtype: torch.dtype = dtype) -> torch.Tensor:
            return torch.randn(*shape, generator=generator).to(device, dtype)

        for layer, (channels, kernels) in enumerate(itertools.pairwise([IMAGE_CHANNELS, *widths])):
            side, pool = architecture.sides[layer], architecture.convs[layer].pool
            maps, weight = (
                random(*shape).contiguous(memory_format=torch.channels_last)
                for shape in ((images, channels, side, side), (kernels, channels, 3, 3))
            )
            bias = random(kernels)
            ways = {"conv2d": partial(F.conv2d, maps, weight, bias, padding=1)}
            if side <= LARGEST_SIDE:
                ways["banded"] = partial(convolve_by_rows, maps, banded_matrix(weight, side), bias.repeat(side))
            works = {way: Work(lambda c=convolve, p=pool: relu(c(), pool=p), images) for way, convolve in ways.items()}
            if isinstance(taken, MinimalFiltering):
                works["filtered"] = Work(partial(taken.layer(weight, bias, side, pool=pool), taken.place(maps)), images)
            timings = time_in_turns(works, benchmark.repetitions, device)
            results = {way: timing.result for way, timing in timings.items()}
            if "filtered" in results:
                results["filtered"] = taken.features(results["filtered"], images).view_as(results["conv2d"])
            expected = results["conv2d"].float()
            for way, result in results.items():
                difference = (result.float() - expected).abs().max() / expected.abs().max()
                must_agree(bool(difference <= TOLERANCE[dtype]), f"conv {layer}, {way}, in {name}, by {difference:.1e}")
            microseconds = {way: timing.per_unit * 1e6 for way, timing in timings.items()}
            operations = 2 * 9 * channels * kernels * side**2
            best = min(microseconds, key=microseconds.__getitem__)
            rows.append(
                {
                    "precision": name,
                    "conv": layer,
                    "side": side,
                    "channels": channels,
                    "kernels": kernels,
                    "conv2d us": microseconds["conv2d"],
                    "GFLOP/s": operations / microseconds["conv2d"] / 1e3,
                    "banded us": microseconds.get("banded", ""),
                    "filtered us": microseconds.get("filtered", ""),
                    "best": best,
                    "best GFLOP/s": operations / microseconds[best] / 1e3,
                    "conv2d's peak": peak,
                    "conv2d / best": microseconds["conv2d"] / microseconds[best],
                }
            )
    show_rows("microseconds per image, with ReLU and pooling; FLOPs of the definition, those of padding too", rows)
    save_benchmark(benchmark, {"layers": rows})


if __name__ == "__main__":
    run(main)
