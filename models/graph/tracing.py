"""From a network to a plain graph: aten operators in order, nothing in place, weights by name.

torch.export is the way in, in evaluation mode and for any number of images. Behind it the graph is made plain, so that
what follows knows few forms: operators that write in place become their functional ones, views become reshapes, what
does nothing in evaluation mode is gone, and what depends on weights alone is computed once.
"""

import contextlib
import inspect
import re
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram

from models.graph.arguments import arguments
from models.graph.atoms import (
    CASTS,
    IDENTITIES,
    RESHAPES,
    SOFTMAXES,
    function_name,
    hint,
    is_constant,
    is_in_place,
    is_random,
    kind,
    overload,
    shapes,
    shares_memory,
)
from models.graph.constants import fold_constants
from models.graph.errors import RANDOM, NetworkRefused, refused, where
from models.graph.evaluating import evaluating, floating_parameter, has_modes_of_its_own
from utils.quiet import quiet

aten = torch.ops.aten
REGIONS = ("wrap_with_autocast", "wrap_with_set_grad_enabled")
FRAME = re.compile(r'File "(.+)", line (\d+), in .*\n\s*(.*)')  # of a stack trace
CHECKS = ("_assert", "sym_constrain", "_functional_assert")


@dataclass(frozen=True)
class Plain:
    """A plain graph: one placeholder, get_attr nodes for constants, aten operators, the logits.

    A node's meta has `shape` (of two images; a list for several results), `size` if it is a number, and `path`, the
    module that it stands in.
    """

    nodes: fx.Graph
    constants: dict[str, Tensor]
    learned: frozenset[str]  # the constants that depend on what the network's state_dict holds
    buffers: frozenset[str]  # the constants that are buffers of the network
    ends: tuple[fx.Node, ...] = ()  # softmaxes and sigmoids that the network applied to the logits, in their order


def trace_plain(network: nn.Module, image_side: int, channels: int, num_classes: int | None = None) -> Plain:
    """The plain graph of a network that is given images (n, channels, image_side, image_side).

    Raises NetworkRefused where the network does not take such images, cannot be traced, or gives no (n, classes).
    """
    like = floating_parameter(network)
    images = torch.zeros(2, channels, image_side, image_side, dtype=like.dtype, device=like.device)
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
            raise NetworkRefused(f"the network's code decides by what its maps hold: no one graph{place}") from error
        raise refused("the network cannot be traced", error) from error


def _inline_regions(module: fx.GraphModule) -> None:
    """Put operators in a region of autocast or of no_grad, which torch exports as a graph of its own, where others are.

    What autocast computes in fewer bits is computed in the network's own precision then.
    """
    for node in list(module.graph.nodes):
        if function_name(node.target) not in REGIONS or node.op != "call_function":
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
        shares = operand is not None and (shares_memory(node) or is_in_place(node))
        if is_in_place(node):
            if not shares or operand.op == "placeholder" or _functional(node.target) is None:
                return True
            others = [name for name in names[operand] if name is not operand]
            if any(order[user] > order[node] for name in others for user in name.users if user is not node):
                return True
        names[node] = names[operand] if shares else []
        names[node].append(node)
    return False


def _plain(program: ExportedProgram, num_classes: int | None) -> Plain:
    signature = program.graph_signature
    name_of = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    tensors = {**program.state_dict, **program.constants}
    graph, new = fx.Graph(), {}
    written: dict[fx.Node, fx.Node] = {}  # what a value has become that was written into

    def latest(node: fx.Node) -> fx.Node:
        while node in written:
            node = written[node]
        return new[node]

    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in name_of:
            new[node] = graph.create_node("get_attr", name_of[node.name])
        elif node.op == "placeholder":
            new[node] = graph.placeholder("images")
        elif node.op == "output":
            outputs = [latest(value) for value in node.args[0] if isinstance(value, fx.Node)]
            logits, ends = _logits(outputs, num_classes)
            graph.output(logits)
            continue
        elif kind(node).startswith(CHECKS):
            continue
        else:
            new[node] = _plain_operator(graph, node, latest)
            if is_in_place(node):
                before = arguments(node).source
                while before in written:
                    before = written[before]
                written[before] = node
        if "shape" not in new[node].meta:
            new[node].meta = _meta(node)
    names = {node.target for node in graph.nodes if is_constant(node)}
    # In the order of the network's own state_dict; constants of the code, which it does not have, behind.
    constants = {name: value.detach() for name, value in tensors.items() if name in names}
    learned = frozenset(names & set(program.state_dict))
    erase_unused(graph)
    _check_is_certain(graph, {node.name: node for node in program.graph.nodes})
    constants, learned = fold_constants(graph, constants, learned)
    erase_unused(graph)
    return Plain(graph, constants, learned, frozenset(constants) & frozenset(signature.buffers), ends)


def _check_is_certain(graph: fx.Graph, exported: dict[str, fx.Node]) -> None:
    """Raises NetworkRefused, with the line of the network's code, where its logits depend on random numbers."""
    for node in graph.nodes:
        if is_random(node):
            frames = FRAME.findall(exported[node.name].meta.get("stack_trace") or "")
            raise NetworkRefused(RANDOM + (" ({}:{}: {})".format(*frames[-1]) if frames else ""))


def _meta(node: fx.Node) -> dict[str, Any]:
    value = node.meta.get("val")
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    meta = {"shape": shapes(value), "path": stack[-1][0] if stack else ""}
    if isinstance(value, torch.SymInt | int):
        meta["size"] = hint(value)
    return meta


def _plain_operator(graph: fx.Graph, node: fx.Node, latest: Any) -> fx.Node:
    """The node's operator in its plain form, or its operand, if the operator does nothing."""
    name = kind(node)
    source, given = _source(node), arguments(node)
    value = node.meta.get("val")
    if name.removesuffix("_") in IDENTITIES and source is not None and not is_random(node):
        return latest(source)
    if name in CASTS and source is not None and value.dtype == source.meta["val"].dtype:
        return latest(source)
    if name in ("copy", "copy_") and _alike(value, given.src.meta["val"]):
        return latest(given.src)  # torch has no gradient of the operator
    if name == "getitem" and kind(source).startswith("_native_batch_norm_legit") and given.index == 0:
        return latest(source)
    args, kwargs = fx.map_arg(node.args, latest), fx.map_arg(node.kwargs, latest)
    target = node.target
    if name == "_native_batch_norm_legit_no_training":
        *of_channels, momentum, eps = args
        made = graph.call_function(aten.batch_norm.default, (*of_channels, False, momentum, eps, False))
        made.meta = {**_meta(node), "shape": shapes(value[0])}
        return made
    if name in RESHAPES and overload(node) != "aten.view.dtype":
        target, args, kwargs = aten.reshape.default, (latest(source), _reshape_sizes(value, latest, given)), {}
    elif is_in_place(node):
        target = _functional(target)
    return graph.create_node("call_function", target, args, kwargs, name=node.name)


def _source(node: fx.Node) -> fx.Node | None:
    """The value that an operator works on, if it works on one."""
    given = getattr(arguments(node), "source", None) if node.op == "call_function" else None
    return given if isinstance(given, fx.Node) else None


def _alike(value: Tensor, other: Tensor) -> bool:
    return shapes(value) == shapes(other) and value.dtype == other.dtype


def _reshape_sizes(value: Tensor, latest: Any, given: SimpleNamespace) -> list[Any]:
    """The sizes of a reshape: numbers, and -1 where the number of images decides, if that is one place only."""
    sizes = [-1 if isinstance(size, torch.SymInt) else size for size in value.shape]
    return sizes if sizes.count(-1) <= 1 else list(fx.map_arg(given.size, latest))


def _functional(target: Any) -> Any:
    """The operator that gives what an in-place one writes; None if there is none by this name."""
    packet = getattr(aten, target._schema.name.split("::")[1].removesuffix("_"), None)
    return getattr(packet, target._overloadname, None)


def _logits(outputs: list[fx.Node], num_classes: int | None) -> tuple[fx.Node, tuple[fx.Node, ...]]:
    """The first output that is (n, num_classes), else (n, any); without softmaxes and sigmoids at its end, and these.

    A logit depends on its own class alone, and is not bounded.
    """
    shapes_of = [node.meta.get("shape") or () for node in outputs]
    found = [node for node, shape in zip(outputs, shapes_of, strict=True) if len(shape) == 2 and shape[0] == 2]
    if not found:
        given = ", ".join(str(("n", *shape[1:]) if shape[:1] == (2,) else shape) for shape in shapes_of)
        raise NetworkRefused(f"expected logits (n, classes), the network gives {given}")
    node, ends = next((node for node in found if node.meta["shape"][1] == num_classes), found[0]), []
    while kind(node) == "sigmoid" or (kind(node) in SOFTMAXES and arguments(node).dim in (1, -1)):
        ends.insert(0, node)
        node = arguments(node).source
    return node, tuple(ends)


def erase_unused(graph: fx.Graph) -> None:
    """Take out what nothing depends on."""
    for node in reversed(graph.nodes):
        if not node.users and node.op not in ("placeholder", "output"):
            graph.erase_node(node)
