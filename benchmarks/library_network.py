"""How fast a module of a library's network runs when it is cut and compiled, beside the whole network with masks.

    python benchmarks/library_network.py --model simcnn_x0_25 --dataset cifar10 --threads 1

torchvision's ResNet-18 with random weights, as it is and with the first layers that are usual for small images. Random
images of the dataset's size, and a random mask that keeps a share of the units. The naive side multiplies maps by the
mask, with batch norm folded and channels-last. `cut` is the smaller network in torch. The fast side's time has that to
cut and to lay out weights in it. Writes data/benchmark/MODEL_DATASET/library_network.json.
"""

import numpy as np
import torch
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
from torch import Tensor, nn

from models.graph import Graph, fold_batch_norm, trace
from models.names import network_of
from modules.population_outputs import population_outputs, say_what_torch_runs
from utils.errors import run
from utils.random_weights import randomise

SIZES = {
    "percent": Size(60, 60, "of the units that the mask keeps"),
    "images": Size(1_000, 20, "images"),
}
NETWORK = "torchvision:resnet18"
BATCH = 128
TOLERANCE = 1e-4  # of the largest output


@torch.no_grad()
def main() -> None:
    benchmark = open_benchmark(benchmark_parser(__doc__, SIZES).parse_args(), "library_network", SIZES)
    config, device = benchmark.stage.config, benchmark.stage.device
    generator = torch.Generator().manual_seed(benchmark.stage.seed)
    images = torch.randn(benchmark.sizes["images"], 3, config.image_side, config.image_side, generator=generator)
    images = images.to(device, memory_format=torch.channels_last)
    rows = []
    for stem in ("as it is", "for small images"):
        graph = traced(config.num_classes, config.image_side, is_for_small_images=stem != "as it is").to(device)
        say_what_torch_runs(graph, images.dtype, device)
        random = np.random.default_rng(benchmark.stage.seed).random(graph.num_units)
        mask = graph.units.repair(random < benchmark.sizes["percent"] / 100)
        folded = channels_last(fold_batch_norm(graph))
        cut = folded.cut(mask, 0).to(memory_format=torch.channels_last)
        factors = torch.as_tensor(mask).to(images)

        def masked(folded: Graph = folded, factors: Tensor = factors) -> np.ndarray:
            logits = [folded.forward(batch, factors)[:, 0] for batch in images.split(BATCH)]
            return torch.cat(logits).cpu().numpy()

        def run_cut(cut: nn.Module = cut) -> np.ndarray:
            return torch.cat([cut(batch)[:, 0] for batch in images.split(BATCH)]).cpu().numpy()

        def fast(graph: Graph = graph, mask: np.ndarray = mask) -> np.ndarray:
            return population_outputs(graph, mask[None], [0], images)[0]

        works = {
            way: Work(work, len(images)) for way, work in (("masked", masked), ("cut", run_cut), ("compiled", fast))
        }
        timings = time_in_turns(works, benchmark.repetitions, device)
        expected = timings["masked"].result
        for way, timing in timings.items():
            difference = float(np.abs(timing.result - expected).max() / np.abs(expected).max())
            must_agree(difference <= TOLERANCE, f"{way}, {stem}, by {difference:.1e}")
        row = compare(f"ResNet-18 {stem}", "image", timings["masked"], timings["compiled"])
        rows.append({**row, "cut ms": timings["cut"].per_unit * 1e3})
    show_rows(f"one module with {benchmark.sizes['percent']} % of the units", rows)
    save_benchmark(benchmark, {"comparison": rows})


def channels_last(graph: Graph) -> Graph:
    """The graph with its convolutions' weights channels-last."""
    formats = {4: torch.channels_last}
    constants = {
        name: value.contiguous(memory_format=formats.get(value.dim(), torch.contiguous_format))
        for name, value in graph.constants.items()
    }
    return graph.with_constants(constants)


def traced(num_classes: int, image_side: int, *, is_for_small_images: bool) -> Graph:
    """The network's graph with random weights."""
    network = network_of(NETWORK, num_classes)
    if is_for_small_images:
        network.conv1 = nn.Conv2d(3, network.conv1.out_channels, 3, padding=1, bias=False)
        network.maxpool = nn.Identity()
    randomise(network, image_side)
    return trace(network, image_side)


if __name__ == "__main__":
    run(main)
