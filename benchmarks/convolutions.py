"""Which of a module's conv layers take the time, and which way of convolving their maps is faster.

Every conv layer of a module that keeps a share of the kernels, with what is done to its maps at once (ReLU, pooling, an
addition), each way on random maps in the order that it wants them: F.conv2d, the banded matrix product of
modules/fast/convolution.py on maps small enough for it, and the compiled library. Needs no images and no strong model.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from measuring import Benchmark, Row, Work, must_agree, time_in_turns
from subjects import untrained_graph
from torch import Tensor

from models.graph import Graph, fold_batch_norm
from models.graph.cutting import Cut
from models.graph.values import Code
from modules.fast.convolution import banded_matrix, convolutions_for, convolve_by_rows, end
from modules.fast.layers import BATCH
from modules.fast.lowering import FusedLayer, fused

__all__ = ["BATCH", "convolution"]

LARGEST_SIDE = 4  # pixels; the banded matrix of larger maps is nearly all zeros
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}  # of the largest output


@torch.no_grad()
def convolution(benchmark: Benchmark) -> dict[str, list[Row]]:
    """Microseconds per image of each conv layer; FLOPs of the definition, those of padding too."""
    graph = fold_batch_norm(untrained_graph(benchmark.stage))
    precisions = benchmark.precisions.items()
    return {"layers": [row for name, d in precisions for row in layer_rows(benchmark, graph.to(dtype=d), name, d)]}


def layer_rows(benchmark: Benchmark, graph: Graph, name: str, dtype: torch.dtype) -> list[Row]:
    """One row for each conv layer."""
    device, images = benchmark.stage.device, benchmark.sizes["images"]
    generator = torch.Generator().manual_seed(benchmark.stage.seed)
    taken = convolutions_for(torch.empty(0, dtype=dtype, device=device))
    rows = []
    for number, layer in enumerate(layers_of(graph, benchmark.sizes["percent"])):

        def random(shape: tuple[int, ...]) -> Tensor:
            drawn = torch.randn(images, *shape[1:], generator=generator)
            return drawn.to(device, dtype, memory_format=torch.channels_last)

        operands = [random(value.shape) for value in (layer.maps, layer.added) if value is not None]
        works = {way: Work(partial(compute, *operands), images) for way, compute in ways_of_torch(layer).items()}
        compiled = taken.layer(layer) if taken.lanes else None
        if compiled is not None:
            works["compiled"] = Work(partial(compiled, *map(taken.place, operands)), images)
        timings = time_in_turns(works, benchmark.repetitions, device)
        results = {way: timing.result for way, timing in timings.items()}
        if compiled is not None:
            results["compiled"] = taken.unplace(results["compiled"], operands[0])
        expected = results["conv2d"].float()
        for way, result in results.items():
            difference = (result.float() - expected).abs().max() / expected.abs().max()
            must_agree(bool(difference <= TOLERANCE[dtype]), f"conv {number}, {way}, in {name}, by {difference:.1e}")
        microseconds = {way: timing.per_unit * 1e6 for way, timing in timings.items()}
        kernels, channels, *sizes = layer.weight.shape
        operations = 2 * channels * kernels * int(np.prod([*sizes, *layer.values[0].shape[2:]]))
        best = min(microseconds, key=microseconds.__getitem__)
        rows.append(
            {
                "precision": name,
                "conv": number,
                "side": layer.maps.shape[2],
                "channels": layer.maps.shape[1],
                "kernels": kernels,
                "conv2d us": microseconds["conv2d"],
                "GFLOP/s": operations / microseconds["conv2d"] / 1e3,
                "banded us": microseconds.get("banded", ""),
                "compiled us": microseconds.get("compiled", ""),
                "best": best,
                "best GFLOP/s": operations / microseconds[best] / 1e3,
                "conv2d / best": microseconds["conv2d"] / microseconds[best],
            }
        )
    return rows


def layers_of(graph: Graph, percent: int) -> list[FusedLayer]:
    """The conv layers of a module that keeps the first kernels of each group."""
    mask = np.zeros(graph.num_units, bool)
    for group in graph.units.groups:
        mask[group.units[: max(1, round(len(group.units) * percent / 100))]] = True
    logits = Cut(graph.plan, Code(), graph.units.repair(mask), 0).run()
    return list(fused([logits])[1].values())


def ways_of_torch(layer: FusedLayer) -> dict[str, Callable[..., Tensor]]:
    """How torch convolves the layer's maps."""
    weight, bias = layer.weight.compute(), None if layer.bias is None else layer.bias.compute()
    geometry = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation, "groups": layer.groups}
    last = weight.contiguous(memory_format=torch.channels_last)
    ways = {"conv2d": partial(F.conv2d, weight=last, bias=bias, **geometry)}
    side = layer.maps.shape[2]
    if layer.is_three_by_three and side <= LARGEST_SIDE:
        row_bias = None if bias is None else bias.repeat(side)
        ways["banded"] = partial(convolve_by_rows, matrix=banded_matrix(weight, side), bias=row_bias)

    def ended(convolve: Callable[..., Tensor]) -> Callable[..., Tensor]:
        ending = layer.relu, layer.relu_of_sum, layer.pool
        return lambda maps, added=None: end(convolve(maps), added, *ending)

    return {way: ended(convolve) for way, convolve in ways.items()}
