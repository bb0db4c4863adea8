"""Batch norm folded into the layer in front of it: the same network in evaluation mode with fewer operators."""

import torch
from torch import Tensor, fx

from models.graph.atoms import argument, is_constant, kind
from models.graph.graph import Graph, graph_of, logits_of
from models.graph.operators.convolution import layer_name
from models.graph.operators.normalisation import EPSILON, is_evaluated
from models.graph.tracing import erase_unused

FOLDED_INTO = ("conv2d", "linear")


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
        layer = norm.args[0] if norm.args else None
        if kind(norm) != "batch_norm" or not is_evaluated(norm) or not _can_take(layer, norm):
            continue
        weight, bias = layer.args[1], argument(layer, 2)
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
            layer.args = (*layer.args[:2], bias, *layer.args[3:])
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


def _can_take(layer: fx.Node | None, norm: fx.Node) -> bool:
    """Whether a layer can take a batch norm in: its weights are its own, and only the batch norm reads it."""
    if not isinstance(layer, fx.Node) or kind(layer) not in FOLDED_INTO or set(layer.users) != {norm}:
        return False
    constants = [constant for constant in (layer.args[1], argument(layer, 2)) if constant is not None]
    # A linear layer on maps has its channels last, and a batch norm its channels second.
    along_channels = kind(layer) == "conv2d" or len(layer.meta["shape"]) == 2
    return along_channels and all(is_constant(constant) and len(constant.users) == 1 for constant in constants)


def _scale_and_shift(norm: fx.Node, constants: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """What a batch norm does: values * scale + shift, both (channels,) float64."""
    weight, bias, mean, variance = (
        None if given is None else constants[given.target].double() for given in norm.args[1:5]
    )
    scale = 1 / torch.sqrt(variance + argument(norm, 7, EPSILON))
    scale = scale if weight is None else scale * weight
    shift = -mean * scale
    return scale, shift if bias is None else shift + bias
