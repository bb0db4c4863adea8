"""From a network to a plain list of values: aten operators in order, nothing in place, weights by name.

torch.export is the way in, in evaluation mode and for any number of images. Behind it the graph is made plain, so that
what follows knows few forms: operators that write in place become their functional ones, views become reshapes, what
does nothing in evaluation mode is gone, and what depends on weights alone is computed once.
"""

import contextlib
import inspect
import re
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram

from models.graph.errors import RANDOM, NetworkRefused, refused, where
from models.graph.evaluating import evaluating, floating_parameter, has_modes_of_its_own
from models.graph.values import Call, Constant, Value, arguments, needed, operator_of, replaced, users_of
from utils.progress import quiet

aten = torch.ops.aten
REGIONS = ("wrap_with_autocast", "wrap_with_set_grad_enabled")
FRAME = re.compile(r'File "(.+)", line (\d+), in .*\n\s*(.*)')  # of a stack trace
CHECKS = ("_assert", "sym_constrain", "_functional_assert")
DROPOUTS = frozenset({"dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"})
# Without effect in evaluation mode, or on anything but memory.
IDENTITIES = DROPOUTS | {"clone", "contiguous", "alias", "detach", "lift_fresh_copy", "lift_fresh", "detach_"}
# May give their first operand itself, though torch's schemas do not say so.
HIDDEN_VIEWS = DROPOUTS | {"getitem", "type_as", "reshape", "_unsafe_view"}
RESHAPES = frozenset({"view", "_unsafe_view", "reshape", "unflatten", "view_as"})
CASTS = frozenset({"to", "_to_copy", "type_as"})
NUMBERS = frozenset({"item", "_local_scalar_dense"})  # of a tensor
SOFTMAXES = frozenset({"softmax", "log_softmax", "_softmax", "_log_softmax"})
TRACED_IMAGES = 2  # that a network is given while it is traced: the first dimension of shapes
WEIGHTED = frozenset({"conv2d", "linear"})  # layers, whose weights have the names of the network


@dataclass(frozen=True)
class Plain:
    """A plain graph.

    Attributes:
        values: the images, constants and operators, in order; the last one is the logits.
        constants: by name.
        learned: the constants that depend on what the network's state_dict holds.
        buffers: the constants that are buffers of the network.
        ends: softmaxes and sigmoids that the network applied to the logits, in their order.
    """

    values: tuple[Value, ...]
    constants: dict[str, Tensor]
    learned: frozenset[str]
    buffers: frozenset[str]
    ends: tuple[Value, ...] = ()


def trace_plain(network: nn.Module, image_side: int, channels: int, num_classes: int | None = None) -> Plain:
    """The plain graph of a network that is given images (n, channels, image_side, image_side).

    Raises NetworkRefused if the network does not take such images, cannot be traced, or gives no (n, classes).
    """
    like = floating_parameter(network)
    images = torch.zeros(TRACED_IMAGES, channels, image_side, image_side, dtype=like.dtype, device=like.device)
    with torch.no_grad(), torch.random.fork_rng(devices=[]), evaluating(network), quiet():
        _try(network, images)
        plain = _plain(_export(network, images), num_classes)
        if has_modes_of_its_own(network):  # its weights may be others when it leaves evaluation mode
            plain = replace(plain, constants={name: value.clone() for name, value in plain.constants.items()})
        return plain


def _try(network: nn.Module, images: Tensor) -> None:
    """Run the network as it is: its own errors say more than those of its export."""
    try:
        network(images)
    except Exception as error:
        raise refused(f"the network does not run on images {tuple(images.shape)}", error) from error


def exported(network: nn.Module, inputs: tuple[Tensor, ...]) -> ExportedProgram:
    """The program that torch exports of a network in evaluation mode, for any number of images.

    Args:
        network: of `inputs`.
        inputs: (2, ...) each.

    Raises whatever torch and the network's code raise.
    """
    parameters = inspect.signature(network.forward).parameters.values()
    batches: Any = tuple({0: Dim.DYNAMIC} for _ in inputs)
    if next(iter(parameters)).kind is inspect.Parameter.VAR_POSITIONAL:  # forward(*inputs), as of DataParallel
        batches = (batches,)
    try:
        return torch.export.export(network, inputs, dynamic_shapes=batches, strict=False)
    except Exception as error:
        if "specialized" not in str(error):
            raise
        # `len(images)` is a plain number in Python; the export that reads bytecode follows it. It knows less otherwise.
        with contextlib.suppress(Exception):
            return torch.export.export(network, inputs, dynamic_shapes=batches, strict=True)
        raise


def _export(network: nn.Module, images: Tensor) -> ExportedProgram:
    try:
        program = exported(network, (images,))
        _inline_regions(program.graph_module)
        return program.run_decompositions({}) if _writes_too_much(program.graph) else program
    except Exception as error:
        if "data-dependent" in str(error):
            place = where(error)
            raise NetworkRefused(f"the network's code decides by what its tensors hold: no one graph{place}") from error
        raise refused("the network cannot be traced", error) from error


def _inline_regions(module: fx.GraphModule) -> None:
    """Put operators in a region of autocast or of no_grad, which torch exports as a graph of its own, where others are.

    What autocast computes in fewer bits is computed in the network's own precision then.
    """
    for node in list(module.graph.nodes):
        if node.op != "call_function" or operator_of(node.target).kind not in REGIONS:
            continue
        place = next(place for place, given in enumerate(node.args) if isinstance(given, fx.Node))
        name = node.args[place]
        region = getattr(module, name.target)
        _inline_regions(region)
        inside = [each for each in region.graph.nodes if each.op == "placeholder"]
        outside = dict(zip(inside, node.args[place + 1 :], strict=True))
        with module.graph.inserting_before(node):
            for each in region.graph.nodes:
                if each.op == "output":
                    results = fx.map_arg(each.args[0], outside.__getitem__)
                elif each.op != "placeholder":
                    outside[each] = module.graph.node_copy(each, outside.__getitem__)
        for result in list(node.users):
            result.replace_all_uses_with(results[arguments(result).index])
            module.graph.erase_node(result)
        module.graph.erase_node(node)
        if not name.users:
            module.graph.erase_node(name)


def _writes_too_much(graph: fx.Graph) -> bool:
    """Whether something is written in place into memory that is read later under another name, or in a rare way.

    torch then makes the whole graph functional, which takes as long as tracing it.
    """
    order = {node: place for place, node in enumerate(graph.nodes)}
    names: dict[fx.Node, list[fx.Node]] = {}  # of a value's memory, by each of its names
    for node in graph.nodes:
        operand = _source(node)
        if _is_in_place(node):
            if operand is None or operand.op == "placeholder" or _functional(node.target) is None:
                return True
            others = [name for name in names[operand] if name is not operand]
            if any(order[user] > order[node] for name in others for user in name.users if user is not node):
                return True
        shares = _shares_memory(node) or _is_in_place(node)
        names[node] = names[operand] if operand is not None and shares else []
        names[node].append(node)
    return False


def _plain(program: ExportedProgram, num_classes: int | None) -> Plain:
    signature = program.graph_signature
    name_of = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    new: dict[fx.Node, Value] = {}
    written: dict[fx.Node, fx.Node] = {}  # what a value has become that was written into

    def latest(node: fx.Node) -> Value:
        while node in written:
            node = written[node]
        return new[node]

    for number, node in enumerate(program.graph.nodes):
        if node.op == "placeholder" and node.name in name_of:
            new[node] = Constant(number, name=name_of[node.name], **_meta(node))
        elif node.op == "placeholder":
            new[node] = images = Value(number, name="images", **_meta(node))
        elif node.op == "output":
            outputs = [latest(value) for value in node.args[0] if isinstance(value, fx.Node)]
        elif not operator_of(node.target).kind.startswith(CHECKS):
            new[node] = _plain_operator(number, node, latest)
            if _is_in_place(node):
                before = arguments(node).source
                while before in written:
                    before = written[before]
                written[before] = node
    logits, ends = _logits(outputs, num_classes)
    read = {value.name for value in new.values() if isinstance(value, Constant)}
    # In the order of the network's own state_dict; constants of the code, which it does not have, behind.
    tensors = {**program.state_dict, **program.constants}
    constants = {name: tensor.detach() for name, tensor in tensors.items() if name in read}
    values = needed([images, logits])
    _check_is_certain(values, {node.name: node for node in program.graph.nodes})
    values, constants, sources = _fold_constants(values, constants)
    values = needed([images, values[-1]])
    buffers, parameters = set(signature.buffers), set(signature.parameters)
    learned = frozenset(name for name, of_name in sources.items() if of_name & program.state_dict.keys())
    fixed = frozenset(name for name, of_name in sources.items() if of_name & buffers and not of_name & parameters)
    return Plain(tuple(values), constants, learned, fixed, ends)


def _check_is_certain(values: Sequence[Value], exported: dict[str, fx.Node]) -> None:
    """Raises NetworkRefused, with the line of the network's code, if its logits depend on random numbers."""
    for value in values:
        if value.target is not None and _is_random(value):
            frames = FRAME.findall(exported[value.name].meta.get("stack_trace") or "")
            raise NetworkRefused(RANDOM + (" ({}:{}: {})".format(*frames[-1]) if frames else ""))


def _meta(node: fx.Node) -> dict[str, Any]:
    """What a value of torch's graph is said to be: its shape, its number if it is a size, and where it is computed."""
    value = node.meta.get("val")
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    size = _hint(value) if isinstance(value, torch.SymInt | int) else None
    return {"shape": _shapes(value), "size": size, "path": stack[-1][0] if stack else ""}


def _plain_operator(number: int, node: fx.Node, latest: Callable[[fx.Node], Value]) -> Value:
    """The node's operator in its plain form, or its operand, if the operator does nothing."""
    operator = operator_of(node.target)
    source, given = _source(node), arguments(node)
    value: Any = node.meta.get("val")
    if operator.kind.removesuffix("_") in IDENTITIES and source is not None and not _is_random(node):
        return latest(source)
    if operator.kind in CASTS and source is not None and value.dtype == source.meta["val"].dtype:
        return latest(source)
    if operator.kind in ("copy", "copy_"):  # torch has no gradient of it
        copied = given.src.meta["val"]
        if _shapes(value) == _shapes(copied) and value.dtype == copied.dtype:
            return latest(given.src)
    made_by = "" if source is None or operator.kind != "getitem" else operator_of(source.target).kind
    if source is not None and made_by.startswith("_native_batch_norm_legit") and given.index == 0:
        return latest(source)
    target: Any = node.target
    args, kwargs = replaced((node.args, node.kwargs), fx.Node, latest)
    meta = _meta(node)
    if operator.kind == "_native_batch_norm_legit_no_training":
        *of_channels, momentum, eps = args
        target, args = aten.batch_norm.default, (*of_channels, False, momentum, eps, False)
        meta["shape"] = _shapes(value[0])
    elif operator.kind in RESHAPES and operator.overload != "aten.view.dtype":
        target, args, kwargs = aten.reshape.default, (latest(given.source), _reshape_sizes(value, latest, given)), {}
    elif _is_in_place(node):
        target = _functional(target)
    return Value(number, target, args, kwargs, name=node.name, **meta)


def _source(node: fx.Node) -> fx.Node | None:
    """The value that an operator works on, if it works on one."""
    given = getattr(arguments(node), "source", None) if node.op == "call_function" else None
    return given if isinstance(given, fx.Node) else None


def _is_random(call: Call) -> bool:
    """Whether the operator draws random numbers; a dropout does not that is turned off."""
    if torch.Tag.nondeterministic_seeded not in getattr(call.target, "tags", ()):
        return False
    given = vars(arguments(call))
    is_off = [given[name] is False for name in ("train", "training") if name in given]
    is_never = [given[name] == 0 for name in ("p", "dropout_p", "dropout") if isinstance(given.get(name), int | float)]
    return not any(is_off + is_never)


def _is_in_place(node: fx.Node) -> bool:
    """Whether the operator writes into its first operand."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _shares_memory(node: fx.Node) -> bool:
    """Whether the result may be in the memory of the first operand."""
    results = node.target._schema.returns if isinstance(node.target, torch._ops.OpOverload) else ()
    is_alias = any(result.alias_info is not None for result in results)
    return is_alias or operator_of(node.target).kind.removesuffix("_") in HIDDEN_VIEWS


def _hint(size: Any) -> Any:
    """A size as a number: where it depends on the number of images, as it was for two."""
    return size.node.hint if isinstance(size, torch.SymInt) else size


def _shapes(value: Any) -> Any:
    """The shape of a tensor as numbers, of several a list of shapes; None of what is no tensor."""
    if isinstance(value, Tensor):
        return tuple(_hint(size) for size in value.shape)
    if isinstance(value, list | tuple) and any(isinstance(part, Tensor) for part in value):
        return [_shapes(part) for part in value]
    return None


def _reshape_sizes(value: Tensor, latest: Callable[[fx.Node], Value], given: SimpleNamespace) -> list[Any]:
    """The sizes of a reshape: numbers, and -1 where the number of images decides, if that is one place only."""
    sizes = [-1 if isinstance(size, torch.SymInt) else size for size in value.shape]
    return sizes if sizes.count(-1) <= 1 else list(replaced(given.size, fx.Node, latest))


def _functional(target: Any) -> Any:
    """The operator that gives what an in-place one writes; None if there is none by this name."""
    packet = getattr(aten, target._schema.name.split("::")[1].removesuffix("_"), None)
    return getattr(packet, target._overloadname, None)


def _logits(outputs: list[Value], num_classes: int | None) -> tuple[Value, tuple[Value, ...]]:
    """The first output that is (n, num_classes), else (n, any); without softmaxes and sigmoids at its end, and these.

    A logit depends on its own class alone, and is not bounded.
    """
    shapes_of: list[Any] = [value.shape or () for value in outputs]
    found = [value for value, shape in zip(outputs, shapes_of, strict=True) if len(shape) == 2 and shape[0] == 2]
    if not found:
        given = ", ".join(str(("n", *shape[1:]) if shape[:1] == (2,) else shape) for shape in shapes_of)
        raise NetworkRefused(f"expected logits (n, classes), the network gives {given}")
    value = next((value for value in found if value.shape[1] == num_classes), found[0])
    ends: list[Value] = []
    while value.kind == "sigmoid" or (value.kind in SOFTMAXES and value.given.dim in (1, -1)):
        ends.insert(0, value)
        value = value.given.source
    return value, tuple(ends)


def _fold_constants(
    values: Sequence[Value], constants: dict[str, Tensor]
) -> tuple[list[Value], dict[str, Tensor], dict[str, Set[str]]]:
    """The values with a constant instead of every operator on constants: weight normalisation, fixed grids.

    Where a layer reads such a constant as its weight, it has the layer's name for that, as if the layer had never been
    parametrised. Returns with them the constants that are still read, and of each of them those that it is made of.
    """
    users = users_of(values)
    tensors: dict[Value, Tensor] = {}  # what depends on constants alone
    sources: dict[Value, Set[str]] = {}
    for value in values:
        if isinstance(value, Constant):
            tensors[value] = constants[value.name]
            sources[value] = {value.name}
        elif value.target is not None and all(operand in tensors for operand in value.operands):
            if torch.Tag.nondeterministic_seeded in getattr(value.target, "tags", ()):
                continue
            if value.kind in NUMBERS:
                raise NetworkRefused("the code turns a weight or a buffer into a number (.item()): use the tensor")
            tensors[value] = value.on(tensors.__getitem__).run()
            sources[value] = set().union(*(sources[operand] for operand in value.operands))
    new: dict[Value, Value] = {}
    still_read: dict[str, Tensor] = {}
    made_of: dict[str, Set[str]] = {}
    for value in values:
        readers = [user for user in users[value] if user not in tensors]
        if value not in tensors:
            new[value] = value.on(new.__getitem__) if value.target is not None else value
        elif readers:
            is_made = value.target is not None
            name = _name(value, readers[0], {*constants, *still_read}) if is_made else value.name
            new[value] = Constant(value.number, name=name, shape=_shapes(tensors[value]), path=value.path)
            still_read[name] = tensors[value].detach()
            made_of[name] = sources[value]
    in_order = [*(name for name in constants if name in still_read), *still_read]
    return list(new.values()), {name: still_read[name] for name in in_order}, made_of


def _name(value: Value, reader: Value, taken: set[str]) -> str:
    """What a computed constant is called: its reader's weight, if that name is free."""
    for role in ("weight", "bias") if reader.kind in WEIGHTED else ():
        name = f"{reader.path}.{role}" if reader.path else role
        if getattr(reader.given, role) is value and name not in taken:
            return name
    name = f"folded.{value.name}"
    return f"{name}_" if hasattr(nn.Module(), value.name) else name  # `to`, for example
