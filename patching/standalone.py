"""A patched model that leaves the project: as ONNX, or as weights (safetensors) and a Python file that anyone can read.

Both take RGB pixels as they are in an image file, so that nobody normalises in another way; what is run stands in the
Python file, operator after operator, and nothing of this project is needed.
"""

import contextlib
import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from dataset.image_files import Resize
from dataset.labelled_images import Normalisation
from models.graph.tracing import exported
from patching.as_reported import Answer, Reported, check_as_reported
from patching.rules import Learned
from utils.errors import UserError, reason
from utils.files import save_text, write_whole
from utils.given_places import check_place, check_places_differ, written_aside
from utils.quiet import quiet

SUFFIXES = (".onnx", ".py")
OPTION = "--save"
# What tells this project's files from others': only they are replaced.
MARK = {"written_by": "cnn-module-toolkit, scripts/patch_weak_model.py --save"}
FIRST_LINE = '"""A patched image classifier.'
HELPERS = {"inf": "from math import inf", "nan": "from math import nan", "device": "from torch import device"}


@dataclass(frozen=True)
class Form:
    """How a network is given images."""

    side: int
    resize: Resize
    normalisation: Normalisation


class PixelNetwork(nn.Module):
    """A network that is given pixels (n, side, side, 3) uint8, RGB."""

    def __init__(self, network: nn.Module, normalisation: Normalisation) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(normalisation.mean) * 255)
        self.register_buffer("std", torch.tensor(normalisation.std) * 255)

    def forward(self, pixels: Tensor) -> Tensor:
        """The network's outputs (n, ...) float32, whatever precision it gives: as they are evaluated."""
        return self.network(((pixels.float() - self.mean) / self.std).permute(0, 3, 1, 2)).float()


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


def check_save_paths(paths: Sequence[Path], inputs: Iterable[Path] = ()) -> None:
    """Raises UserError, before any work, where patched models cannot be saved to these paths.

    Args:
        paths: as for `save_standalone`.
        inputs: files that are read, and so not replaced.
    """
    given = list(inputs)
    for path in paths:
        _check_save_path(path)
        for file in _files_of(path):
            check_place(OPTION, file, is_saved_patch, given)
    check_places_differ(OPTION, (file for path in paths for file in _files_of(path)))


def is_saved_patch(path: Path) -> bool:
    """Whether a file, `.py`, `.safetensors` or `.onnx`, carries the mark of `save_standalone`."""
    try:
        if path.suffix == ".py":
            with path.open("rb") as file:
                return file.read(len(FIRST_LINE)) == FIRST_LINE.encode()
        if path.suffix == ".safetensors":
            with _package("safetensors").safe_open(path, "pt") as file:
                found = file.metadata() or {}
        else:
            content = _package("onnx").load(path, load_external_data=False)
            found = {each.key: each.value for each in content.metadata_props}
    except Exception:  # whatever a file that is something else makes its reader raise
        return False
    return MARK.items() <= found.items()


def save_standalone(model: StandalonePatch, path: Path, reported: Reported) -> list[Path]:
    """Write a patched model for use without this project, run what was written, and return the files.

    By the name's end: `.onnx`, or `.py` with the weights next to it in `.safetensors`. The model's device and training
    flags are as before afterwards. Raises UserError, and leaves no file, where the weak model cannot be exported, a
    package is missing, a file is there that is not replaced, or the saved model does not answer as reported.
    """
    check_save_paths([path])
    with written_aside(path.parent) as folder:
        written = folder / path.name
        with _as_exported(model):
            _save_onnx(model, written) if path.suffix == ".onnx" else _save_code(model, written)
        check_as_reported(path, lambda: _loaded(written, list(model.inputs)), reported)
        check_save_paths([path])
    return _files_of(path)


def check_weak_model_leaves(weak: nn.Module, form: Form) -> None:
    """Raises UserError for a weak model that cannot be saved; this takes seconds, and evaluating may take minutes."""
    examples = (torch.zeros(2, form.side, form.side, 3, dtype=torch.uint8),)
    with _as_exported(network := PixelNetwork(weak, form.normalisation)):
        _exported(network, examples)


def _check_save_path(path: Path) -> None:
    """Raises UserError for another format, a package that is missing, or a name that hides a module."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"{OPTION} {path}: expected a name that ends with {' or '.join(SUFFIXES)}")
    if path.suffix == ".py" and path.stem in {"torch", "safetensors", *sys.stdlib_module_names}:
        raise UserError(f"{OPTION} {path}: Python has a module {path.stem}; give another name")
    for package in ("onnx", "onnxscript", "onnxruntime") if path.suffix == ".onnx" else ("safetensors",):
        _package(package)


def _files_of(path: Path) -> list[Path]:
    return [path] if path.suffix == ".onnx" else [path, path.with_suffix(".safetensors")]


@contextlib.contextmanager
def _as_exported(model: nn.Module) -> Iterator[None]:
    """The model on the CPU and in evaluation mode, and then as it was."""
    training = [(module, module.training) for module in model.modules()]
    device = next((value.device for value in model.parameters()), torch.device("cpu"))
    try:
        model.to("cpu").eval()
        yield
    finally:
        model.to(device)
        for module, was_training in training:
            module.training = was_training


def _save_code(model: StandalonePatch, path: Path) -> None:
    code, weights = _as_code(model)
    content = _package("safetensors.torch").save(weights, metadata=MARK)
    write_whole(path.with_suffix(".safetensors"), lambda file: file.write(content))
    save_text(path, code.replace(DIGEST, hashlib.sha256(content).hexdigest()))


def _loaded(path: Path, inputs: Sequence[str]) -> Answer:
    return _loaded_onnx(path, inputs) if path.suffix == ".onnx" else _loaded_code(path)


def _loaded_code(path: Path) -> Answer:
    """The Python file as another program imports it."""
    spec = importlib.util.spec_from_file_location(f"saved_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    weights = module.load()
    return lambda *inputs: module.scores(weights, *map(torch.from_numpy, inputs)).numpy()


def _save_onnx(model: StandalonePatch, path: Path) -> None:
    batch = torch.export.Dim("batch", min=1, max=4096)
    names, examples = list(model.inputs), model.examples()
    network = _exported(model, examples).module()  # the same as in the Python file
    with quiet():
        try:
            program = torch.onnx.export(
                network,
                examples,
                input_names=names,
                output_names=["scores"],
                dynamo=True,
                dynamic_shapes=tuple({0: batch} for _ in names),
                verbose=False,
            )
            proto = program.model_proto
            _package("onnx").helper.set_model_props(proto, MARK)
            content = proto.SerializeToString()
        except Exception as error:
            raise UserError(f"the patched model cannot be exported to ONNX: {reason(error)}") from error
    write_whole(path, lambda file: file.write(content))


def _loaded_onnx(path: Path, names: Sequence[str]) -> Answer:
    """The ONNX file as ONNX Runtime runs it on the CPU."""
    onnxruntime = _package("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def answer(*inputs: np.ndarray) -> np.ndarray:
        return session.run(["scores"], dict(zip(names, inputs, strict=True)))[0]

    return answer


def _exported(model: nn.Module, examples: tuple[Tensor, ...]) -> Any:
    """The `ExportedProgram` of a model for any number of images. Raises UserError where it has none."""
    with torch.no_grad(), quiet():
        try:
            return exported(model, examples)
        except Exception as error:
            raise UserError(f"{OPTION}: the network cannot be exported: {reason(error)}") from error


def _as_code(model: StandalonePatch) -> tuple[str, dict[str, Tensor]]:
    """The Python file's text, and the weights by the names that it uses."""
    program = _exported(model, model.examples())
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
    resize = RESIZED[model.module_form.resize]
    what = "\n".join(f"{name}: {_in_words(name, shape, resize)}" for name, shape in model.inputs.items())
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


def _in_words(name: str, shape: tuple[int, ...], resize: str) -> str:
    if name == "weak_logits":
        return f"(n, {shape[0]}) float32, the weak model's logits"
    return (
        f"(n, {', '.join(map(str, shape))}) uint8, RGB, as numpy.asarray(PIL.Image) gives it in this size,\n  {resize}"
    )


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


DIGEST = "DIGEST_OF_THE_WEIGHTS"
RESIZED = {
    "stretch": "where it has another: both sides resized to it, PIL.Image.Resampling.BILINEAR",
    "crop": "where it has another: the square in its middle resized to it, PIL.Image.Resampling.BILINEAR",
}
TEMPLATE = (
    FIRST_LINE
    + ''' It needs torch and safetensors; its weights are next to it, in .safetensors.

    weights = load()
    answers = scores(weights, {names}).argmax(1)  # numbers of CLASSES

{what}
"""

from hashlib import sha256
from pathlib import Path

import safetensors.torch
import torch
{helpers}
CLASSES = {classes}
WEIGHTS_SHA256 = "DIGEST_OF_THE_WEIGHTS"


def load(device: str = "cpu") -> dict[str, torch.Tensor]:
    """The weights by name. Raises ValueError for weights that were not saved together with this file."""
    path = Path(__file__).with_suffix(".safetensors")
    content = path.read_bytes()
    if sha256(content).hexdigest() != WEIGHTS_SHA256:
        raise ValueError(f"{{path}}: expected the weights that were saved together with {{Path(__file__).name}}")
    return {{name: value.to(device) for name, value in safetensors.torch.load(content).items()}}


@torch.inference_mode()
def scores(weights: dict[str, torch.Tensor], {parameters}) -> torch.Tensor:
    """(n, classes) float32: the largest one decides."""
{lines}
{body}
'''
)
