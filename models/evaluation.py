"""What networks answer to images, and how many answers are right; what a network costs, in numbers and tables."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from dataset.images import Images, normalise
from models.autocast import autocast
from models.graph import Graph, Units
from models.graph.evaluating import evaluating
from utils.errors import UserError
from utils.progress import progress
from utils.tables import show_table

# Images at a time: few enough for the feature maps to stay in the processor's cache, which is a fifth faster than 500.
# On other devices, whose memory is as fast for all, enough that operators take longer than starting them.
EVALUATION_BATCH = 50
EVALUATION_BATCH_ON_DEVICE = 200
LISTED = 3  # groups of a layer that has more are counted


def outputs_of(
    networks: Sequence[nn.Module], images: Images, device: torch.device, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    """Per network its outputs (n, ...) float32 on the CPU for all images, which are prepared once and never augmented.

    The networks run in evaluation mode, on the device, and are left as they were.
    """
    outputs: list[list[Tensor]] = [[] for _ in networks]
    batch_size = EVALUATION_BATCH if device.type == "cpu" else EVALUATION_BATCH_ON_DEVICE
    starts = range(0, max(1, len(images)), batch_size)
    with ExitStack() as stack:
        for network in networks:
            stack.enter_context(evaluating(network, device))
        stack.enter_context(torch.inference_mode())
        for start in progress(starts, f"{len(images):,} images, batches"):
            pixels = torch.tensor(images.pixels[start : start + batch_size], device=device)
            batch = normalise(pixels, images.normalisation)
            with autocast(device, dtype):
                for network, found in zip(networks, outputs, strict=True):
                    found.append(network(batch).float().cpu())
    return [torch.cat(found) for found in outputs]


def predict(model: nn.Module, images: Images, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """The outputs (n, ...) of one network, as `outputs_of` gives them."""
    return outputs_of([model], images, device, dtype)[0]


def count_right(logits: Tensor, labels: Any) -> int:
    """How many rows of logits (n, classes) are largest at their label (n,). Raises UserError for NaN and infinity."""
    if not logits.isfinite().all():
        where = int((~logits.isfinite()).any(1).sum())
        raise UserError(f"a network's outputs on {where} of {len(logits)} images are NaN or infinite: train it again")
    return int((logits.argmax(1) == torch.as_tensor(labels)).sum())


def accuracy(logits: Tensor, labels: Any) -> float:
    """The share of rows of logits (n, classes) that are largest at their label (n,)."""
    return count_right(logits, labels) / len(labels)


def count_parameters(network: nn.Module) -> int:
    """The number of trainable values."""
    return sum(parameter.numel() for parameter in network.parameters())


def cpu_state(network: nn.Module) -> dict[str, Tensor]:
    """A copy of the state_dict on the CPU, real numbers in float32, as checkpoints hold it."""
    return {
        name: (value.detach().float() if value.is_floating_point() else value).to("cpu", copy=True)
        for name, value in network.state_dict().items()
    }


def count_nonzero(network: nn.Module) -> int:
    """The number of trainable values other than 0."""
    return sum(int(parameter.count_nonzero()) for parameter in network.parameters())


def show_cost(network: nn.Module, graph: Graph) -> None:
    """Print what an image costs."""
    print(f"parameters: {count_parameters(network):,}")
    print(f"FLOPs of an image: {graph.flops:,} (a multiply-accumulate counts 2)\n")


def show_layers(units: Units) -> None:
    """Print which conv layers can lose kernels, and why others cannot."""
    rows = []
    for number, layer in enumerate(units.layers):
        groups = [group for group, of_group in enumerate(units.groups) if number in of_group.layers]
        listed = ", ".join(map(str, groups)) if len(groups) <= LISTED else f"{len(groups)} groups"
        is_cut = "yes" if layer.is_cuttable else f"no: {layer.reason}"
        rows.append([number, layer.name, layer.width, listed, is_cut])
    show_table(["number", "conv layer", "kernels", "group", "can be cut"], rows)
    free = int((units.unit_of_kernel >= 0).sum())
    cuttable = sum(layer.is_cuttable for layer in units.layers)
    print(f"\nconv layers that can be cut: {cuttable} of {len(units.layers)}")
    print(f"kernels that can be dropped: {free:,} of {units.num_kernels:,}")
    print(f"units (kernels that go together, for example across an addition): {units.num_units:,}")
    print(f"groups (units in the same conv layers): {len(units.groups)}")
