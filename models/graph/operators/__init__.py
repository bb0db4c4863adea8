"""The table of operators: how channels are followed through each of them, how it is cut, and how it runs on lanes.

An operator that is not in the table and is not pointwise reads all its channels whole.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx

from models.graph.atoms import (
    MOVES,
    POOLS,
    SOFTMAXES,
    function_name,
    is_pointwise,
    is_pointwise_function,
    kind,
)
from models.graph.cutting import Cut, CutOperator
from models.graph.lanes import LaneCall, per_channel, same
from models.graph.layouts import Layout
from models.graph.operators import concatenation as joins
from models.graph.operators import layers, pointwise, reduction
from models.graph.operators import normalisation as norms
from models.graph.operators import rearrangement as moves
from models.graph.propagation import Propagation
from models.graph.values import Constant, Value


@dataclass(frozen=True)
class Rule:
    """What is known of an operator; the defaults are right for every operator.

    Attributes:
        follow: finds where the channels of its result stand.
        cut: makes the operator on the channels that are kept.
        is_known: whether the rule applies to a node.
        on_lanes: from a value of it, the shape of its first operand and the number of lanes, the call that computes
            the value in the compiled library's order (see `lanes.py`); None where there is none.
    """

    follow: Callable[[Propagation, fx.Node], Layout | list[Layout]] = Propagation.whole
    cut: CutOperator = Cut.copy
    is_known: Callable[[fx.Node], bool] = lambda node: True
    on_lanes: Callable[[Value, tuple[int, ...], int], LaneCall | None] = lambda *_: None


UNKNOWN = Rule()
POINTWISE = Rule(pointwise.follow, pointwise.cut)


def _rules(names: str, *functions: Callable[..., Any], **more: Callable[..., Any]) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), Rule(*functions, **more))


SPLITS = "chunk split split_with_sizes"  # with several results
RULES: Mapping[str, Rule] = {  # by the operator's name; later lines count
    **_rules("conv2d", layers.follow_convolution, layers.cut_convolution, layers.is_plain_convolution),
    **_rules("linear", layers.follow_linear, layers.cut_linear),
    **_rules("batch_norm", norms.follow_by_channel, norms.cut_by_channel, norms.is_evaluated, per_channel),
    **_rules("instance_norm", norms.follow_by_channel, norms.cut_by_channel, on_lanes=per_channel),
    **_rules("layer_norm", norms.follow_layer_norm, norms.cut_layer_norm),
    **_rules("group_norm", norms.follow_group_norm, norms.cut_group_norm),
    **_rules("prelu _prelu_kernel", pointwise.follow_prelu, pointwise.cut_prelu, on_lanes=per_channel),
    **_rules("glu", pointwise.follow_glu, on_lanes=pointwise.glu_on_lanes),
    **_rules(" ".join(POOLS), reduction.follow_pooling, on_lanes=same),
    **_rules("adaptive_max_pool2d max_pool2d_with_indices _upsample_bilinear2d_aa", reduction.follow_pooling),
    **_rules("upsample_nearest2d upsample_bilinear2d upsample_bicubic2d", reduction.follow_pooling, on_lanes=same),
    **_rules("_upsample_nearest_exact2d", reduction.follow_pooling, on_lanes=same),
    **_rules(" ".join(SOFTMAXES), reduction.follow_softmax),
    **_rules("pad constant_pad_nd", joins.follow_padding, joins.cut_padding, on_lanes=joins.padding_on_lanes),
    **_rules("reflection_pad2d replication_pad2d", joins.follow_padding, joins.cut_padding, on_lanes=same),
    **_rules("cat concat concatenate", joins.follow, on_lanes=joins.on_lanes),
    **_rules(
        "max min prod logsumexp std var linalg_vector_norm norm", reduction.follow, reduction.cut, reduction.is_known
    ),
    **_rules("mean sum amax amin", reduction.follow, reduction.cut, reduction.is_known, reduction.on_lanes),
    **_rules(" ".join(MOVES), moves.follow, moves.cut),
    **_rules("reshape flatten squeeze unsqueeze", moves.follow, moves.cut, on_lanes=moves.reshape_on_lanes),
    **_rules(SPLITS, moves.follow, moves.cut, on_lanes=moves.split_on_lanes),
    **_rules("slice", moves.follow, moves.cut, on_lanes=moves.slice_on_lanes),
    **_rules("index_select", on_lanes=moves.selection_on_lanes),
}


def rule_of(node: fx.Node) -> Rule:
    """The rule that applies to an operator of a graph."""
    found = RULES.get(kind(node))
    if found is not None and found.is_known(node):
        return found
    return POINTWISE if is_pointwise(node) else UNKNOWN


def cut_of(node: fx.Node) -> CutOperator:
    """The function that makes an operator on the channels that are kept."""
    return rule_of(node).cut


def followed(
    nodes: fx.Graph, shapes_of_constants: Mapping[str, tuple[int, ...]], freed: frozenset[str] = frozenset()
) -> Propagation:
    """Follow the channels of a plain graph from operator to operator; see `Propagation` for the arguments."""
    channels = Propagation(nodes, shapes_of_constants, freed)
    for node in nodes.nodes:
        if node.op == "placeholder":
            channels.layouts[node] = Layout(node.meta["shape"])
        elif node.op == "call_function" and node.meta.get("shape") is not None:
            channels.layouts[node] = rule_of(node).follow(channels, node)
    return channels


def on_lanes(value: Value, lanes: int) -> LaneCall | None:
    """The call that computes a value in the compiled library's order; None unless it works channel by channel."""
    name = function_name(value.target)
    sources = [operand for operand in value.operands if not isinstance(operand, Constant)]
    if name == "getitem":
        return same(value)
    shapes = [source.shape for source in (sources if name in SPLITS.split() else [value, *sources])]
    if any(shape is None or len(shape) < 2 or shape[0] != shapes[0][0] for shape in shapes):
        return None
    if is_pointwise_function(value.target):
        return pointwise.on_lanes(value, sources, lanes)
    return RULES.get(name, UNKNOWN).on_lanes(value, sources[0].shape, lanes)
