"""How important each kernel is for each class: the mean L1 norm of its feature map on the class's confident images."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from utils.images import normalise
from utils.training import EVALUATION_BATCH, progress_bar

Observe = Callable[[int, Tensor], None]


def confident_images(logits: Tensor, labels: Tensor, target_class: int, confidence: float) -> Tensor:
    """(n,) bool: images of the class that the model assigns to it with a softmax of at least `confidence`."""
    probability = logits.float().softmax(1)
    assigned = probability.argmax(1) == target_class
    return (labels == target_class) & assigned & (probability[:, target_class] >= confidence)


@torch.inference_mode()
def kernel_importance(
    model: nn.Module, pixels: Tensor, labels: Tensor, num_classes: int, confidence: float
) -> tuple[np.ndarray, list[int]]:
    """Importance of every kernel for every class, in one pass over the images.

    Per class: the mean, over its confident images, of the sum of each kernel's feature map after ReLU; for layers tied
    by an addition of the sum after it, which both share (Qi et al., ASE 2022, section 3.1). A class without a confident
    image uses all of its images.

    Args:
        model: the strong model, with `convolve`, `classify` and `architecture`.
        pixels, labels: (n, 32, 32, 3) uint8 and (n,) int64 validation images, on the model's device.
        num_classes: of the model.
        confidence: the least softmax of a confident image.

    Returns importance (classes, K) float32 and the number of confident images per class.
    """
    architecture = model.architecture
    num_kernels = sum(architecture.num_kernels)
    # One-hot rows times summed maps gives all classes' sums in one matrix product; float64 so that order hardly counts.
    confident_sum = torch.zeros(num_classes, num_kernels, dtype=torch.float64, device=labels.device)
    class_sum = torch.zeros_like(confident_sum)
    confident_count = torch.zeros(num_classes, dtype=torch.long, device=labels.device)
    for start in progress_bar(range(0, len(labels), EVALUATION_BATCH), "importance"):
        batch_labels = labels[start : start + EVALUATION_BATCH]
        norms, observe = _norm_collector(len(batch_labels), architecture, labels.device)
        features = model.convolve(normalise(pixels[start : start + EVALUATION_BATCH]), observe)
        logits = model.classify(features)
        of_class = torch.nn.functional.one_hot(batch_labels, num_classes).T.to(torch.float64)
        confident = torch.stack([confident_images(logits, batch_labels, c, confidence) for c in range(num_classes)])
        class_sum += of_class @ norms
        confident_sum += confident.to(torch.float64) @ norms
        confident_count += confident.sum(1)
    class_count = torch.bincount(labels, minlength=num_classes)
    enough = confident_count > 0
    total = torch.where(enough[:, None], confident_sum, class_sum)
    count = torch.where(enough, confident_count, class_count).clamp(min=1)
    return (total / count[:, None]).float().cpu().numpy(), confident_count.tolist()


def _norm_collector(num_images: int, architecture: nn.Module, device: torch.device) -> tuple[Tensor, Observe]:
    """An array (images, K) float64 and a function that enters a layer's feature map into it."""
    norms = torch.zeros(num_images, sum(architecture.num_kernels), dtype=torch.float64, device=device)

    def observe(layer: int, feature_map: Tensor) -> None:
        l1 = feature_map.float().sum((2, 3)).double()  # after ReLU nothing is negative
        for tied, first in enumerate(architecture.tied_to):
            if first == layer:
                norms[:, architecture.layer_slices[tied]] = l1

    return norms, observe


def random_importance(num_classes: int, num_kernels: tuple[int, ...]) -> np.ndarray:
    """The control experiment: (classes, K) float32 that sorts each layer's kernels in index order."""
    falling = np.concatenate([np.arange(width, 0, -1) for width in num_kernels])
    return np.tile(falling.astype(np.float32), (num_classes, 1))
