"""What a population of modules answers: one function from (strong model, kernel masks, images) to outputs.

No network is built per chromosome. The strong model's weights are sliced to the kept kernels, and the population runs
as a tree over its conv layers: modules whose masks agree up to a layer share the feature maps up to there, batch by
batch, so what they have in common is computed once. Of the last FC layer only the target class's row is computed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.cnn import CNN, Architecture
from modules.fast.convolution import Convolutions, convolutions_for
from utils.core_threads import each_on_a_core

WEIGHT_BYTES = 512 * 2**20  # sliced weights held at a time; larger populations run in several parts
KEPT_BYTES = 30 * 2**20  # below 32 MiB, glibc's DEFAULT_MMAP_THRESHOLD_MAX


@dataclass
class Node:
    """A conv layer as some of the modules have it: all those that agree on the masks up to here."""

    layer: int
    kept: np.ndarray  # indices of the kept kernels
    convolve: Callable[[Tensor], Tensor]  # with ReLU and pooling
    children: list["Node"] = field(default_factory=list)
    leaves: list["Leaf"] = field(default_factory=list)


@dataclass
class Leaf:
    """The FC layers of one module."""

    row: int  # the module's place in the population
    weights: list[Tensor]
    biases: list[Tensor]


def population_outputs(
    model: CNN, masks: np.ndarray, target_classes: Sequence[int], images: Tensor, batch_size: int | None = None
) -> np.ndarray:
    """Each module's target-class logit on each image.

    Args:
        model: the strong model; its weights are cast to the images' dtype.
        masks: (modules, K) bool, True = kept; no empty layer, tied layers alike.
        target_classes: (modules,) the class whose logit each module is trusted for.
        images: (n, 3, 32, 32) normalised, channels-last, on the model's device; float32 or bfloat16.
        batch_size: images at a time; None = what the way to convolve is best with, within a bound on memory.

    Returns (modules, n) float32. A module's outputs do not depend on which others are evaluated with it.
    """
    _keep_freed_memory()
    outputs = torch.empty(len(masks), len(images), dtype=torch.float32, device=images.device)
    weights = {name: value.to(images.dtype) for name, value in model.state_dict().items()}
    convolutions = convolutions_for(images)
    batch_size = batch_size or _default_batch_size(model.architecture, convolutions)
    for rows in _parts(model.architecture, masks, convolutions, images.itemsize):
        with torch.inference_mode():
            roots = _build_tree(model.architecture, convolutions, weights, masks, target_classes, rows)

        def run_batch(start: int, roots: list[Node] = roots) -> None:
            batch = slice(start, start + batch_size)
            with torch.inference_mode():  # of this thread
                maps = convolutions.place(images[batch])
                for root in roots:
                    _run(model.architecture, convolutions, root, maps, {}, outputs[:, batch])

        for _ in each_on_a_core(run_batch, range(0, len(images), batch_size), images.device):
            pass  # each batch has written its outputs
    return outputs.cpu().numpy()


def outputs_with_known(
    model: CNN, masks: np.ndarray, target_class: int, images: Tensor, known: tuple[np.ndarray, np.ndarray] | None
) -> tuple[np.ndarray, int]:
    """The target class's logits (population, n) float32 of all masks, and how many modules had to run.

    Args:
        model: the strong model.
        masks: (population, K) bool, True = kept.
        target_class: whose logit the modules are trusted for.
        images: (n, 3, 32, 32) normalised, on the model's device.
        known: masks (m, K) and their outputs (m, n), or None.
    """
    outputs_of = {}
    if known is not None:
        outputs_of = {mask.tobytes(): outputs for mask, outputs in zip(*known, strict=True)}
    new = {mask.tobytes(): mask for mask in masks if mask.tobytes() not in outputs_of}
    if new:
        fresh = population_outputs(model, np.stack(list(new.values())), [target_class] * len(new), images)
        outputs_of.update(zip(new, fresh, strict=True))
    return np.stack([outputs_of[mask.tobytes()] for mask in masks]), len(new)


def _keep_freed_memory() -> None:
    """Let the C library use the memory of one batch's feature maps again for the next one's.

    glibc gives large blocks back to the system when they are freed, and has every page of the next one zeroed; but once
    a block of its own mapping was freed, it keeps blocks up to that size, and twice as much in all (malloc/malloc.c, on
    the dynamic threshold). A fifth of the time of one thread in float32. Does nothing to other libraries.
    """
    torch.empty(KEPT_BYTES, dtype=torch.uint8)


def _default_batch_size(architecture: Architecture, convolutions: Convolutions) -> int:
    """How many images at a time this way to convolve is best with."""
    sizes = [conv.kernels * side**2 for conv, side in zip(architecture.convs, architecture.sides, strict=False)]
    return convolutions.batch_size(max(sizes))


def _parts(
    architecture: Architecture, masks: np.ndarray, convolutions: Convolutions, value_bytes: int
) -> list[list[int]]:
    """The population's rows, neighbours in the tree beside each other, cut into parts whose weights fit in memory."""
    order = np.lexsort(masks.T[::-1])
    widths = np.stack([masks[:, layer_slice].sum(1) for layer_slice in architecture.layer_slices], axis=1)
    values = [
        sum(map(convolutions.num_weights, row[1:], row, architecture.sides[1:])) for row in widths[order].tolist()
    ]
    part = np.cumsum(values) * value_bytes // WEIGHT_BYTES
    return [order[part == number].tolist() for number in np.unique(part)]


def _build_tree(
    architecture: Architecture,
    convolutions: Convolutions,
    weights: dict[str, Tensor],
    masks: np.ndarray,
    target_classes: Sequence[int],
    rows: list[int],
) -> list[Node]:
    roots: list[Node] = []
    for row in rows:
        kept = [np.flatnonzero(masks[row, layer_slice]) for layer_slice in architecture.layer_slices]
        siblings, before = roots, None
        for layer, kernels in enumerate(kept):
            node = next((n for n in siblings if np.array_equal(n.kept, kernels)), None)
            if node is None:
                node = _make_node(architecture, convolutions, weights, layer, kernels, before)
                siblings.append(node)
            siblings, before = node.children, node.kept
        node.leaves.append(_make_leaf(architecture, weights, row, kept[-1], target_classes[row]))
    return roots


def _make_node(
    architecture: Architecture,
    convolutions: Convolutions,
    weights: dict[str, Tensor],
    layer: int,
    kernels: np.ndarray,
    before: np.ndarray | None,
) -> Node:
    weight = weights[f"convs.{layer}.weight"]
    index = torch.as_tensor(kernels, device=weight.device)
    weight = weight[index]
    if before is not None:
        weight = weight[:, torch.as_tensor(before, device=weight.device)]
    bias, pool = weights[f"convs.{layer}.bias"][index], architecture.convs[layer].pool
    return Node(layer, kernels, convolutions.layer(weight, bias, architecture.sides[layer], pool=pool))


def _make_leaf(
    architecture: Architecture, weights: dict[str, Tensor], row: int, kernels: np.ndarray, target_class: int
) -> Leaf:
    num_fcs = len(architecture.hidden) + 1
    fc_weights = [weights[f"fcs.{fc}.weight"] for fc in range(num_fcs)]
    biases = [weights[f"fcs.{fc}.bias"] for fc in range(num_fcs)]
    fc_weights[-1], biases[-1] = fc_weights[-1][target_class, None], biases[-1][target_class, None]
    columns = fc_weights[0].unflatten(1, (-1, architecture.final_side**2))
    fc_weights[0] = columns[:, torch.as_tensor(kernels, device=columns.device)].flatten(1)
    return Leaf(row, fc_weights, biases)


def _run(
    architecture: Architecture,
    convolutions: Convolutions,
    node: Node,
    maps: Tensor,
    kept: dict[int, Tensor],
    outputs: Tensor,
) -> None:
    """Run a node and everything below it on one batch; `kept` has the maps that later additions need."""
    conv = architecture.convs[node.layer]
    maps = node.convolve(maps)
    if conv.add is not None:
        maps += kept[conv.add]
    if any(later.add == node.layer for later in architecture.convs):
        kept = {**kept, node.layer: maps}
    for child in node.children:
        _run(architecture, convolutions, child, maps, kept, outputs)
    for leaf in node.leaves:
        features = convolutions.features(maps, outputs.shape[1])
        for weight, bias in zip(leaf.weights[:-1], leaf.biases[:-1], strict=True):
            features = F.linear(features, weight, bias).relu_()
        outputs[leaf.row] = F.linear(features, leaf.weights[-1], leaf.biases[-1])[:, 0].float()
