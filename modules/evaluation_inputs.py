"""What a worker needs to evaluate modules, as plain data: it has no files of the search, and no code of the user's run.

The network is traced again where the modules run, from its name; the weights and images come from the driver, once.
"""

import functools
import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from torch import Tensor

from configures.base import Config
from dataset.images import Images, Normalisation, PreparedImages, prepared
from dataset.pixels import PixelsInFile, PixelsOnDisk
from models.graph import Graph
from models.strong_model import untrained_graph
from modules.fast.compiled import compiler
from modules.fast.convolution import can_be_compiled
from modules.population_outputs import image_batches, population_outputs
from utils.device import PRECISIONS, precision_name
from utils.errors import UserError


@dataclass(frozen=True)
class StrongInputs:
    """The strong model. Equal ones have equal digests."""

    digest: str
    network: tuple[str, int, int] = field(compare=False)  # its name, classes and image side
    graph_digest: str = field(compare=False)
    weights: Mapping[str, np.ndarray] = field(compare=False)  # and other constants


@dataclass(frozen=True)
class EvaluationInputs(StrongInputs):
    """The strong model and the images. Equal ones have equal digests."""

    pixels: np.ndarray | PixelsInFile = field(compare=False)  # (n, side, side, 3) uint8
    normalisation: Normalisation | None = field(compare=False)
    precision: str = field(compare=False)
    # Whether our own C++ convolves, whose sums have another order than torch's.
    is_compiled: bool = field(compare=False)

    @property
    def images(self) -> Images:
        """The images, without their labels."""
        pixels = self.pixels.opened() if isinstance(self.pixels, PixelsInFile) else self.pixels
        return Images(cast(np.ndarray, pixels), np.zeros(len(pixels), np.int64), self.normalisation)


def strong_inputs(config: Config, strong: Graph) -> StrongInputs:
    """What workers make the strong model of, where each task brings images of its own."""
    weights = {name: value.cpu().contiguous().numpy() for name, value in strong.constants.items()}
    network = (config.network_name, config.num_classes, config.image_side)
    digest = hashlib.sha256(strong.digest.encode())
    for name, value in weights.items():
        digest.update(name.encode() + value.tobytes())
    return StrongInputs(digest.hexdigest(), network, strong.digest, weights)


def evaluation_inputs(
    config: Config, strong: Graph, images: Images, dtype: torch.dtype, *, is_on_this_machine: bool = False
) -> EvaluationInputs:
    """What workers evaluate modules of the strong model on these images with.

    Workers on this machine read pixels that stay on the disk there themselves.
    """
    model, pixels = strong_inputs(config, strong), images.pixels
    return EvaluationInputs(
        f"{model.digest} {images.fingerprint} {precision_name(dtype)}",
        model.network,
        model.graph_digest,
        model.weights,
        pixels.in_file() if is_on_this_machine and isinstance(pixels, PixelsOnDisk) else np.ascontiguousarray(pixels),
        images.normalisation,
        precision_name(dtype),
        _is_compiled(dtype, torch.device("cpu")),
    )


def outputs_on_worker(
    inputs: EvaluationInputs,
    device: str,
    unit_masks: np.ndarray,
    target_classes: Sequence[int],
    block: tuple[int, int] = (0, 1),
) -> tuple[np.ndarray, int, float]:
    """A task: the outputs (modules, images) of `population_outputs` on a block of the images.

    Args:
        inputs: the strong model and the images.
        device: the worker's.
        unit_masks, target_classes: the modules.
        block: which of how many blocks, cut where batches end, so that each image is in the same batch as ever.

    Returns the outputs float32, the place of the block's first image, and the seconds that it took. Raises UserError
    where the worker's machine would compute something else than the driver's.
    """
    graph, images = _prepared(inputs, device)
    start = time.perf_counter()
    batches, (number, count) = image_batches(graph, images), block
    batches = batches[len(batches) * number // count : len(batches) * (number + 1) // count]
    outputs = population_outputs(graph, unit_masks, target_classes, images, batches=batches)
    return outputs, batches[0].start if batches else 0, time.perf_counter() - start


@functools.lru_cache(maxsize=1)
def _prepared(inputs: EvaluationInputs, device_name: str) -> tuple[Graph, Tensor | PreparedImages]:
    """The strong model's graph, and the images as it is given them, on the worker's device."""
    device, dtype = torch.device(device_name), PRECISIONS[inputs.precision]
    if device.type == "cpu" and _is_compiled(dtype, device) != inputs.is_compiled:
        with_compiler, without = ("here", "there") if inputs.is_compiled else ("there", "here")
        raise UserError(
            f"a C++ compiler is {with_compiler} and not {without}, so that sums would differ: install one, "
            "or set CXX= to nothing on both sides"
        )
    return graph_on_worker(inputs, device), prepared(inputs.images, device, dtype)


@functools.lru_cache(maxsize=1)
def strong_on_worker(inputs: StrongInputs, device_name: str) -> Graph:
    """The strong model as `load_strong_model` gives it, channels-last, on the worker's device."""
    return graph_on_worker(inputs, torch.device(device_name)).channels_last()


def graph_on_worker(inputs: StrongInputs, device: torch.device) -> Graph:
    """The strong model's graph, on the worker's device. Raises UserError if its code is another one there."""
    graph = untrained_graph(*inputs.network)
    if graph.digest != inputs.graph_digest:
        raise UserError(f"network {inputs.network[0]} has another graph there than here: bring the same code to it")
    constants = {name: torch.tensor(value, device=device) for name, value in inputs.weights.items()}
    return graph.with_constants(constants)


def _is_compiled(dtype: torch.dtype, device: torch.device) -> bool:
    return can_be_compiled(dtype, device) and compiler() is not None
