"""Which of a module's conv layers take the time, and which way of convolving their maps is faster.

    python experiments/benchmark/convolution.py --model simcnn_x0_25 --dataset cifar10 --threads 1

Every conv layer but the first one, with random weights and a share of its kernels, on a batch of the size that the
search takes: F.conv2d, the banded matrix product of utils/convolution.py on maps small enough for it, and minimal
filtering. Needs no images and no strong model. Writes data/benchmark/MODEL_DATASET/convolution.json.
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

from models.population_outputs import default_batch_size
from models.registry import architecture_of
from utils.convolution import banded_matrix, convolve_by_rows, way_of
from utils.errors import run
from utils.minimal_filtering import MinimalConvolution, filtering_of

SIZES = {"percent": Size(65, 65, "of its kernels that each layer keeps")}
LARGEST_SIDE = 4  # pixels; the banded matrix of larger maps is nearly all zeros
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}  # of the largest output


@torch.inference_mode()
def main() -> None:
    benchmark = open_benchmark(benchmark_parser(__doc__, SIZES).parse_args(), "convolution", SIZES)
    device = benchmark.stage.device
    architecture = architecture_of(benchmark.stage.config.model)
    images = default_batch_size(architecture)
    widths = [max(1, round(kernels * benchmark.sizes["percent"] / 100)) for kernels in architecture.num_kernels]
    generator = torch.Generator().manual_seed(benchmark.stage.seed)
    rows = []
    for name, dtype in benchmark.precisions.items():
        peak = convolution_peak(benchmark, dtype)

        def random(*shape: int, dtype: torch.dtype = dtype) -> torch.Tensor:
            return torch.randn(*shape, generator=generator).to(device, dtype)

        for layer, (channels, kernels) in enumerate(itertools.pairwise(widths), start=1):
            side = architecture.sides[layer]
            maps, weight = (
                random(*shape).contiguous(memory_format=torch.channels_last)
                for shape in ((images, channels, side, side), (kernels, channels, 3, 3))
            )
            bias = random(kernels)
            works = {"conv2d": Work(partial(F.conv2d, maps, weight, bias, padding=1), images)}
            if side <= LARGEST_SIDE:
                matrix = banded_matrix(weight, side)
                works["banded"] = Work(partial(convolve_by_rows, maps, matrix, bias.repeat(side)), images)
            if dtype == torch.float32 and filtering_of(side):
                works["filtered"] = Work(partial(MinimalConvolution(weight, bias, side), maps), images)
            timings = time_in_turns(works, benchmark.repetitions, device)
            expected = timings["conv2d"].result.float()
            for way, timing in timings.items():
                difference = (timing.result.float() - expected).abs().max() / expected.abs().max()
                must_agree(bool(difference <= TOLERANCE[dtype]), f"conv {layer}, {way}, in {name}, by {difference:.1e}")
            microseconds = {way: timing.per_unit * 1e6 for way, timing in timings.items()}
            taken = way_of(kernels, channels, side, weight)
            rate = 2 * 9 * channels * kernels * side**2 / microseconds["conv2d"] / 1e3
            rows.append(
                {
                    "precision": name,
                    "conv": layer,
                    "side": side,
                    "channels": channels,
                    "kernels": kernels,
                    "conv2d us": microseconds["conv2d"],
                    "GFLOP/s": rate,
                    "% of peak": 100 * rate / peak,
                    "banded us": microseconds.get("banded", ""),
                    "filtered us": microseconds.get("filtered", ""),
                    "search takes": taken,
                    "conv2d / taken": microseconds["conv2d"] / microseconds[taken],
                }
            )
    show_rows("microseconds per image; a FLOP of padding is counted too", rows)
    save_benchmark(benchmark, {"layers": rows})


if __name__ == "__main__":
    run(main)
