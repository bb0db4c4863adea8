"""What several networks answer to the same images, and what they cost: each is run once."""

from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np
import torch
from torch import Tensor, nn

from dataset.images import Images, normalise
from models.graph.evaluating import evaluating
from models.training import evaluation_batch
from utils.progress import progress


def outputs_of(networks: Sequence[nn.Module], images: Images, device: torch.device) -> list[np.ndarray]:
    """Per network its outputs (images, ...) float32; what is common, preparing the images, is done once.

    The networks run in evaluation mode, on the device, and are left as they were.
    """
    outputs: list[list[Tensor]] = [[] for _ in networks]
    batch_size = evaluation_batch(device)
    starts = range(0, len(images), batch_size)
    with ExitStack() as stack:
        for network in networks:
            stack.enter_context(evaluating(network, device))
        stack.enter_context(torch.inference_mode())
        for start in progress(starts, f"{len(images):,} images, batches"):
            pixels = torch.tensor(images.pixels[start : start + batch_size], device=device)
            batch = normalise(pixels, images.normalisation)
            for network, found in zip(networks, outputs, strict=True):
                found.append(network(batch).float().cpu())
    return [torch.cat(found).numpy() for found in outputs]
