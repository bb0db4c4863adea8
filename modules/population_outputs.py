"""What a population of modules answers: one function from (graph, unit masks, images) to outputs.

No network is built per chromosome. Every module is cut out of the graph, with the target class's logit alone, into the
same straight-line code, in which what several modules have in common is one value: the maps up to where their masks
part, and whatever else they share. The code runs batch by batch, and each value in it is computed once.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dataset.images import PreparedImages
from models.graph import Graph, fold_batch_norm
from models.graph.cutting import Cut
from models.graph.values import Code, Constant, Value
from modules.fast.convolution import convolutions_for
from modules.fast.lowering import Convolutions, Lowering, layer_of
from utils.device import each_on_a_core, keep_freed_memory
from utils.progress import progress, say

WEIGHT_BYTES = 512 * 2**20  # sliced weights held at a time; larger populations run in several parts


@dataclass
class Part:
    """Modules that run together."""

    rows: list[int] = field(default_factory=list)  # their places in the population
    logits: list[Value] = field(default_factory=list)


def population_outputs(
    graph: Graph,
    unit_masks: np.ndarray,
    target_classes: Sequence[int],
    images: Tensor | PreparedImages,
    batch_size: int | None = None,
    batches: Sequence[slice] | None = None,
) -> np.ndarray:
    """Each module's target-class logit on each image.

    Args:
        graph: the strong model; its weights are cast to the images' dtype.
        unit_masks: (modules, U) bool, True = kept; nothing that is read may be left without channels.
        target_classes: (modules,) the class whose logit each module is trusted for.
        images: (n, channels, side, side) normalised, channels-last, on the model's device; float32 or bfloat16. A
            batch of them is a slice.
        batch_size: images at a time; None = what the way to compute is best with, within a bound on memory.
        batches: of `image_batches`, consecutive ones; None = all.

    Returns (modules, n) float32, n being the images of the batches. A module's outputs do not depend on which others
    are evaluated with it.
    Raises ValueError for a mask or class that does not fit.
    """
    keep_freed_memory()
    folded = _prepared(graph, images.dtype)
    outputs = torch.empty(len(unit_masks), len(images), dtype=torch.float32, device=images.device)
    way = convolutions_for(images)
    batches = image_batches(graph, images, batch_size) if batches is None else batches
    for part in _parts(folded, np.asarray(unit_masks), target_classes, way, images.itemsize):
        with torch.inference_mode():
            lowered = Lowering(part.logits, way)

        def run_batch(batch: slice, part: Part = part, lowered: Lowering = lowered) -> None:
            with torch.inference_mode():  # of this thread
                for row, logit in zip(part.rows, lowered.program.run(images[batch]), strict=True):
                    outputs[row, batch] = logit[:, 0].float()

        done = each_on_a_core(run_batch, batches, images.device)
        for _ in progress(done, f"{len(part.rows)} modules, {len(images):,} images, batches", len(batches)):
            pass  # each batch has written its outputs
    if batches:
        return outputs[:, batches[0].start : batches[-1].stop].cpu().numpy()
    return outputs[:, :0].cpu().numpy()


def image_batches(graph: Graph, images: Tensor | PreparedImages, batch_size: int | None = None) -> list[slice]:
    """The batches that `population_outputs` runs of images (n, ...): the same, whoever runs which of them."""
    if batch_size is None:
        batch_size = convolutions_for(images).batch_size(_largest_map(_prepared(graph, images.dtype)))
    return [slice(start, min(start + batch_size, len(images))) for start in range(0, len(images), batch_size)]


def outputs_with_known(
    graph: Graph,
    unit_masks: np.ndarray,
    target_class: int,
    images: Tensor | PreparedImages,
    known: tuple[np.ndarray, np.ndarray] | None,
) -> tuple[np.ndarray, int]:
    """The target class's logits (population, n) float32 of all unit masks, and how many modules had to run.

    Args:
        graph: the strong model.
        unit_masks: (population, U) bool, True = kept.
        target_class: whose logit the modules are trusted for.
        images: (n, channels, side, side) normalised, on the model's device.
        known: unit masks (m, U) and their outputs (m, n), or None.
    """
    outputs_of, new = known_and_new(unit_masks, known)
    if len(new):
        fresh = population_outputs(graph, new, [target_class] * len(new), images)
        outputs_of.update(zip(map(np.ndarray.tobytes, new), fresh, strict=True))
    return np.stack([outputs_of[mask.tobytes()] for mask in unit_masks]), len(new)


def known_and_new(
    unit_masks: np.ndarray, known: tuple[np.ndarray, np.ndarray] | None
) -> tuple[dict[bytes, np.ndarray], np.ndarray]:
    """The known outputs (n,) by the bytes of their mask, and the masks (new, U) without, each once, in their order."""
    outputs_of = {}
    if known is not None:
        outputs_of = {mask.tobytes(): outputs for mask, outputs in zip(*known, strict=True)}
    new = {mask.tobytes(): mask for mask in unit_masks if mask.tobytes() not in outputs_of}
    return outputs_of, np.array(list(new.values()), bool).reshape(len(new), unit_masks.shape[1])


def say_what_torch_runs(graph: Graph, dtype: torch.dtype, device: torch.device) -> None:
    """Print, once, which operators of the network have no compiled form, if the others have one."""
    way = convolutions_for(torch.empty(0, dtype=dtype, device=device))
    if way.lanes:
        folded = _prepared(graph.to(device), dtype)
        with torch.inference_mode():
            logits = Cut(folded.plan, Code(), np.ones(graph.num_units, bool), 0).run()
            names = Lowering([logits], way).left_to_torch
        if names:
            _say_once(f"no compiled form, so that modules take longer: {', '.join(sorted(names))}")


@functools.cache
def _say_once(line: str) -> None:
    say(line)


@functools.lru_cache(maxsize=2)
def _prepared(graph: Graph, dtype: torch.dtype) -> Graph:
    """The graph with batch norm folded, and with weights of a dtype that are fast to slice.

    It is kept for the next population: folding takes as long as some images of a small network.
    """
    cast = fold_batch_norm(graph).to(dtype=dtype)
    return cast.with_constants({name: value.contiguous() for name, value in cast.constants.items()})


def _largest_map(graph: Graph) -> int:
    """How many values an image's largest map has in the whole network."""
    shapes: list[Any] = [value.shape for value in graph.values if value.target is not None]
    return max(math.prod(map(int, shape[1:])) for shape in shapes if isinstance(shape, tuple) and len(shape) == 4)


def _parts(
    graph: Graph, unit_masks: np.ndarray, target_classes: Sequence[int], way: Convolutions, value_bytes: int
) -> Iterator[Part]:
    """The population's modules, those with equal beginnings beside each other, in parts whose weights fit in memory."""
    code, part, held = Code(), Part(), 0
    for row in np.lexsort(unit_masks.T[::-1]).tolist():
        graph.check(unit_masks[row], target_classes[row])
        num_values = len(code.values)
        part.logits.append(Cut(graph.plan, code, unit_masks[row].astype(bool), target_classes[row]).run())
        part.rows.append(row)
        held += sum(_num_weights(value, way) for value in code.values[num_values:]) * value_bytes
        if held > WEIGHT_BYTES:
            yield part
            code, part, held = Code(), Part(), 0
    if part.rows:
        yield part


def _num_weights(value: Value, way: Convolutions) -> int:
    """How many numbers are held for a value: those of conv layers in the way's own form."""
    if isinstance(value, Constant):
        return 0 if len(value.shape) == 4 else math.prod(value.shape)
    layer = layer_of(value)
    return 0 if layer is None else way.num_weights(layer)
