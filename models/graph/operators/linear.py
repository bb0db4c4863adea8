"""Linear layers along the row of channels: they read channels and make new ones.

On maps (n, height, width, channels) they are 1x1 convolutions, and their rows kernels.
"""

from torch import fx

from models.graph.atoms import argument, is_constant
from models.graph.cutting import Cut
from models.graph.layouts import Layout
from models.graph.operators.convolution import layer_name
from models.graph.propagation import RULES, Layer, Propagation, Rule
from models.graph.values import Value


def follow(channels: Propagation, node: fx.Node) -> Layout:
    """New channels along the last dimension."""
    weight, bias, shape = node.args[1], argument(node, 2), node.meta["shape"]
    source = channels.layout(node.args[0])
    last = len(shape) - 1
    if not is_constant(weight) or source.is_scattered or (source.is_row and source.dim != last):
        return channels.whole(node, None if not is_constant(weight) else "a linear layer reads it in another order")
    channels.slice_constant(weight, 1, channels.read(node, last, folds=True))
    made = channels.made_by(weight, shape[-1])
    channels.slice_constant(bias, 0, made)
    channels.add_layer(Layer(layer_name(weight), node, made, len(shape) == 4 and not source.pooled))
    return Layout(shape, last, made, source.pooled)


def cut(part: Cut, node: fx.Node) -> Value:
    """The layer with the rows and columns that are kept."""
    weight, bias = node.args[1], argument(node, 2)
    made, source = part.kept(part.layout(node).channels), part.layout(node.args[0])
    index = {0: made, 1: part.kept(source.channels)} if source.is_row else {0: made}
    new_weight = part.constant(weight, index, part.factors(node))
    return part.call(node.target, part.new[node.args[0]], new_weight, part.constant(bias, {0: made}))


RULES["linear"] = Rule(follow, cut)
