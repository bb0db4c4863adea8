"""A patched or composed model is saved: as `.pth`, which this project loads, as ONNX, or as a Python file and weights.

All of them take RGB pixels as they are in an image file, so that normalisation cannot differ. The Python file has
the network's layers and its `forward`, next to weights (safetensors); like ONNX it needs nothing of this project. Both
state their classes, the form of their images, and what they were made of and with.
"""

import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import keyword
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.graph.evaluating import evaluating
from models.graph.tracing import exported
from patching.as_code import DECODED, DIGEST, RESIZED, as_code
from patching.as_reported import Answer, Reported, check_as_reported
from patching.joined import Joined, is_saved_model
from patching.members import Member
from utils.errors import UserError, reason
from utils.files import save_text, write_whole
from utils.given_places import check_place, check_places_differ, written_aside
from utils.progress import quiet

SUFFIXES = (".onnx", ".pth", ".py")
OPTION = "--save"
# What tells this project's files from others': only they are replaced.
MARK = {"written_by": "cnn-module-toolkit, scripts/patch_weak_model.py --save"}
FIRST_LINE = re.compile(rb'"""A (patched|composed) image classifier\.')


def check_save_paths(paths: Sequence[Path], inputs: Iterable[Path] = ()) -> None:
    """Raises UserError, before any work, where models cannot be saved to these paths.

    Args:
        paths: as for `save_as_reported`.
        inputs: files that are read, and so not replaced.
    """
    given = list(inputs)
    for path in paths:
        _check_save_path(path)
        for file in _files_of(path):
            check_place(OPTION, file, is_saved_patch, given)
    check_places_differ(OPTION, (file for path in paths for file in _files_of(path)))


def is_saved_patch(path: Path) -> bool:
    """Whether a file, `.pth`, `.py`, `.safetensors` or `.onnx`, is one of `save_as_reported`."""
    if path.suffix == ".pth":
        return is_saved_model(path)
    try:
        if path.suffix == ".py":
            with path.open("rb") as file:
                return FIRST_LINE.match(file.read(100)) is not None
        if path.suffix == ".safetensors":
            with _package("safetensors").safe_open(path, "pt") as file:
                found = file.metadata() or {}
        else:
            content = _package("onnx").load(path, load_external_data=False)
            found = {each.key: each.value for each in content.metadata_props}
    except Exception:  # whatever a file that is something else makes its reader raise
        return False
    return MARK.items() <= found.items()


def save_as_reported(
    model: Joined,
    path: Path,
    reported: Reported,
    device: torch.device | str = "cpu",
    made_of: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write a model, run what was written on test images, and return the files.

    By the name's end: `.pth`, `.onnx`, or `.py` with the weights next to it in `.safetensors`. The model is left as it
    was. Raises UserError, and leaves no file, where a network cannot be exported, a package is missing, a file is there
    that is not replaced, or the saved model does not answer as reported.

    Args:
        model: with an origin for `.pth`.
        path: of the file.
        reported: what it has to answer to `model.inputs`.
        device: where a `.pth` file is run; the others run on the CPU.
        made_of: what the model was made of, as plain values by name; `.onnx` and `.py` state it.
    """
    check_save_paths([path])
    with written_aside(path.parent) as folder:
        written = folder / path.name
        with evaluating(model, "cpu"):
            if path.suffix == ".pth":
                model.write(written)
            else:
                {".onnx": _save_onnx, ".py": _save_code}[path.suffix](model, written, description(model, made_of or {}))
        check_as_reported(path, lambda: _loaded(written, model, device), reported)
        check_save_paths([path])
    return _files_of(path)


def description(model: Joined, made_of: Mapping[str, Any]) -> dict[str, str]:
    """What a saved model states about itself: ONNX metadata, and the metadata of the `.safetensors` file.

    Args:
        model: patched or composed.
        made_of: plain values by name.

    Returns:
        Text by name. `classes` (names, in the order of the scores), `inputs`, `versions` and `made_of` are JSON. An
        input of images has its side, resizing and normalisation, which the network does itself.
    """
    packages = ("cnn-module-toolkit", "torch")
    return {
        **MARK,
        "description": f"a {model.kind} image classifier: scores (n, {len(model.classes)}), the largest one decides",
        "classes": json.dumps(model.classes, ensure_ascii=False),
        "inputs": json.dumps({name: _input(model, name) for name in model.inputs}),
        "versions": json.dumps({package: importlib.metadata.version(package) for package in packages}),
        "made_of": json.dumps(dict(made_of), ensure_ascii=False),
    }


def _input(model: Joined, name: str) -> dict[str, Any]:
    """One input, in plain values."""
    shape, form = model.inputs[name], model.forms.get(name)
    if form is None:
        content = model.answers_in_words(shape[0], "classes")
        return {"shape": ["n", *shape], "dtype": "float32", "content": content}
    members = [part.form for part in model.modules() if isinstance(part, Member)]
    of_input = [each for each in members if (each.side, each.resize) == (form.side, form.resize)]
    normalised = [{"mean": list(m), "std": list(s)} for m, s in dict.fromkeys(each.normalisation for each in of_input)]
    return {
        "shape": ["n", *shape],
        "dtype": "uint8",
        "content": f"RGB pixels from 0 to 255, {DECODED}",
        "resize": f"{form.resize}: {RESIZED[form.resize]}",
        "normalised_inside": normalised,
    }


def check_member_leaves(member: Member) -> None:
    """Raises UserError for a weak model that cannot be exported; this takes seconds, evaluating may take minutes."""
    side = member.form.side
    with evaluating(member, "cpu"):
        _exported(member, (torch.zeros(2, side, side, 3, dtype=torch.uint8),))


def _check_save_path(path: Path) -> None:
    """Raises UserError for another format, a package that is missing, or a name that hides a module or is none."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"{OPTION} {path}: expected a name that ends with {' or '.join(SUFFIXES)}")
    if path.suffix == ".py":
        if not path.stem.isidentifier() or keyword.iskeyword(path.stem):
            raise UserError(f"{OPTION} {path}: Python cannot import {path.stem}; give a name of letters, digits and _")
        if path.stem in {"torch", "safetensors", "numpy", "PIL", *sys.stdlib_module_names}:
            raise UserError(f"{OPTION} {path}: Python has a module {path.stem}; give another name")
    for package in {".onnx": ("onnx", "onnxscript", "onnxruntime"), ".py": ("safetensors",)}.get(path.suffix, ()):
        _package(package)


def _files_of(path: Path) -> list[Path]:
    return [path, path.with_suffix(".safetensors")] if path.suffix == ".py" else [path]


def _save_code(model: Joined, path: Path, stated: Mapping[str, str]) -> None:
    code, weights = as_code(model, _exported(model, model.examples()), stated)
    content = _in_order(_package("safetensors.torch").save(weights, metadata=dict(stated)))
    write_whole(path.with_suffix(".safetensors"), lambda file: file.write(content))
    save_text(path, code.replace(DIGEST, hashlib.sha256(content).hexdigest()))


def _in_order(content: bytes) -> bytes:
    """The same `.safetensors` file with its header in one order: safetensors writes metadata in a random one."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)  # as the format aligns the weights
    return len(header).to_bytes(8, "little") + header + content[end:]


def _loaded(path: Path, model: Joined, device: torch.device | str) -> Answer:
    """What a file answers, as a user loads it; of the model that was saved only the class and the inputs are used."""
    if path.suffix == ".pth":
        loaded = model.read(path, device)
        return torch.inference_mode()(
            lambda *given: loaded(*(torch.from_numpy(values).to(device) for values in given)).cpu().numpy()
        )
    return _loaded_onnx(path, list(model.inputs)) if path.suffix == ".onnx" else _loaded_code(path)


def _loaded_code(path: Path) -> Answer:
    """The Python file as another program imports it."""
    spec = importlib.util.spec_from_file_location(f"saved_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    loaded = module.load()
    return lambda *inputs: module.scores(loaded, *map(torch.from_numpy, inputs)).numpy()


def _save_onnx(model: Joined, path: Path, stated: Mapping[str, str]) -> None:
    batch = torch.export.Dim("batch", min=1, max=4096)
    names, examples = list(model.inputs), model.examples()
    network = _exported(model, examples).module()  # the same as in the Python file
    with quiet():
        try:
            program: Any = torch.onnx.export(
                network,
                examples,
                input_names=names,
                output_names=["scores"],
                dynamo=True,
                dynamic_shapes=tuple({0: batch} for _ in names),
                verbose=False,
            )
            proto = program.model_proto
            _package("onnx").helper.set_model_props(proto, dict(stated))
            proto.doc_string = stated["description"]
            content = proto.SerializeToString()
        except Exception as error:
            raise UserError(f"the {model.kind} model cannot be exported to ONNX: {reason(error)}") from error
    write_whole(path, lambda file: file.write(content))


def _loaded_onnx(path: Path, names: Sequence[str]) -> Answer:
    """The ONNX file as ONNX Runtime runs it on the CPU."""
    onnxruntime = _package("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def answer(*inputs: np.ndarray) -> np.ndarray:
        scores: np.ndarray = session.run(["scores"], dict(zip(names, inputs, strict=True)))[0]
        return scores

    return answer


def _exported(model: torch.nn.Module, examples: tuple[Tensor, ...]) -> Any:
    """The `ExportedProgram` of a model for any number of images. Raises UserError where it has none."""
    with torch.no_grad(), quiet():
        try:
            return exported(model, examples)
        except Exception as error:
            raise UserError(f"{OPTION}: the network cannot be exported: {reason(error)}") from error


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        extra = "safetensors" if name.startswith("safetensors") else "onnx"
        raise UserError(f"--save needs {name} ({reason(error)}); first run: pip install -e .[{extra}]") from None
