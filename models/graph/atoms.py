"""The operators of a traced graph by name: aten's, without overloads. What they do: `operators/`.

`conv2d` is the name of aten.conv2d.default and of aten.conv2d.padding; `getitem` that of a place in a tuple.
"""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from models.graph.arguments import arguments


def words(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


# May give their first operand itself, though torch's schemas do not say so.
HIDDEN_VIEWS = words("getitem dropout feature_dropout alpha_dropout feature_alpha_dropout type_as reshape _unsafe_view")
WEIGHTED = words("conv2d linear")  # layers, whose weights have the names of the network
SOFTMAXES = words("softmax log_softmax _softmax _log_softmax")
RESHAPES = words("view _unsafe_view reshape unflatten view_as")
# Of maps (n, channels, height, width)
POOLS = words(
    "max_pool2d avg_pool2d adaptive_avg_pool2d lp_pool2d _adaptive_avg_pool2d adaptive_max_pool2d "
    "max_pool2d_with_indices"
)
# Only move elements.
MOVES = words(
    "reshape permute transpose flatten squeeze unsqueeze expand slice select chunk split split_with_sizes "
    "tensor_split unbind channel_shuffle native_channel_shuffle pixel_unshuffle t movedim swapaxes flip narrow "
    "expand_as repeat roll rot90 getitem"
)
# Without effect in evaluation mode, or on anything but memory.
IDENTITIES = words(
    "dropout feature_dropout alpha_dropout feature_alpha_dropout clone contiguous alias detach lift_fresh_copy "
    "lift_fresh detach_"
)
CASTS = frozenset({"to", "_to_copy", "type_as"})
# Pointwise, but some versions of torch do not tag them.
ALSO_POINTWISE = words(
    "hardsigmoid hardswish softplus mish relu6 elu selu celu hardtanh leaky_relu silu gelu logsigmoid softshrink "
    "hardshrink rrelu to _to_copy type_as"
)


def kind(node: fx.Node) -> str:
    """The operator's name; of nodes that are no operators what they are ('placeholder', 'get_attr', 'output')."""
    return function_name(node.target) if node.op == "call_function" else node.op


def function_name(function: Callable[..., Any]) -> str:
    """The name of what an operator calls."""
    if function is operator.getitem:
        return "getitem"
    if isinstance(function, torch._ops.OpOverload):
        namespace, name = function._schema.name.split("::")
        return name if namespace == "aten" else f"{namespace}.{name}"
    return getattr(function, "__name__", str(function))


def overload(node: fx.Node) -> str:
    """The operator with its overload, as torch writes it: 'aten.conv2d.default'."""
    return str(node.target)


def is_pointwise(node: fx.Node) -> bool:
    """Whether every element of the result depends on one element of each operand (after broadcasting)."""
    return node.op == "call_function" and is_pointwise_function(node.target)


def is_pointwise_function(function: Callable[..., Any]) -> bool:
    """Whether that is so of what an operator calls."""
    if torch.Tag.pointwise in getattr(function, "tags", ()):
        return True
    return function_name(function) in ALSO_POINTWISE or str(function) in ("aten.max.other", "aten.min.other")


def is_random(node: fx.Node) -> bool:
    """Whether the operator draws random numbers; a dropout does not that is turned off."""
    if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
        return False
    given = vars(arguments(node))
    is_off = [given[name] is False for name in ("train", "training") if name in given]
    is_never = [given[name] == 0 for name in ("p", "dropout_p", "dropout") if isinstance(given.get(name), int | float)]
    return not any(is_off + is_never)


def is_in_place(node: fx.Node) -> bool:
    """Whether the operator writes into its first operand."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def shares_memory(node: fx.Node) -> bool:
    """Whether the result may be in the memory of the first operand."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return kind(node) in HIDDEN_VIEWS
    is_alias = any(result.alias_info is not None for result in node.target._schema.returns)
    return is_alias or kind(node).removesuffix("_") in HIDDEN_VIEWS


def is_constant(node: Any) -> bool:
    """Whether it is a weight, or was made of weights alone."""
    return isinstance(node, fx.Node) and node.op == "get_attr"


def hint(size: Any) -> Any:
    """A size as a number: where it depends on the number of images, as it was for two."""
    return size.node.hint if isinstance(size, torch.SymInt) else size


def shapes(value: Any) -> Any:
    """The shape of a tensor as numbers, of several a list of shapes; None of what is no tensor."""
    if isinstance(value, Tensor):
        return tuple(hint(size) for size in value.shape)
    if isinstance(value, list | tuple) and any(isinstance(part, Tensor) for part in value):
        return [shapes(part) for part in value]
    return None
