"""A patched or composed model as a Python file: layers of torch, a `forward`, and what it states about itself.

It is written from what `torch.export` finds. Operators that follow each other and have layers become `nn.Sequential`,
all others stay calls, in their order.
"""

import ast
import inspect
import itertools
import json
import operator
import re
import sys
import textwrap
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from models.graph.tracing import DROPOUTS
from models.graph.values import arguments, operator_of
from patching.joined import Joined
from utils.errors import UserError

HELPERS = {"inf": "from math import inf", "nan": "from math import nan", "device": "from torch import device"}
WEIGHTS = ("weight", "bias", "running_mean", "running_var")
# Layers by operators. The layers' parameters are the operators' arguments of the same names, and sizes of weights.
LAYERS = {
    **{"conv2d": "Conv2d", "batch_norm": "BatchNorm", "linear": "Linear", "flatten": "Flatten"},
    **{"max_pool2d": "MaxPool2d", "avg_pool2d": "AvgPool2d", "adaptive_avg_pool2d": "AdaptiveAvgPool2d"},
    **{"relu": "ReLU", "hardtanh": "Hardtanh", "leaky_relu": "LeakyReLU", "elu": "ELU", "gelu": "GELU", "silu": "SiLU"},
    **{"hardswish": "Hardswish", "hardsigmoid": "Hardsigmoid", "sigmoid": "Sigmoid", "tanh": "Tanh", "mish": "Mish"},
}
Layer: TypeAlias = tuple[str, dict[str, fx.Node]]  # as code, and its weights by its own names for them
INFIX = {"add": operator.add, "sub": operator.sub, "mul": operator.mul, "div": operator.truediv}
SLICE = r"torch\.ops\.aten\.slice\.Tensor\((\w+), (\d+), (-?\d+), (-?\d+)(?:, (\d+))?\)"
LONGEST = 100
METHODS = {"aten.to.dtype": "to", "aten.view.default": "view"}


def as_code(model: Joined, program: ExportedProgram, stated: Mapping[str, str]) -> tuple[str, dict[str, Tensor]]:
    """The Python file's text, with DIGEST where the digest of the weights belongs, and the weights by its names.

    Raises UserError for a model that calls what is neither torch nor Python.

    Args:
        model: patched or composed.
        program: exported of the model; its graph is changed.
        stated: what the file states about itself.
    """
    graph, signature, stored = program.graph, program.graph_signature, {**program.state_dict, **program.constants}
    name_of = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    _clean(graph)
    given = list(graph.find_nodes(op="placeholder"))
    names = {node: name_of[node.target] for node in given if node.target in name_of}
    tensors = {node: stored[name].detach().clone().contiguous() for node, name in names.items()}
    weights: dict[str, Tensor] = {}
    attributes: dict[str, str] = {}
    for chain in _chains(graph, tensors):
        layers, first = list(chain.values()), next(iter(chain))
        attribute = _free([names[node].split(".")[:-1] for _, own in layers for node in own.values()], attributes)
        for place, (_, own) in enumerate(layers):
            prefix = f"{attribute}.{place}" if len(layers) > 1 else attribute
            weights |= {f"{prefix}.{role}": tensors[node] for role, node in own.items()}
        attributes[attribute] = _in_sequence([text for text, _ in layers])
        with graph.inserting_before(first):
            called = graph.create_node("call_module", attribute, (arguments(first).source,))
        next(reversed(chain)).replace_all_uses_with(called)
        for node in reversed(chain):
            graph.erase_node(node)
    inputs, buffers = iter(model.inputs), {}
    for node in given:  # those that come first keep their names
        if node not in names:
            node.name = node.target = next(inputs)
        elif node.users:
            node.name = node.target = name = _free([names[node].split(".")], attributes)
            attributes[name] = f"nn.Buffer(torch.empty({list(tensors[node].shape)}))"
            buffers[name] = tensors[node]
    for node in _calls(graph):
        _as_usual(node)
    output = graph.output_node()
    output.args = output.args[0][:1]
    python = graph.python_code("self")
    body = python.src[python.src.index("def forward") :].partition("\n")[2].rstrip()
    body = re.sub(r";  [\w =]+ = None$", "", body, flags=re.MULTILINE)  # what is let go
    body = re.sub(SLICE, _indexed, body)
    if buffers:
        body = re.sub(rf"\b({'|'.join(buffers)})\b", r"self.\1", body)
    used = {name for name in python.globals if re.search(rf"(?<![\w.]){name}\b", body)} - {"torch"}
    if unknown := used - HELPERS.keys():
        raise UserError(f"the {model.kind} model cannot be written as code: it uses {', '.join(sorted(unknown))}")
    code = TEMPLATE.format(
        kind=model.kind,
        helpers="".join(f"{line}\n" for name, line in HELPERS.items() if name in used),
        classes=repr(list(model.classes)),
        stated="\n".join(f"{name.upper()} = {json.loads(stated[name])!r}" for name in ("versions", "made_of")),
        parameters=", ".join(f"{name}: torch.Tensor" for name in model.inputs),
        names=", ".join(model.inputs),
        use="\n".join(f"    {name} = {_from_image(model, name)}" for name in model.inputs),
        what="\n".join(f"{name}: {_in_words(model, name)}" for name in model.inputs),
        checked="\n".join(_check(model, name) for name in model.inputs),
        layers="\n".join(f"        self.{name} = {text}" for name, text in attributes.items()),
        body=textwrap.indent(_nested(textwrap.dedent(body)), " " * 8),
    )
    return code, weights | buffers


def _calls(graph: fx.Graph) -> list[fx.Node]:
    return [node for node in graph.nodes if node.op == "call_function"]


def _clean(graph: fx.Graph) -> None:
    """Leave out assertions, and operators that give what they are given."""
    for node in reversed(_calls(graph)):
        if _does_nothing(node):
            node.replace_all_uses_with(arguments(node).source)
            graph.erase_node(node)
        elif not node.users and "assert" in str(node.target):
            graph.erase_node(node)
    graph.eliminate_dead_code()


def _does_nothing(node: fx.Node) -> bool:
    given, known = arguments(node), operator_of(node.target)
    if known.kind == "slice":
        return (given.start or 0, given.end, given.step) == (0, sys.maxsize, 1)
    if known.overload == "aten.to.dtype":
        return (given.dtype, given.copy, given.memory_format) == (given.source.meta["val"].dtype, False, None)
    return known.kind in DROPOUTS and not given.train


def _chains(graph: fx.Graph, tensors: Mapping[fx.Node, Tensor]) -> list[dict[fx.Node, Layer]]:
    """Runs of operators that have layers, and these: each one reads the one before, which nothing else does.

    They follow each other in the graph too, as some may write in place. Runs without weights are left out.
    """
    chains: list[dict[fx.Node, Layer]] = [{}]
    for node in _calls(graph):
        last, layer = next(reversed(chains[-1]), None), _layer(node, tensors)
        if layer is None or last is None or arguments(node).source is not last or len(last.users) > 1:
            chains.append({})
        if layer is not None:
            chains[-1][node] = layer
    return [chain for chain in chains if any(own for _, own in chain.values())]


def _layer(node: fx.Node, tensors: Mapping[fx.Node, Tensor]) -> Layer | None:
    """The layer that computes the same as an operator; None if torch has none, or others read one of its weights."""
    kind, given = operator_of(node.target).kind, arguments(node)
    name = LAYERS.get(kind.removesuffix("_"), "")
    own = {role: value for role in WEIGHTS if isinstance(value := getattr(given, role, None), fx.Node)}
    if not name or {given.source, *own.values()} != set(node.all_input_nodes) or getattr(given, "training", False):
        return None
    if any(each not in tensors or len(each.users) > 1 for each in own.values()):
        return None
    options = {**vars(given), "inplace": kind.endswith("_"), "affine": "weight" in own, "bias": "bias" in own}
    if name == "BatchNorm":
        name = {4: "BatchNorm2d", 5: "BatchNorm3d"}.get(node.meta["val"].dim(), "BatchNorm1d")
        options |= {"num_features": len(tensors[own["running_mean"]]), "bias": options["bias"] or not options["affine"]}
    elif own:
        outputs, inputs, *kernel = tensors[own["weight"]].shape
        options |= {"in_features": inputs, "out_features": outputs, "out_channels": outputs, "kernel_size": kernel}
        options["in_channels"] = inputs * getattr(given, "groups", 1)
    parameters = inspect.signature(getattr(nn, name)).parameters
    if options["inplace"] and "inplace" not in parameters:
        return None
    return f"nn.{name}({', '.join(_options(parameters, options))})", own


def _options(parameters: Mapping[str, inspect.Parameter], given: Mapping[str, Any]) -> Iterator[str]:
    """The arguments of a layer that are not its defaults."""
    for name, parameter in parameters.items():
        value = given.get(name, parameter.default)
        if isinstance(value, list | tuple):
            value = value[0] if len(set(value)) == 1 else tuple(value) or None
        if parameter.default is inspect.Parameter.empty:
            yield repr(value)
        elif value != parameter.default:
            yield f"{name}={value!r}"


def _as_usual(node: fx.Node) -> None:
    """Call an operator by the name that programs use, where torch has that for the same arguments."""
    known = operator_of(node.target)
    usual = getattr(torch._C._VariableFunctions, known.kind, None)
    if known.kind in INFIX and len(node.args) == 2 and not node.kwargs:
        node.target = INFIX[known.kind]
    elif known.overload in METHODS:
        node.op, node.target = "call_method", METHODS[known.overload]
    elif known.overload.startswith("aten.") and usual is not None and usual is getattr(torch, known.kind):
        node.target = usual


def _indexed(found: re.Match[str]) -> str:
    source, dim, start, end, step = found.groups()
    text = f"{start}:{'' if end == str(sys.maxsize) else end}{f':{step}' if step else ''}"
    return f"{source}[{':, ' * int(dim)}{text}]"


def _nested(body: str) -> str:
    """The same statements, with a value that only the next one reads in its place, while lines stay short."""
    done = [""]
    for line in body.splitlines():
        name, _, value = done[-1].partition(" = ")
        use = re.compile(rf"(?<![\w.]){name or '$'}\b(?! =)")
        nested = ast.unparse(ast.parse(use.sub(f"({value})".replace("\\", r"\\"), line)))
        if len(use.findall(body)) == len(use.findall(line)) == 1 and len(nested) <= LONGEST:
            done[-1] = nested
        else:
            done.append(line)
    return "\n".join(done[1:])


def _free(paths: Sequence[Sequence[str]], taken: Container[str]) -> str:
    """An attribute's name, by what the names of its weights have in common."""
    common = itertools.takewhile(lambda words: len({*words}) == 1, zip(*paths, strict=False))
    name = re.sub(r"\W", "_", "_".join(word for word, *_ in common if word != "network"))
    names = itertools.chain([name], (f"{name}_{number}" for number in itertools.count(2)))
    return next(each for each in names if each not in taken)


def _in_sequence(layers: Sequence[str]) -> str:
    """Layers as code; what follows a convolution stands in its line."""
    if len(layers) == 1:
        return layers[0]
    text = ", ".join(layers)
    starts = re.sub(r", (?=nn\.(Conv2d|Linear))", ",\n            ", text)
    return f"nn.Sequential(\n            {starts},\n        )"


def _in_words(model: Joined, name: str) -> str:
    shape, form = model.inputs[name], model.forms.get(name)
    if form is None:
        return f"(n, {shape[0]}) float32, {model.answers_in_words(shape[0], 'CLASSES')}"
    size = ", ".join(map(str, shape))
    return (
        f"(n, {size}) uint8, RGB from 0 to 255, normalised here;\n"
        f"  {DECODED};\n  an image of another size: {RESIZED[form.resize]}"
    )


def _check(model: Joined, name: str) -> str:
    """What refuses an input for which the answers would be wrong."""
    shape, dtype = model.inputs[name], "uint8" if name in model.forms else "float32"
    size = ", ".join(map(str, shape))
    return (
        f"    if {name}.dtype != torch.{dtype} or tuple({name}.shape[1:]) != {shape}:\n"
        f'        raise ValueError(f"{name}: expected (n, {size}) {dtype}, '
        f'given {{tuple({name}.shape)}} {{{name}.dtype}}")'
    )


def _from_image(model: Joined, name: str) -> str:
    """An expression that makes an input of `image`, in the way in which the dataset's images were made."""
    form = model.forms.get(name)
    if form is None:
        return f"torch.zeros(1, {model.inputs[name][0]})  # instead of zeros, what the weak model says of the image"
    size = f"({form.side}, {form.side}), {'method=' if form.resize == 'crop' else ''}Image.Resampling.BILINEAR)"
    resized = f"image.resize({size}" if form.resize == "stretch" else f"ImageOps.fit(image, {size}"
    return f"torch.from_numpy(numpy.array({resized}))[None]"


DECODED = "as seen: upright, on white where transparent; grey of 16 bits scaled to 8 first"
DIGEST = "DIGEST_OF_THE_WEIGHTS"
RESIZED = {
    "stretch": "both sides resized to it, PIL.Image.Resampling.BILINEAR",
    "crop": "the square in its middle resized to it, PIL.Image.Resampling.BILINEAR",
}
TEMPLATE = '''"""A {kind} image classifier. It needs torch and safetensors; its weights are next to it, in .safetensors.

How to use it (after `import numpy, torch` and `from PIL import Image, ImageOps`):

    image = ImageOps.exif_transpose(Image.open("photo.png")).convert("RGBA")  # upright, on white if transparent
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
{use}
    print(CLASSES[int(scores(load(), {names}).argmax())])

{what}
"""

from hashlib import sha256
from pathlib import Path

import safetensors.torch
import torch
{helpers}from torch import nn

CLASSES = {classes}
{stated}
WEIGHTS_SHA256 = "DIGEST_OF_THE_WEIGHTS"


class Classifier(nn.Module):
    """(n, classes) float32, in the order of CLASSES: the largest one decides."""

    def __init__(self) -> None:
        super().__init__()
{layers}

    def forward(self, {parameters}) -> torch.Tensor:
{body}


def load(device: str = "cpu") -> Classifier:
    """The classifier. Raises ValueError for weights that were not saved together with this file."""
    path = Path(__file__).with_suffix(".safetensors")
    content = path.read_bytes()
    if sha256(content).hexdigest() != WEIGHTS_SHA256:
        raise ValueError(f"{{path}}: expected the weights that were saved together with {{Path(__file__).name}}")
    with torch.device("meta"):  # the weights take the place of those that layers begin with
        classifier = Classifier()
    classifier.load_state_dict(safetensors.torch.load(content), assign=True)
    return classifier.eval().to(device)


@torch.inference_mode()
def scores(classifier: Classifier, {parameters}) -> torch.Tensor:
    """What a classifier of `load` answers: (n, classes) float32. Raises ValueError for other inputs."""
{checked}
    return classifier({names})
'''
