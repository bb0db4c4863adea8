"""Run a small pipeline with the scripts of a tree, and list what it leaves: to see that a change changes no result.

    python tests/golden/golden.py run ../old_tree old.json     # a few minutes of one core, on one machine ...
    python tests/golden/golden.py run . new.json               # ... since results depend on the processor
    python tests/golden/golden.py compare old.json new.json

The pipeline has both searches, fine-tuning, both kinds of weak models, all calibrations, an imported network with batch
norm, and patched models in every format. Arrays are known by the SHA-256 of their type, shape and bytes, and reports by
their numbers under the last name of their keys: neither paths nor the layout of JSON files matter.
"""

import argparse
import csv
import hashlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

DIGITS = "--model simcnn_x0_25 --dataset digits_5"
SMALL = "--set epochs=6 --set weak_epochs=4 --set poor_epochs=3 --set keep_epochs=1"
GENETIC = "--set generations=2 --set population=6 --set parents=4 --set elites=2"
GRADIENT = "--set mask_steps=12"
PATCH = f"experiments/patch/apply_patch.py {DIGITS} {SMALL}"
NETWORK = """
from torch import nn


def build(num_classes):
    torso = nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.BatchNorm2d(16), nn.ReLU()
    return nn.Sequential(*torso, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, num_classes))
"""
# Figures of the run, not of its results; and what names files and versions.
NOT_RESULTS = (
    "seconds",
    "date",
    "version",
    "commit",
    "machine",
    "threads",
    "sha256",
    "checksum",
    "fingerprint",
    "digest",
)

COMMANDS = (
    f"train.py {DIGITS} {SMALL}",
    f"preprocess/kernel_importance_analyzer.py {DIGITS}",
    f"preprocess/layer_sensitivity_analyzer.py {DIGITS} --target_conv 5",
    f"scripts/run_module_search.py {DIGITS} {GENETIC} --jobs 1",
    f"preprocess/module_output_collector.py {DIGITS}",
    f"experiments/patch/patch_for_weak_model/train.py {DIGITS} {SMALL}",
    f"experiments/patch/patch_for_poor_model/train.py {DIGITS} {SMALL} --target_class 2",
    f"{PATCH} --exp_type weak --calibration all",
    f"{PATCH} --exp_type poor_fit --target_class 2 --target_epoch 1",
    f"module_gradient_search.py {DIGITS} {GRADIENT} --keep 0.6",
    f"module_fine_tuner.py {DIGITS} {GRADIENT} --set fine_tuning_steps=4 --modules gradient",
    f"module_gradient_search.py {DIGITS} {GRADIENT} --keep_flops 0.6 --target_class 1 4",
    f"preprocess/module_output_collector.py {DIGITS} --modules gradient",
    f"{PATCH} --exp_type weak --target_class 2 --calibration learned --modules gradient --save patched.pth",
    f"module_gradient_search.py {DIGITS} {GRADIENT} --for_patch --target_class 3",
    f"{PATCH} --exp_type weak --target_class 3 --calibration learned --modules gradient_class_3",
    "scripts/import_model.py --model mine --dataset digits --network network.py:build --checkpoint weak.pth --anyway",
    f"scripts/patch_weak_model.py {DIGITS} --weak_network network.py:build --weak_checkpoint weak.pth"
    " --weak_images digits --target_class 1 2 --modules gradient --save own.py --save own.onnx",
    f"experiments/calculate_flops/calculate_flops.py {DIGITS} --modules gradient",
    f"scripts/make_report.py {DIGITS} --modules gradient",
)


def train_weak(folder: Path) -> None:
    """Leave weak.pth: the network of NETWORK after a few steps on digits of which it sees few 1s and 2s."""
    from sklearn.datasets import load_digits

    (folder / "network.py").write_text(NETWORK, encoding="utf-8")
    torch.manual_seed(0)
    network = runpy.run_path(str(folder / "network.py"))["build"](10)
    digits = load_digits()
    seen = np.flatnonzero(~np.isin(digits.target, (1, 2)))[:512]
    images = torch.tensor(digits.images[seen] / 16, dtype=torch.float32)[:, None].expand(-1, 3, -1, -1)
    images = torch.nn.functional.interpolate(images, size=(32, 32), mode="bilinear") * 4 - 2
    optimizer = torch.optim.Adam(network.parameters(), 0.003)
    for _ in range(6):
        for batch in torch.randperm(len(seen)).split(32):
            loss = torch.nn.functional.cross_entropy(network(images[batch]), torch.tensor(digits.target[seen][batch]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    torch.save(network.state_dict(), folder / "weak.pth")


def run_pipeline(tree: Path, folder: Path) -> None:
    """Run every command with the scripts of `tree`, `folder` being the current folder and the root_dir."""
    own = {"CNNMOD_ROOT_DIR": str(folder), "CNNMOD_DEVICE": "cpu", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tree)}
    train_weak(folder)
    for command in COMMANDS:
        print("$", command, flush=True)
        script, *words = command.split()
        whole = [sys.executable, str(tree / script), *words, "--quiet"]
        subprocess.run(whole, cwd=folder, env=os.environ | own, check=True)


def digest(array: np.ndarray) -> str:
    """The SHA-256 of an array's type, shape and bytes."""
    content = f"{array.dtype} {array.shape} ".encode() + np.ascontiguousarray(array).tobytes()
    return hashlib.sha256(content).hexdigest()


def arrays_of(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Every array of a file, and its name in it."""
    if path.suffix == ".npy":
        yield "", np.load(path, allow_pickle=False)
    elif path.suffix == ".pth":
        yield from tensors_of(torch.load(path, map_location="cpu", weights_only=True))
    elif path.suffix == ".safetensors":
        from safetensors.numpy import load_file

        yield from load_file(path).items()
    elif path.suffix == ".onnx":
        import onnx

        initializers = onnx.load(path).graph.initializer
        yield from ((tensor.name, onnx.numpy_helper.to_array(tensor)) for tensor in initializers)


def tensors_of(value: Any, name: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor in nested dicts and lists."""
    if isinstance(value, torch.Tensor):
        yield name, value.numpy()
    elif isinstance(value, dict | list | tuple):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from tensors_of(item, f"{name}.{key}")


def numbers_of(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every number in nested dicts and lists, with the last name on the way to it."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from numbers_of(item, name if name.isidentifier() else key)
    elif isinstance(value, list):
        for item in value:
            yield from numbers_of(item, key)
    elif isinstance(value, int | float):
        yield key, repr(value)


def rows_of(path: Path) -> Iterator[tuple[str, str]]:
    """Every cell of a CSV file, with its heading."""
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            yield from row.items()


def results_in(folder: Path) -> dict[str, list[str]]:
    """Array or number -> the files that have it."""
    found: dict[str, list[str]] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        entries = [f"array {digest(array)}" for _, array in arrays_of(path)]
        if path.suffix == ".json":
            entries += [f"{key} = {value}" for key, value in numbers_of(json.loads(path.read_text("utf-8")))]
        elif path.suffix == ".csv":
            entries += [f"{key} = {value}" for key, value in rows_of(path)]
        for entry in entries:
            if not any(word in entry.split(" = ")[0] for word in NOT_RESULTS):
                found.setdefault(entry, []).append(str(path.relative_to(folder)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("run", help="run the pipeline with the scripts of a tree")
    one.add_argument("tree", type=Path)
    one.add_argument("record", type=Path)
    one.add_argument("--keep", type=Path, metavar="FOLDER", help="run there, and keep what it leaves")
    two = commands.add_parser(
        "compare", help="list what only one of two records has; exit code 1 if the first has more"
    )
    two.add_argument("records", type=Path, nargs=2)
    arguments = parser.parse_args()
    if arguments.command == "run":
        with tempfile.TemporaryDirectory() as temporary:
            folder = (arguments.keep or Path(temporary)).resolve()
            folder.mkdir(parents=True, exist_ok=True)
            run_pipeline(arguments.tree.resolve(), folder)
            arguments.record.write_text(json.dumps(results_in(folder), indent=1), encoding="utf-8")
        return
    old, new = (json.loads(path.read_text("utf-8")) for path in arguments.records)
    for title, one_side, other in (("lost", old, new), ("new", new, old)):
        entries = sorted(set(one_side) - set(other))
        print(f"{title}: {len(entries)} of {len(one_side)}")
        counts = Counter(file for entry in entries for file in one_side[entry])
        for file, count in sorted(counts.items()):
            print(f"  {file}: {count}")
    sys.exit(bool(set(old) - set(new)))


if __name__ == "__main__":
    main()
