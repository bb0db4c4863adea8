"""Batch norm folded into the layer in front of it: the same network in evaluation mode with fewer operators."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from models.graph.graph import Graph, graph_of
from models.graph.operators.layers import layer_name
from models.graph.operators.normalisation import is_evaluated
from models.graph.tracing import WEIGHTED, Plain
from models.graph.values import Constant, Value, images_of, needed


@torch.no_grad()
def fold_batch_norm(graph: Graph) -> Graph:
    """The graph without the batch norms that stand directly behind a convolution which nothing else reads.

    The convolution's weight is scaled, and it has a bias, by the network's own name for it. Kernels, units and groups
    stay what they are. The given graph is left as it was.
    """
    num_readers = Counter(operand.name for value in graph.values for operand in value.operands)
    constants, learned = dict(graph.constants), set(graph.learned)
    new: dict[Value, Value] = {}
    for value in graph.values:
        layer = None
        if value.kind == "batch_norm" and is_evaluated(value) and graph.channels.users[value.given.source] == [value]:
            layer = new[value.given.source]
        if layer is None or not _can_take(layer, num_readers, constants):
            new[value] = replace(value) if value.target is None else value.on(new.__getitem__)
            new[value].number = 2 * value.number  # in front of each there is a place for a bias
            continue
        weight, bias = layer.given.weight, layer.given.bias
        name = _bias_name(weight, bias)
        scale, shift = _scale_and_shift(value, constants)
        whole = constants[weight.name]
        scaled = whole.double() * scale.view(-1, *[1] * (whole.dim() - 1))
        shifted = shift if bias is None else shift + constants[name].double() * scale
        constants[weight.name], constants[name] = scaled.to(whole.dtype), shifted.to(whole.dtype)
        learned.add(name)
        new_bias = Constant(layer.number - 1, name=name, shape=tuple(shift.shape))
        new[value] = layer.changed(bias=new_bias) if bias is None else layer
    values = needed([images_of(new.values()), new[graph.values[-1]]])
    used = {value.name for value in values if isinstance(value, Constant)}
    constants = {name: value for name, value in constants.items() if name in used}
    plain = Plain(tuple(values), constants, frozenset(learned & used), graph.buffers & used)
    return graph_of(plain)


def _bias_name(weight: Value, bias: Value | None) -> str:
    return layer_name(weight) + ".bias" if bias is None else bias.name


def _can_take(layer: Value, num_readers: Mapping[str, int], constants: Mapping[str, Tensor]) -> bool:
    """Whether a layer that only a batch norm reads can take that in: its weights are its own."""
    if layer.kind not in WEIGHTED:
        return False
    weight, bias = layer.given.weight, layer.given.bias
    # A linear layer on maps has its channels last, and a batch norm its channels second.
    if layer.kind != "conv2d" and len(layer.shape) != 2:
        return False
    own = [weight] if bias is None else [weight, bias]
    if not all(isinstance(constant, Constant) and num_readers[constant.name] <= 1 for constant in own):
        return False
    return bias is not None or _bias_name(weight, bias) not in constants


def _scale_and_shift(norm: Value, constants: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """What a batch norm does: values * scale + shift, both (channels,) float64."""
    given = norm.given
    scale = 1 / torch.sqrt(constants[given.running_var.name].double() + given.eps)
    if given.weight is not None:
        scale = scale * constants[given.weight.name].double()
    shift = -constants[given.running_mean.name].double() * scale
    return scale, shift if given.bias is None else shift + constants[given.bias.name].double()
