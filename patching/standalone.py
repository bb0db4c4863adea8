"""A patched model that leaves the project: as ONNX, or as weights (safetensors) and a Python file that anyone can read.

Both take RGB pixels as they are in an image file, so that nobody normalises in another way; what is run stands in the
Python file, operator after operator, and nothing of this project is needed.
"""

import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, fx, nn

from dataset.labelled_images import Normalisation
from patching.rules import Learned
from utils.errors import UserError, reason
from utils.files import save_text, write_whole
from utils.quiet import quiet

SUFFIXES = (".onnx", ".py")
HELPERS = {"inf": "from math import inf", "nan": "from math import nan", "device": "from torch import device"}


@dataclass(frozen=True)
class Form:
    """How a network is given images."""

    side: int
    normalisation: Normalisation


class PixelNetwork(nn.Module):
    """A network that is given pixels (n, side, side, 3) uint8, RGB."""

    def __init__(self, network: nn.Module, normalisation: Normalisation) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(normalisation.mean) * 255)
        self.register_buffer("std", torch.tensor(normalisation.std) * 255)

    def forward(self, pixels: Tensor) -> Tensor:
        """The network's outputs (n, ...)."""
        return self.network(((pixels.float() - self.mean) / self.std).permute(0, 3, 1, 2))


class StandalonePatch(nn.Module):
    """A weak model, the modules of its target classes and the rule.

    Args:
        weak: the weak model; None where only its logits are known.
        weak_form: its images.
        modules: in the order of the rule's columns.
        module_form: their images.
        rule: joins them.
        classes: the names of the scores.
    """

    def __init__(
        self,
        weak: nn.Module | None,
        weak_form: Form | None,
        modules: Sequence[nn.Module],
        module_form: Form,
        rule: Learned,
        classes: Sequence[str],
    ) -> None:
        super().__init__()
        self.weak = PixelNetwork(weak, weak_form.normalisation) if weak is not None and weak_form else None
        self.parts = nn.ModuleList(PixelNetwork(module, module_form.normalisation) for module in modules)
        self.rule, self.classes = rule, tuple(classes)
        self.weak_form, self.module_form = weak_form, module_form
        self.eval()

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """The inputs by their names, and the shape of one image's."""
        pixels = (self.module_form.side, self.module_form.side, 3)
        if self.weak is None or self.weak_form is None:
            return {"weak_logits": (self.rule.weight.shape[1] - len(self.parts),), "pixels": pixels}
        if self.weak_form.side == self.module_form.side:
            return {"pixels": pixels}
        return {"weak_pixels": (self.weak_form.side, self.weak_form.side, 3), "module_pixels": pixels}

    def forward(self, first: Tensor, second: Tensor | None = None) -> Tensor:
        """Scores (n, classes) of `inputs`: the largest one decides."""
        weak = first if self.weak is None else self.weak(first)
        pixels = first if second is None else second
        return self.rule(weak, torch.cat([part(pixels) for part in self.parts], 1))

    def examples(self, count: int = 2) -> tuple[Tensor, ...]:
        """Inputs of the right form."""
        return tuple(
            torch.zeros(count, *shape, dtype=torch.float32 if name == "weak_logits" else torch.uint8)
            for name, shape in self.inputs.items()
        )


def check_save_path(path: Path) -> None:
    """Raises UserError where a patched model cannot be saved so."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"--save {path}: expected a name that ends with {' or '.join(SUFFIXES)}")
    for package in ("onnx", "onnxscript") if path.suffix == ".onnx" else ("safetensors",):
        _package(package)


def save_standalone(model: StandalonePatch, path: Path) -> list[Path]:
    """Write a patched model for use without this project, and return the files.

    By the name's end: `.onnx`, or `.py` with the weights beside it in `.safetensors`. Raises UserError where the weak
    model cannot be exported, or a package is missing.
    """
    check_save_path(path)
    model = model.to("cpu").eval()
    if path.suffix == ".onnx":
        return [_save_onnx(model, path)]
    code, weights = _as_code(model)
    weights_file = path.with_suffix(".safetensors")
    content = _package("safetensors.torch").save(weights)
    write_whole(weights_file, lambda file: file.write(content))
    save_text(path, code)
    return [path, weights_file]


def _save_onnx(model: StandalonePatch, path: Path) -> Path:
    batch = torch.export.Dim("batch", min=1, max=4096)
    names, examples = list(model.inputs), model.examples()
    with quiet():
        try:
            program = torch.onnx.export(
                model,
                examples,
                input_names=names,
                output_names=["scores"],
                dynamo=True,
                dynamic_shapes=tuple({0: batch} for _ in names),
                verbose=False,
            )
        except Exception as error:
            raise UserError(f"the patched model cannot be exported to ONNX: {reason(error)}") from error
        path.parent.mkdir(parents=True, exist_ok=True)
        program.save(str(path))
    return path


def _as_code(model: StandalonePatch) -> tuple[str, dict[str, Tensor]]:
    """The Python file's text, and the weights by the names that it uses."""
    with torch.no_grad(), quiet():
        try:
            shapes = tuple({0: torch.export.Dim.DYNAMIC} for _ in model.inputs)
            program = torch.export.export(model, model.examples(), dynamic_shapes=shapes, strict=False)
        except Exception as error:
            raise UserError(f"the patched model cannot be written as code: {reason(error)}") from error
    signature, tensors = program.graph_signature, {**program.state_dict, **program.constants}
    name_of = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    graph = _without_checks(program.graph)
    weights, lines, inputs = {}, [], list(model.inputs)
    for node in graph.nodes:
        if node.op == "placeholder":
            if node.target in name_of:
                name = name_of[node.target]
                if node.users:
                    weights[name] = tensors[name].detach().clone().contiguous()
                    lines.append(f"    {node.name} = weights[{name!r}]")
            else:
                lines.append(f"    {node.name} = {inputs.pop(0)}")
    python = graph.python_code("self")
    body = python.src[python.src.index("def forward") :].partition("\n")[2].rstrip()
    answer = next(node for node in graph.nodes if node.op == "output").args[0][0]
    body = f"{body[: body.rindex('return ')]}return {answer}"
    used = {name for name in python.globals if re.search(rf"(?<![\w.]){name}\b", body)} - {"torch"}
    if unknown := used - HELPERS.keys():
        raise UserError(f"the patched model cannot be written as code: it uses {', '.join(sorted(unknown))}")
    helpers = [line for name, line in HELPERS.items() if name in used]
    parameters = ", ".join(f"{name}: torch.Tensor" for name in model.inputs)
    what = "\n".join(f"{name}: {_in_words(name, shape)}" for name, shape in model.inputs.items())
    code = TEMPLATE.format(
        helpers="".join(f"{line}\n" for line in helpers),
        classes=repr(list(model.classes)),
        parameters=parameters,
        names=", ".join(model.inputs),
        what=what,
        lines="\n".join(lines),
        body=body,
    )
    return code, weights


def _in_words(name: str, shape: tuple[int, ...]) -> str:
    if name == "weak_logits":
        return f"(n, {shape[0]}) float32, the weak model's logits"
    return f"(n, {', '.join(map(str, shape))}) uint8, RGB, as numpy.asarray(PIL.Image) gives it in this size"


def _without_checks(graph: fx.Graph) -> fx.Graph:
    """The graph without the exporter's assertions."""
    for node in reversed(list(graph.nodes)):
        if node.op == "call_function" and not node.users and "assert" in str(node.target):
            graph.erase_node(node)
    graph.eliminate_dead_code()
    return graph


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        extra = "safetensors" if name.startswith("safetensors") else "onnx"
        raise UserError(f"--save needs {name} ({reason(error)}); first run: pip install -e .[{extra}]") from None


TEMPLATE = '''"""A patched image classifier. It needs torch and safetensors; its weights lie beside it, in .safetensors.

    weights = load()
    answers = scores(weights, {names}).argmax(1)  # numbers of CLASSES

{what}
"""

from pathlib import Path

import torch
from safetensors.torch import load_file
{helpers}
CLASSES = {classes}


def load(device: str = "cpu") -> dict[str, torch.Tensor]:
    """The weights by name."""
    return load_file(Path(__file__).with_suffix(".safetensors"), device=device)


@torch.inference_mode()
def scores(weights: dict[str, torch.Tensor], {parameters}) -> torch.Tensor:
    """(n, classes) float32: the largest one decides."""
{lines}
{body}
'''
