"""How important each kernel is for each class: the mean L1 norm of its feature map on the class's confident images.

Confident images are those classified correctly with a softmax of at least `confidence`.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dataset.images import Images, Normalisation, normalise, to_device
from engines.engine import Engine, in_order
from models import files as model_files
from models.evaluation import EVALUATION_BATCH
from models.graph import Graph, Units, unit_norms
from modules import files as module_files
from modules.evaluation_inputs import StrongInputs, strong_on_worker
from utils.artifacts import Artifacts
from utils.device import each_on_a_core, float64_device
from utils.errors import UserError
from utils.estimate import estimated
from utils.files import sha256_of
from utils.progress import progress

BLOCK = 4  # batches of images that are one task of an engine


def confident_images(logits: Tensor, labels: Tensor, confidence: float) -> Tensor:
    """(n,) bool: images that the model assigns to their own class with a softmax of at least `confidence`."""
    largest, assigned = logits.float().softmax(1).max(1)
    return (assigned == labels) & (largest >= confidence)


def kernel_importance(
    graph: Graph,
    pixels: Tensor,
    labels: Tensor,
    confidence: float,
    normalisation: Normalisation | None,
) -> tuple[np.ndarray, list[int]]:
    """Importance of every kernel for every class, in one pass over the images.

    Per class: the mean, over its confident images, of the L1 norm of each kernel's feature map, where the first layer
    behind it reads it, before pooling; for layers whose maps are added, of the sum, which all of them share (Qi et al.,
    ASE 2022, section 3.1). A class without a confident image uses all of its images.

    Args:
        graph: the strong model.
        pixels, labels: (n, side, side, 3) uint8 and (n,) int64 validation images, on the model's device.
        confidence: the least softmax of a confident image.
        normalisation: of the images.

    Returns importance (classes, K) float32, 0 of kernels that are always kept, and the number of confident images per
    class. The number of threads does not change a bit of it.
    """

    def measure(start: int) -> BatchSums:
        batch = slice(start, start + EVALUATION_BATCH)
        return _batch_sums(graph, pixels[batch], labels[batch], confidence, normalisation)

    starts = range(0, len(labels), EVALUATION_BATCH)
    measured = each_on_a_core(measure, starts, labels.device)
    measured = estimated(measured, "kernel importance", len(starts))
    counted = progress(measured, "kernel importance, batches of images", len(starts))
    return _importance_of_sums(graph, counted, float64_device(labels.device))


def kernel_importance_on(
    engine: Engine, strong: StrongInputs, graph: Graph, images: Images, confidence: float
) -> tuple[np.ndarray, list[int]]:
    """The same on an engine, to the byte: a task per block of images, whose batches' sums are added here, in order.

    Args:
        engine: where they run.
        strong: the strong model, as workers are told it.
        graph: the same, here.
        images: the validation images.
        confidence: as of `kernel_importance`.
    """
    shared, size = engine.share(strong), BLOCK * EVALUATION_BATCH
    starts = range(0, len(images), size)
    for number, start in enumerate(starts):
        block = images.take(np.arange(start, min(start + size, len(images))))
        engine.submit(number, block_sums, shared, engine.device, block, confidence)
    blocks = estimated(engine.results(), "kernel importance", len(starts))
    blocks = progress(blocks, f"kernel importance, blocks of images, {engine.where()}", len(starts))
    batches = (BatchSums(*map(torch.tensor, batch)) for block in in_order(blocks) for batch in block)
    return _importance_of_sums(graph, batches, torch.device("cpu"))


def block_sums(
    strong: StrongInputs, device: str, images: Images, confidence: float
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """A task: of each batch of a block of images, the arrays of its `BatchSums`."""
    graph = strong_on_worker(strong, device)
    pixels, labels = to_device(images, torch.device(device))
    found = []
    for start in range(0, len(labels), EVALUATION_BATCH):
        batch = slice(start, start + EVALUATION_BATCH)
        of_batch = _batch_sums(graph, pixels[batch], labels[batch], confidence, images.normalisation)
        classes, sums, counts = (each.cpu().numpy() for each in of_batch)
        found.append((classes, sums, counts))
    return found


class BatchSums(NamedTuple):
    """What a batch of images adds to the importance: of the classes that it has images of, few of a thousand."""

    classes: Tensor  # (c,) int64
    sums: Tensor  # (2, c, units) float64, over all of a class's images, and over the confident ones
    counts: Tensor  # (2, c) float64


def _batch_sums(
    graph: Graph, pixels: Tensor, labels: Tensor, confidence: float, normalisation: Normalisation | None
) -> BatchSums:
    exact = float64_device(labels.device)
    with torch.inference_mode():
        logits, norms = unit_norms(graph, normalise(pixels, normalisation))
        classes, place = labels.unique(return_inverse=True)
        of_class = F.one_hot(place, len(classes)).T.to(exact).double()
        chosen = torch.stack([of_class, of_class * confident_images(logits, labels, confidence).to(exact)])
        # One-hot rows times summed maps are all classes' sums; in float64, so that order hardly counts.
        return BatchSums(classes.to(exact), chosen @ norms.to(exact).double(), chosen.sum(2))


def _importance_of_sums(
    graph: Graph, batches: Iterable[BatchSums], exact: torch.device
) -> tuple[np.ndarray, list[int]]:
    """What `kernel_importance` returns, by the sums and counts of the batches, in their order, on a device."""
    sums = torch.zeros(2, graph.num_classes, graph.num_units, dtype=torch.float64, device=exact)
    counts = torch.zeros(2, graph.num_classes, dtype=torch.float64, device=exact)
    for batch in batches:
        sums[:, batch.classes] += batch.sums
        counts[:, batch.classes] += batch.counts
    used = (counts[1] > 0).long()  # the confident images, else all
    every = torch.arange(graph.num_classes, device=exact)
    importance = (sums[used, every] / counts[used, every].clamp(min=1)[:, None]).float().cpu().numpy()
    return graph.units.spread(importance, always=0), counts[1].long().tolist()


def check_importance_fits(artifacts: Artifacts) -> str:
    """The strong model's SHA-256. Raises UserError if the kernels' importance is known to be another one's."""
    file = module_files.importance_settings(artifacts)
    now = sha256_of(model_files.entire_model(artifacts).path)
    if file.exists() and (there := file.load().get("strong_model_sha256")) != now:
        raise UserError(
            f"{file.path.parent} is of another strong model (SHA-256 {there} there, {now} now): "
            f"make it again with: {file.made_by}"
        )
    return now


def random_importance(num_classes: int, units: Units) -> np.ndarray:
    """The control experiment: (classes, K) float32 that sorts each layer's kernels in index order."""
    falling = np.concatenate([np.arange(layer.width, 0, -1) for layer in units.layers])
    return np.tile(falling.astype(np.float32), (num_classes, 1))
