"""What depends on weights alone is computed once: weight normalisation, weight standardisation, fixed grids.

The result is a constant by a name of its own. Where a layer reads it as its weight it has the layer's name for that,
as if the layer had never been parametrised.
"""

import torch
from torch import Tensor, fx

from models.graph.arguments import arguments
from models.graph.atoms import WEIGHTED, is_constant, kind, shapes


def fold_constants(
    graph: fx.Graph, constants: dict[str, Tensor], learned: frozenset[str]
) -> tuple[dict[str, Tensor], frozenset[str]]:
    """Replace, in the graph, every operator on constants by its result.

    Returns the constants that are still read, and those of them that depend on a learned one.
    """
    values = {node: constants[node.target] for node in graph.nodes if is_constant(node)}
    from_learned = {node for node in values if node.target in learned}
    for node in graph.nodes:
        if node.op == "call_function" and _is_foldable(node, values):
            args, kwargs = (fx.map_arg(given, values.__getitem__) for given in (node.args, node.kwargs))
            values[node] = node.target(*args, **kwargs)
            if from_learned.intersection(node.all_input_nodes):
                from_learned.add(node)
    still_read, still_learned, made = {}, set(), {}
    for node in list(graph.nodes):
        readers = [user for user in node.users if user not in values]
        if node not in values or not readers or not isinstance(values[node], Tensor):
            continue
        name = node.target if is_constant(node) else _name(node, readers[0], {*constants, *made})
        made[name] = values[node]
        still_read[name] = values[node].detach()
        if node in from_learned:
            still_learned.add(name)
        if not is_constant(node):
            with graph.inserting_before(node):
                constant = graph.create_node("get_attr", name)
            constant.meta = {**node.meta, "shape": shapes(values[node])}
            node.replace_all_uses_with(constant, delete_user_cb=lambda user: user not in values)
    in_order = [*(name for name in constants if name in still_read), *still_read]
    return {name: still_read[name] for name in in_order}, frozenset(still_learned)


def _is_foldable(node: fx.Node, values: dict[fx.Node, Tensor]) -> bool:
    if not all(operand in values for operand in node.all_input_nodes):
        return False
    tags = getattr(node.target, "tags", ())
    return torch.Tag.nondeterministic_seeded not in tags


def _name(node: fx.Node, reader: fx.Node, taken: set[str]) -> str:
    """What a computed constant is called: its reader's weight, if that name is free."""
    path = reader.meta.get("path", "")
    for role in ("weight", "bias") if kind(reader) in WEIGHTED else ():
        name = f"{path}.{role}" if path else role
        if getattr(arguments(reader), role) is node and name not in taken:
            return name
    return f"folded.{node.name}"
