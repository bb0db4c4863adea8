"""How important each kernel is for each class: the mean L1 norm of its feature map on the class's confident images."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dataset.datasets import IMAGENET, Normalisation
from dataset.images import normalise
from models import files as model_files
from models.graph import Graph, Units, unit_norms
from models.training import EVALUATION_BATCH
from modules import files as module_files
from utils.artifacts import Artifacts
from utils.core_threads import each_on_a_core
from utils.device import float64_device
from utils.errors import UserError
from utils.files import sha256_of
from utils.progress import progress


def confident_images(logits: Tensor, labels: Tensor, confidence: float) -> Tensor:
    """(n,) bool: images that the model assigns to their own class with a softmax of at least `confidence`."""
    largest, assigned = logits.float().softmax(1).max(1)
    return (assigned == labels) & (largest >= confidence)


def kernel_importance(
    graph: Graph, pixels: Tensor, labels: Tensor, confidence: float, normalisation: Normalisation = IMAGENET
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
    num_classes, exact = graph.num_classes, float64_device(labels.device)

    def measure(start: int) -> tuple[Tensor, Tensor]:
        """One batch's sums (2, classes, units) and counts (2, classes), of all images and of the confident ones."""
        batch = slice(start, start + EVALUATION_BATCH)
        with torch.inference_mode():
            logits, norms = unit_norms(graph, normalise(pixels[batch], normalisation=normalisation))
            of_class = F.one_hot(labels[batch], num_classes).T.to(exact).double()
            chosen = torch.stack([of_class, of_class * confident_images(logits, labels[batch], confidence).to(exact)])
            # One-hot rows times summed maps are all classes' sums; in float64, so that order hardly counts.
            return chosen @ norms.to(exact).double(), chosen.sum(2)

    starts = range(0, len(labels), EVALUATION_BATCH)
    sums = torch.zeros(2, num_classes, graph.num_units, dtype=torch.float64, device=exact)
    counts = torch.zeros(2, num_classes, dtype=torch.float64, device=exact)
    measured = each_on_a_core(measure, starts, labels.device)
    counted = progress(measured, "kernel importance, batches of images", len(starts))
    for batch_sums, batch_counts in counted:
        sums += batch_sums
        counts += batch_counts
    used = (counts[1] > 0).long()  # the confident images, else all
    every = torch.arange(num_classes, device=exact)
    importance = (sums[used, every] / counts[used, every].clamp(min=1)[:, None]).float().cpu().numpy()
    return graph.units.spread(importance, always=0), counts[1].long().tolist()


def check_importance_fits(artifacts: Artifacts) -> str:
    """The strong model's SHA-256. Raises UserError where the kernels' importance is known to be another one's."""
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
