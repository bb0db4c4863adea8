"""Batch norm folded into the layer in front of it: the same network in evaluation mode with fewer operators."""

import torch
from torch import Tensor, fx

from models.graph.arguments import arguments, with_arguments
from models.graph.atoms import WEIGHTED, is_constant, kind
from models.graph.graph import Graph, graph_of, logits_of
from models.graph.operators.layers import layer_name
from models.graph.operators.normalisation import STATISTICS, is_evaluated
from models.graph.tracing import erase_unused


@torch.no_grad()
def fold_batch_norm(graph: Graph) -> Graph:
    """The graph without the batch norms that stand directly behind a convolution which nothing else reads.

    The convolution's weight is scaled, and it has a bias, by the network's own name for it. Kernels, units and groups
    stay what they are. The given graph is left as it was.
    """
    nodes, new = fx.Graph(), {}
    nodes.graph_copy(graph.nodes, new)
    nodes.output(new[logits_of(graph.nodes)])
    constants, learned, buffers = dict(graph.constants), set(graph.learned), set(graph.buffers)
    for norm in list(nodes.nodes):
        if kind(norm) != "batch_norm" or not is_evaluated(norm) or not _can_take(arguments(norm).source, norm):
            continue
        layer = arguments(norm).source
        weight, bias = arguments(layer).weight, arguments(layer).bias
        name = layer_name(weight) + ".bias" if bias is None else bias.target
        if bias is None and name in constants:
            continue
        scale, shift = _scale_and_shift(norm, constants)
        value = constants[weight.target]
        scaled = value.double() * scale.view(-1, *[1] * (value.dim() - 1))
        shifted = shift if bias is None else shift + constants[bias.target].double() * scale
        constants[weight.target], constants[name] = scaled.to(value.dtype), shifted.to(value.dtype)
        learned.add(name)
        if bias is None:
            with nodes.inserting_before(layer):
                bias = nodes.create_node("get_attr", name)
            bias.meta = {"shape": tuple(shift.shape)}
            layer.args, _ = with_arguments(layer, bias=bias)
        norm.replace_all_uses_with(layer)
        nodes.erase_node(norm)
    erase_unused(nodes)
    used = {node.target for node in nodes.nodes if is_constant(node)}
    return graph_of(
        nodes,
        {name: value for name, value in constants.items() if name in used},
        frozenset(learned & used),
        frozenset(buffers & used),
        graph.fewest_units,
    )


def _can_take(layer: fx.Node, norm: fx.Node) -> bool:
    """Whether a layer can take a batch norm in: its weights are its own, and only the batch norm reads it."""
    if kind(layer) not in WEIGHTED or set(layer.users) != {norm}:
        return False
    given = arguments(layer)
    constants = [constant for constant in (given.weight, given.bias) if constant is not None]
    # A linear layer on maps has its channels last, and a batch norm its channels second.
    along_channels = kind(layer) == "conv2d" or len(layer.meta["shape"]) == 2
    return along_channels and all(is_constant(constant) and len(constant.users) == 1 for constant in constants)


def _scale_and_shift(norm: fx.Node, constants: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """What a batch norm does: values * scale + shift, both (channels,) float64."""
    given = arguments(norm)
    weight, bias, mean, variance = (
        None if constant is None else constants[constant.target].double()
        for constant in (getattr(given, name) for name in STATISTICS)
    )
    scale = 1 / torch.sqrt(variance + given.eps)
    scale = scale if weight is None else scale * weight
    shift = -mean * scale
    return scale, shift if bias is None else shift + bias
