"""Modules: what is left of a strong model when the kernels that a class does not need are cut out.

A dropped kernel's feature map is zero in the masked strong model. A zero map adds nothing to the next layer, so
cutting it and the weights that read it leaves every output as it was.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from models.cnn import CNN, Architecture


def kept_kernels(architecture: Architecture, kernel_mask: np.ndarray) -> list[np.ndarray]:
    """Per conv layer the indices of the kept kernels, from a mask (K,) bool, True = kept.

    Raises ValueError for a mask of another shape, a layer without kernels, or tied layers that differ.
    """
    (num_kernels,) = kernel_mask.shape
    if num_kernels != architecture.total_kernels:
        raise ValueError(f"expected a mask over {architecture.total_kernels} kernels, given one over {num_kernels}")
    kept = [np.flatnonzero(kernel_mask[layer_slice]) for layer_slice in architecture.layer_slices]
    for layer, first in enumerate(architecture.tied_to):
        if len(kept[layer]) == 0:
            raise ValueError(f"conv {layer}: expected at least one kept kernel, given none")
        if not np.array_equal(kept[layer], kept[first]):
            raise ValueError(f"conv {layer} is tied to conv {first}: expected the same kept kernels in both")
    return kept


def slice_weights(
    architecture: Architecture, weights: dict[str, Tensor], kept: Sequence[np.ndarray], outputs: Sequence[int] | None
) -> dict[str, Tensor]:
    """The state_dict of the network that keeps the given kernels and logits (`outputs`; None = all of them)."""
    device = weights["fcs.0.weight"].device
    index = [torch.as_tensor(kernels, device=device) for kernels in kept]
    sliced: dict[str, Tensor] = {}
    for layer in range(len(architecture.convs)):
        weight = weights[f"convs.{layer}.weight"][index[layer]]
        sliced[f"convs.{layer}.weight"] = weight if layer == 0 else weight[:, index[layer - 1]]
        sliced[f"convs.{layer}.bias"] = weights[f"convs.{layer}.bias"][index[layer]]
    last_fc = len(architecture.hidden)
    for fc in range(last_fc + 1):
        weight, bias = weights[f"fcs.{fc}.weight"], weights[f"fcs.{fc}.bias"]
        if fc == 0:  # its columns are (kernel, row, column) of the last feature map
            weight = weight.unflatten(1, (-1, architecture.final_side**2))[:, index[-1]].flatten(1)
        if fc == last_fc and outputs is not None:
            rows = torch.as_tensor(list(outputs), device=device)
            weight, bias = weight[rows], bias[rows]
        sliced[f"fcs.{fc}.weight"], sliced[f"fcs.{fc}.bias"] = weight, bias
    return {name: value.clone() for name, value in sliced.items()}


def extract_module(model: CNN, kernel_mask: np.ndarray, target_class: int | None = None) -> CNN:
    """The real, smaller network that computes what `model` computes with the dropped kernels' feature maps at zero.

    Args:
        model: the strong model.
        kernel_mask: (K,) bool, True = kept.
        target_class: keep only this class's logit; None keeps all.

    Returns the module in evaluation mode: images (batch, 3, 32, 32) -> logits (batch, 1), or (batch, classes).
    """
    kept = kept_kernels(model.architecture, kernel_mask)
    outputs = None if target_class is None else [target_class]
    weights = slice_weights(model.architecture, model.state_dict(), kept, outputs)
    return module_of_weights(model.architecture, weights)


def extract_modules(model: CNN, masks: np.ndarray, logit_maps: np.ndarray | None = None) -> list[CNN]:
    """Every class's module, in class order; masks (classes, K) bool.

    With `logit_maps` (classes, 2) module c answers scale times its logit plus bias, by its last FC layer.
    """
    modules = [extract_module(model, mask, target_class) for target_class, mask in enumerate(masks)]
    if logit_maps is not None:
        with torch.no_grad():
            for module, (scale, bias) in zip(modules, logit_maps.tolist(), strict=True):
                module.fcs[-1].weight.mul_(scale)
                module.fcs[-1].bias.mul_(scale).add_(bias)
    return modules


def module_of_weights(architecture: Architecture, weights: dict[str, Tensor]) -> CNN:
    """The network that a module's checkpoint describes: its widths are those of the weights.

    Raises RuntimeError (torch's, naming the shapes) if the checkpoint is not one of this architecture.
    """
    biases = [f"convs.{layer}.bias" for layer in range(len(architecture.convs))]
    last_bias = f"fcs.{len(architecture.hidden)}.bias"
    for name in (*biases, last_bias, "fcs.0.weight"):
        if name not in weights:
            raise RuntimeError(f"expected {name} among the weights, found none")
    widths = [len(weights[name]) for name in biases]
    module = CNN(architecture, len(weights[last_bias]), num_kernels=widths).to(weights["fcs.0.weight"])
    module.load_state_dict(weights)
    return module.eval()
