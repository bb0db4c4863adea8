"""The table of operators: how channels are followed through each of them, how it is cut, and how it runs on lanes.

An operator that is not in the table and is not pointwise reads all its channels whole.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from models.graph.cutting import Cut, CutOperator
from models.graph.layouts import Layout
from models.graph.operators import concatenation as joins
from models.graph.operators import layers, pointwise, reduction
from models.graph.operators import normalisation as norms
from models.graph.operators import rearrangement as moves
from models.graph.propagation import Propagation
from models.graph.tracing import SOFTMAXES
from models.graph.values import Constant, Shape, Value


@dataclass(frozen=True)
class OperatorRule:
    """What is known of an operator; the defaults are right for every operator.

    Attributes:
        follow: finds where the channels of its result stand.
        cut: makes the operator on the channels that are kept.
        is_known: whether the rule applies to a value.
        on_lanes: from a value of it, the shape of its first operand and the number of lanes, the operator that
            computes it in the compiled library's order of memory; None if there is none. Read for torch, values (n,
            channels, ...) are (blocks, channels * lanes, ...) there: what works channel by channel is the same operator
            on them, with numbers of channels multiplied by `lanes`.
    """

    follow: Callable[[Propagation, Value], Layout] = Propagation.whole
    cut: CutOperator = Cut.copy
    is_known: Callable[[Value], bool] = lambda value: True
    on_lanes: Callable[[Value, Shape, int], Value | None] = lambda *_: None


UNKNOWN = OperatorRule()
POINTWISE = OperatorRule(pointwise.follow, pointwise.cut, on_lanes=pointwise.on_lanes)


def _rules(names: str, *functions: Callable[..., Any], **more: Callable[..., Any]) -> dict[str, OperatorRule]:
    return dict.fromkeys(names.split(), OperatorRule(*functions, **more))


def _same(value: Value, shape: Shape, lanes: int) -> Value:
    return value


def _per_channel(value: Value, shape: Shape, lanes: int) -> Value:
    """The operator whose constants have one value for each channel, or one for all channels."""

    def operand(given: Value) -> Value | Tensor:
        if not isinstance(given, Constant):
            return given
        found = given.compute()
        return found.repeat_interleave(lanes) if found.numel() == shape[1] else found

    return value.on(operand)


SPLITS = "chunk split split_with_sizes"  # with several results
# Of maps (n, channels, height, width)
POOLS = (
    "max_pool2d avg_pool2d adaptive_avg_pool2d lp_pool2d _adaptive_avg_pool2d adaptive_max_pool2d "
    "max_pool2d_with_indices"
)
PADDINGS = "pad constant_pad_nd reflection_pad2d replication_pad2d"
# Only move elements.
MOVES = (
    "reshape permute transpose flatten squeeze unsqueeze expand slice select chunk split split_with_sizes "
    "tensor_split unbind channel_shuffle native_channel_shuffle pixel_unshuffle t movedim swapaxes flip narrow "
    "expand_as repeat roll rot90 getitem"
)
RULES: Mapping[str, OperatorRule] = {  # by the operator's name; later lines count
    **_rules("conv2d", layers.follow_convolution, layers.cut_convolution, layers.is_plain_convolution),
    **_rules("linear", layers.follow_linear, layers.cut_linear),
    **_rules("batch_norm", norms.follow_by_channel, norms.cut_by_channel, norms.is_evaluated, _per_channel),
    **_rules("instance_norm", norms.follow_by_channel, norms.cut_by_channel, on_lanes=_per_channel),
    **_rules("layer_norm", norms.follow_layer_norm, norms.cut_layer_norm),
    **_rules("group_norm", norms.follow_group_norm, norms.cut_group_norm),
    **_rules("prelu _prelu_kernel", pointwise.follow_prelu, pointwise.cut_prelu, on_lanes=_per_channel),
    **_rules("glu", pointwise.follow_glu, on_lanes=pointwise.glu_on_lanes),
    **_rules(POOLS, reduction.follow_pooling, on_lanes=_same),
    **_rules("adaptive_max_pool2d max_pool2d_with_indices _upsample_bilinear2d_aa", reduction.follow_pooling),
    **_rules("upsample_nearest2d upsample_bilinear2d upsample_bicubic2d", reduction.follow_pooling, on_lanes=_same),
    **_rules("_upsample_nearest_exact2d", reduction.follow_pooling, on_lanes=_same),
    **_rules(" ".join(SOFTMAXES), reduction.follow_softmax),
    **_rules(PADDINGS, joins.follow_padding, joins.cut_padding, on_lanes=joins.padding_on_lanes),
    **_rules("cat concat concatenate", joins.follow, joins.cut, on_lanes=joins.on_lanes),
    **_rules("max min prod std var linalg_vector_norm norm", reduction.follow, reduction.cut, reduction.is_known),
    **_rules("logsumexp", reduction.follow_log_sum_exp),
    **_rules("mean sum amax amin", reduction.follow, reduction.cut, reduction.is_known, reduction.on_lanes),
    **_rules(MOVES, moves.follow, moves.cut),
    **_rules("reshape flatten squeeze unsqueeze", moves.follow, moves.cut, on_lanes=moves.reshape_on_lanes),
    **_rules(SPLITS, moves.follow, moves.cut, on_lanes=moves.split_on_lanes),
    **_rules("slice", moves.follow, moves.cut, on_lanes=moves.slice_on_lanes),
    **_rules("index", moves.follow, moves.cut),
    **_rules("index_select", moves.follow, moves.cut, on_lanes=moves.selection_on_lanes),
}


def rule_of(value: Value) -> OperatorRule:
    """The rule that applies to an operator of a graph."""
    found = RULES.get(value.kind)
    # Rules follow the source's channels. A constant has none: one that is repeated for each image, for example.
    has_channels = not isinstance(getattr(value.given, "source", None), Constant)
    if found is not None and has_channels and found.is_known(value):
        return found
    return POINTWISE if value.operator.is_pointwise else UNKNOWN


def followed(
    values: Sequence[Value], freed: frozenset[str] = frozenset(), constants: Mapping[str, Tensor] | None = None
) -> Propagation:
    """Follow the channels of a plain graph from operator to operator; see `Propagation` for the arguments."""
    channels = Propagation(values, freed, constants or {})
    for value in values:
        if value.target is not None and value.shape is not None:
            channels.layouts[value] = rule_of(value).follow(channels, value)
        elif value.target is None and not isinstance(value, Constant):
            channels.layouts[value] = Layout(value.shape)
    return channels


def on_lanes(value: Value, lanes: int) -> Value | None:
    """The operator that computes a value in the compiled library's order; None unless it works channel by channel."""
    sources = [operand for operand in value.operands if not isinstance(operand, Constant)]
    if value.kind == "getitem":
        return value
    shapes = [source.shape for source in (sources if value.kind in SPLITS.split() else [value, *sources])]
    if any(shape is None or len(shape) < 2 or shape[0] != shapes[0][0] for shape in shapes):
        return None
    rule = POINTWISE if value.operator.is_pointwise else RULES.get(value.kind, UNKNOWN)
    return rule.on_lanes(value, sources[0].shape, lanes)
