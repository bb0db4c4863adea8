"""The loaders that fuzz_loaders.py hands inputs to: valid inputs to start from, and how each is loaded and checked."""

import functools
import hashlib
import importlib
import io
import json
import os
import pickle  # writes only: CIFAR's own format, and hostile values inside checkpoints; nothing is unpickled here
import runpy
import shutil
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from faults import DATASET, MODEL, SETTINGS, STRONG_CLASSES, TOP, stage_in
from mutations import mutated
from PIL import Image

import global_configure
from configures.base import Config, load, override
from dataset.class_folders import SIDE, _decode_named, decode, find_class_folders
from dataset.datasets import Images, load_dataset
from models import files as model_files
from models.cnn import CNN, Architecture, Conv
from models.registry import build_network
from models.strong_model import load_weights
from models.training import Epoch
from modules import files as module_files
from modules.modularization import Modularization
from modules.on_disk import load_modularization
from patching import files as patch_files
from patching.patched_model import PatchedModel, RangeRule, load_patched_model, save_patched_model
from report.patches import load_patched_weak_models
from search.genetic import files as genetic_files
from search.genetic.generations import agree_on_settings
from search.genetic.log import Generation, SearchEnd
from search.gradient.log import Round
from utils.artifacts import CheckpointFile
from utils.device import resolve_device, resolve_precision
from utils.files import load_array, save_array, save_checkpoint
from utils.stage import Stage

Load = Callable[[Stage, bytes], None]
Make = Callable[[np.random.Generator, list[bytes]], bytes]
TINY_NETWORK = Architecture((Conv(2, pool=True), Conv(3, pool=True)), hidden=(4,))
MADE_BY = "python make_it.py"


@dataclass(frozen=True)
class Target:
    """A loader: `load` raises where it refuses, and AssertionError where it accepts what is not valid."""

    name: str
    load: Load
    make: Make
    takes_seeds: bool  # official files are taken only as they were published, a command line only after other stages


TARGETS: dict[str, Target] = {}
SEEDS: dict[str, Callable[[Path], list[bytes]]] = {}


def target(
    seeds: Callable[[Path], list[bytes]], make: Make = mutated, *, takes_seeds: bool = True
) -> Callable[[Load], Load]:
    """Register a loader under its function's name."""

    def register(load: Load) -> Load:
        TARGETS[load.__name__] = Target(load.__name__, load, make, takes_seeds)
        SEEDS[load.__name__] = seeds
        return load

    return register


def make_seeds(root: Path) -> dict[str, list[bytes]]:
    """The valid inputs of all loaders; `root` is a root_dir with the tiny dataset."""
    stage_in(root)
    return {name: seeds(root) for name, seeds in SEEDS.items()}


@dataclass
class SettingUp:
    """Whether what is written just now is the fuzzer's own."""

    now: bool = False

    def __enter__(self) -> None:
        self.now = True

    def __exit__(self, *_: object) -> None:
        self.now = False


SETTING_UP = SettingUp()


def must(valid: object) -> None:
    """Raises AssertionError where a loader has accepted what is not valid."""
    if not valid:
        raise AssertionError("accepted, and not valid")


def _words(*words: str) -> Make:
    return functools.partial(mutated, words=[word.encode() for word in words])


def _file(stage: Stage, name: str, content: bytes) -> Path:
    path = stage.artifacts.root_dir / name
    with SETTING_UP:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return path


# Arrays


def _array_seeds(root: Path) -> list[bytes]:
    array = np.arange(12, dtype=np.float32).reshape(6, 2)
    plain = io.BytesIO()
    np.save(plain, array)
    save_array(root / "a.npy", array)
    return [plain.getvalue(), (root / "a.npy").read_bytes()]


NPY_WORDS = _words("'descr': '<f4'", "'|O'", "(6, 2)", "(-1,)", "True", "fortran_order", "shape", "\x93NUMPY")


@target(_array_seeds, NPY_WORDS)
def array(stage: Stage, content: bytes) -> None:
    """A `.npy` file whose shape is known."""
    path = _file(stage, "a.npy", content)
    found = load_array(path, dtype="float32", shape=(6, 2), made_by=MADE_BY)
    must(found.shape == (6, 2))
    must(found.dtype == np.float32)
    must(np.isfinite(found).all())


@target(_array_seeds, NPY_WORDS)
def array_of_any_length(stage: Stage, content: bytes) -> None:
    """A `.npy` file of unknown length, left on the disk."""
    path = _file(stage, "a.npy", content)
    found = load_array(path, dtype="float32", shape=(None, 2), made_by=MADE_BY, memory_map=True)
    np.testing.assert_array_equal(found, np.arange(12, dtype=np.float32).reshape(6, 2))  # or its checksum is wrong


# Checkpoints


def _state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return CNN(TINY_NETWORK, 2).state_dict()


def _checkpoint_seeds(root: Path) -> list[bytes]:
    save_checkpoint(root / "c.pth", _state())
    saved = [(root / "c.pth").read_bytes()]
    for zipped in (True, False):
        plain = io.BytesIO()
        torch.save(_state(), plain, _use_new_zipfile_serialization=zipped)
        saved.append(plain.getvalue())
    return saved


PICKLE_WORDS = [
    *(
        word.encode()
        for word in ("collections\nOrderedDict\n", "torch._utils\n_rebuild_tensor_v2\n", "posix\nsystem\n")
    ),
    *(b"cbuiltins\nbytearray\n", b"ctorch\nTensor\n", b"cbuiltins\nset\n", b"ccollections\nCounter\n"),
    *(pickle.dumps(value, 2)[2:-1] for value in (2**40, -1, 1e300, "cpu", (), [1], {"a": 1}, None, True)),
    *(bytes([code]) for code in b"R.)}(tQ0b\x85\x86\x87\x81\x92"),
]


def _repacked(random: np.random.Generator, seeds: list[bytes]) -> bytes:
    """A zip archive with one member changed and all its checksums right."""
    content = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(seeds[0])) as old, zipfile.ZipFile(content, "w") as new:
        names = old.namelist()
        pickled = next(name for name in names if name.endswith("data.pkl"))
        changed = pickled if random.random() < 0.8 else names[random.integers(len(names))]
        for name in names:
            member = old.read(name)
            if name == changed and random.random() < 0.98:
                member = mutated(random, [member], PICKLE_WORDS)
            if name != changed or random.random() < 0.95:
                new.writestr(name, member)
    return content.getvalue()


@target(_checkpoint_seeds, functools.partial(mutated, words=PICKLE_WORDS))
def checkpoint(stage: Stage, content: bytes) -> None:
    """A network's `.pth` file."""
    model = CNN(TINY_NETWORK, 2)
    load_weights(model, CheckpointFile(_file(stage, "c.pth", content), MADE_BY))
    must(all(torch.isfinite(value).all() for value in model.state_dict().values()))


@target(lambda root: _checkpoint_seeds(root)[1:2], _repacked)
def checkpoint_repacked(stage: Stage, content: bytes) -> None:
    """The same with checksums that fit: what is left is torch's weights_only unpickler."""
    checkpoint(stage, content)


def _patched_seeds(root: Path) -> list[bytes]:
    torch.manual_seed(0)
    weak, module = build_network("simcnn_tiny", 3), build_network("simcnn_tiny", 1)
    model = PatchedModel(weak, module, RangeRule(0.0, 1.0), ("a", "b", "c"), "simcnn_tiny", "simcnn_tiny")
    save_patched_model(model, root / "p.pth")
    return [(root / "p.pth").read_bytes()]


@target(_patched_seeds, _repacked)
def patched_model(stage: Stage, content: bytes) -> None:
    """A patched model's `.pth` file."""
    model = load_patched_model(_file(stage, "p.pth", content))
    with torch.inference_mode():
        must(model(torch.zeros(1, 3, SIDE, SIDE)).ndim == 2)


# Images and datasets


def _image_seeds(root: Path) -> list[bytes]:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (9, 7, 3), dtype=np.uint8)
    grey = random.integers(0, 2**16, (5, 5), dtype=np.uint16)
    images = [(pixels, name) for name in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "ICO", "TGA", "EPS")]
    images += [(grey, "PNG"), (grey, "TIFF"), (pixels[..., 0] > 99, "PNG")]
    return [_encoded(array, name) for array, name in images]


def _encoded(pixels: np.ndarray, format: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format)
    return buffer.getvalue()


@target(_image_seeds)
def image(stage: Stage, content: bytes) -> None:
    """One image file of a dataset."""
    found = _decode_named(stage.artifacts.root_dir, "train/a/1.png", lambda name: content)
    must(found.shape == (SIDE, SIDE, 3))
    must(found.dtype == np.uint8)


def _zip_seeds(root: Path) -> list[bytes]:
    archives = []
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w", compression) as archive:
            for number, name in enumerate(("train/a/1", "train/b/1", "test/a/1", "test/b/1")):
                archive.writestr(f"{name}.png", _encoded(np.full((2, 2, 3), number, np.uint8), "PNG"))
        archives.append(content.getvalue())
    return archives


@target(_zip_seeds, _words("../../outside.png", "/train/a/1.png", "train\\a", "PK\3\4", "PK\1\2", "PK\5\6", "\0"))
def zip_dataset(stage: Stage, content: bytes) -> None:
    """NAME.zip with {train,test}/CLASS/IMAGE in it."""
    _file(stage, "data/dataset/own.zip", content)
    _check_tree(stage)


def _check_tree(stage: Stage) -> None:
    tree = find_class_folders(stage.artifacts.root_dir / "data" / "dataset", "own")
    must(tree is not None)
    for part in ("train", "test"):
        pixels, labels = decode(tree, part)
        must(pixels.shape == (len(labels), SIDE, SIDE, 3))
        must(set(labels.tolist()) == set(range(len(tree.classes))))


NAMES = ("train", "test", "a", "b", "1.png", "2.png", "..", ".hidden", "__MACOSX", "x" * 255, "é\n", "0", "²", " ")
PLACES = ("../../../outside", "/etc/passwd", "../a", "1.png", "absent", ".", "/dev/zero")


def _tree_entries(random: np.random.Generator, seeds: list[bytes]) -> bytes:
    """What to put where, as JSON."""
    entries = json.loads(seeds[0])
    for _ in range(int(random.integers(1, 6))):
        names = [NAMES[random.integers(len(NAMES))] for _ in range(random.integers(1, 5))]
        kind = str(random.choice(["image", "broken", "folder", "link", "pipe", "empty"]))
        entries.append([kind, "/".join(name for name in names if name != ".."), str(random.choice(PLACES))])
    if random.random() < 0.3:
        del entries[random.integers(len(entries))]
    return json.dumps(entries).encode()


def _tree_seeds(root: Path) -> list[bytes]:
    names = [f"{part}/{name}/1.png" for part in ("train", "test") for name in "ab"]
    return [json.dumps([["image", name, ""] for name in names]).encode()]


@target(_tree_seeds, _tree_entries)
def class_folders(stage: Stage, content: bytes) -> None:
    """NAME/ with {train,test}/CLASS/IMAGE in it, and whatever else a folder may hold."""
    with SETTING_UP:
        _grow_tree(stage.artifacts.root_dir / "data" / "dataset" / "own", json.loads(content))
    _check_tree(stage)


def _grow_tree(folder: Path, entries: list[list[str]]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    png = _encoded(np.zeros((2, 2, 3), np.uint8), "PNG")
    for kind, name, place in entries:
        path = folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_symlink() or path.exists():
                continue
            if kind == "folder":
                path.mkdir()
            elif kind == "link":
                path.symlink_to(place)
            elif kind == "pipe":
                os.mkfifo(path)
            else:
                path.write_bytes({"image": png, "broken": png[:40], "empty": b""}[kind])
        except OSError:  # a file stands where a folder should, or a name is too long
            continue


def _cifar_seeds(root: Path) -> list[bytes]:
    pixels = np.arange(2 * 3072, dtype=np.uint64).astype(np.uint8).reshape(2, 3072)
    return [pickle.dumps({b"data": pixels, b"labels": [0, 1]}, 2), pickle.dumps({"label_names": ["a", "b"]}, 2)]


def _cifar(stage: Stage, content: bytes, name: str, kind: str) -> None:
    import torchvision

    reader = getattr(torchvision.datasets, kind)
    pixels = np.zeros((2, 3072), np.uint8)
    labels = "labels" if name == "cifar10" else "fine_labels"
    whole = {part: pickle.dumps({"data": pixels, labels: [0, 1]}) for part, _ in reader.train_list + reader.test_list}
    whole[reader.meta["filename"]] = pickle.dumps({reader.meta["key"]: ["a", "b"]})
    # The published MD5s are of the published files; here they are those of small whole ones, and one file is damaged.
    sums = {part: hashlib.md5(data, usedforsecurity=False).hexdigest() for part, data in whole.items()}
    reader.train_list = [[part, sums[part]] for part, _ in reader.train_list]
    reader.test_list = [[part, sums[part]] for part, _ in reader.test_list]
    reader.meta = {**reader.meta, "md5": sums[reader.meta["filename"]]}
    for part, data in whole.items():
        _file(stage, f"data/dataset/{reader.base_folder}/{part}", data)
    damaged = sorted(whole)[len(content) % len(whole)]
    _file(stage, f"data/dataset/{reader.base_folder}/{damaged}", content)
    load_dataset(name)
    raise AssertionError(f"{damaged} was read though its MD5 is another")


@target(_cifar_seeds, functools.partial(mutated, words=PICKLE_WORDS), takes_seeds=False)
def cifar10_files(stage: Stage, content: bytes) -> None:
    """torchvision's own files of CIFAR-10."""
    _cifar(stage, content, "cifar10", "CIFAR10")


@target(_cifar_seeds, functools.partial(mutated, words=PICKLE_WORDS), takes_seeds=False)
def cifar100_files(stage: Stage, content: bytes) -> None:
    """torchvision's own files of CIFAR-100."""
    _cifar(stage, content, "cifar100", "CIFAR100")


@target(lambda root: [b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM" + bytes(40)], takes_seeds=False)
def svhn_files(stage: Stage, content: bytes) -> None:
    """torchvision's own files of SVHN."""
    for part in ("train", "test"):
        _file(stage, f"data/dataset/{part}_32x32.mat", content)
    load_dataset("svhn")
    raise AssertionError("it was read though its MD5 is another")


# Text files of the search and of the reports


def _written(save: Callable[[Path], None]) -> Callable[[Path], list[bytes]]:
    def seeds(root: Path) -> list[bytes]:
        path = root / "seed"
        save(path)
        return [path.read_bytes()]

    return seeds


ROWS = [Generation(number, 0.5, 0.25, 0.5, 0.5, 0.3, 20, 100, (0, 1, 2), 0.125) for number in range(3)]
ROUNDS = [Round(number, 0.5, 0.25, 0.5, 12, 10, 9, 20, 0.125) for number in range(3)]
EPOCHS = [Epoch(number, 0.01, 1.5, 0.5, 0.5, 0.25) for number in range(3)]


@target(_written(lambda path: save_log(path, ROWS)), _words(",", "\n", '"', "1_0", "nan", "inf", "generation", " "))
def search_log(stage: Stage, content: bytes) -> None:
    """The recorder's log."""
    for number, row in enumerate(load_log(_file(stage, "log.csv", content), MADE_BY)):
        must(row.generation == number)
        values = [value for name, value in asdict(row).items() if name != "ensemble"]
        must(np.isfinite(values).all())


@target(_written(lambda path: save_rounds(path, ROUNDS)), _words(",", "\n", '"', "1_0", "nan", "inf", "number", " "))
def gradient_log(stage: Stage, content: bytes) -> None:
    """The gradient search's log."""
    for number, row in enumerate(load_rounds(_file(stage, "log.csv", content), MADE_BY)):
        must(row.number == number)
        must(np.isfinite(list(asdict(row).values())).all())


@target(_written(lambda path: save_training_log(path, EPOCHS)), _words(",", "\n", '"', "nan", "inf", "number"))
def training_log(stage: Stage, content: bytes) -> None:
    """A weak model's training log."""
    for number, epoch in enumerate(read_training_log(_file(stage, "log.csv", content), MADE_BY)):
        must(epoch.number == number)
        must(np.isfinite(list(asdict(epoch).values())).all())


JSON_WORDS = [
    b"null",
    b"true",
    b"[]",
    b"{}",
    b'""',
    b"NaN",
    b"Infinity",
    b"1e999",
    b"[" * 3000,
    b'"\\ud800"',
    b"-1",
    b"0.5",
]


def _changed_json(random: np.random.Generator, seeds: list[bytes]) -> bytes:
    """A value of another kind somewhere, or mutated bytes."""
    if random.random() < 0.5:
        return mutated(random, seeds, JSON_WORDS)
    value = json.loads(seeds[random.integers(len(seeds))])
    places = [(value, key) for key in _keys(value)]
    for holder, key in places:
        places += [(holder[key], inner) for inner in _keys(holder[key])]
    for _ in range(int(random.integers(1, 4))):
        holder, key = places[random.integers(len(places))]
        strange = [None, True, -1, 2**70, 0.5, float("nan"), "", "\ud800", "a" * 99, [], [[1, 2], [3]], {}, {"a": None}]
        holder[key] = strange[random.integers(len(strange))]
    return json.dumps(value).encode()


def _keys(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value)
    return list(range(len(value))) if isinstance(value, list) else []


@target(_written(lambda path: save_end(path, SearchEnd(3, 3, False))), _changed_json)
def search_end(stage: Stage, content: bytes) -> None:
    """That a search is over."""
    end = load_end(_file(stage, "end.json", content), MADE_BY)
    must(type(end.generation) is type(end.generations) is int)


def _settings_seeds(root: Path) -> list[bytes]:
    stage = _searchable(stage_in(root))
    agree_on_settings(stage, Images(PIXELS, LABELS))
    return [genetic_files.settings(stage.artifacts).path.read_bytes()]


PIXELS, LABELS = np.zeros((2, SIDE, SIDE, 3), np.uint8), np.zeros(2, np.int64)


def _searchable(stage: Stage) -> Stage:
    for file in (model_files.entire_model(stage.artifacts), module_files.kernel_importance(stage.artifacts)):
        _file(stage, str(file.path), b"")
    return stage


@target(_settings_seeds, _changed_json)
def search_settings(stage: Stage, content: bytes) -> None:
    """What a search was made with."""
    _file(stage, str(genetic_files.settings(stage.artifacts)), content)
    agree_on_settings(_searchable(stage), Images(PIXELS, LABELS))


def _report_seeds(root: Path) -> list[bytes]:
    names, kept = STRONG_CLASSES, (5, 6, 7)
    return [
        json.dumps(asdict(Modularization(names, 9, kept, 0.5, 12, 10, 9, 12, 10, 9, {"method": "genetic"}))).encode()
    ]


@target(_report_seeds, _changed_json)
def modules_report(stage: Stage, content: bytes) -> None:
    """What the recorder found."""
    _file(stage, str(module_files.report(stage.artifacts)), content)
    result = load_modularization(stage.config, stage.artifacts)
    must(len(result.classes) == stage.config.num_classes)


def _patch_seeds(root: Path) -> list[bytes]:
    scores = {"confusion_matrix": [[3, 1], [0, 4]], "rule": None}
    content = {"target_class": 1, "classes": ["6", "1"], "epoch": 2, "test_images": 8, "methods": {"before": scores}}
    return [json.dumps(content).encode()]


@target(_patch_seeds, _changed_json)
def patch_report(stage: Stage, content: bytes) -> None:
    """Metrics before and after a patch."""
    _file(stage, str(patch_files.report(stage.artifacts, "weak", 1, 2, "min_max")), content)
    for model in load_patched_weak_models(stage.artifacts, "weak"):
        must(all(result.confusion.dtype == np.int64 for result in model.results.values()))


def _description_seeds(root: Path) -> list[bytes]:
    load_dataset("tiny")
    return [(root / "data" / "decoded_dataset" / "tiny" / "description.json").read_bytes()]


@target(_description_seeds, _changed_json)
def description(stage: Stage, content: bytes) -> None:
    """The description of a decoded dataset whose source has gone."""
    folder = stage.artifacts.root_dir / "data" / "decoded_dataset" / "gone"
    if not folder.exists():
        for part in ("train", "test"):
            save_array(folder / f"{part}_images.npy", PIXELS)
            save_array(folder / f"{part}_labels.npy", LABELS)
    _file(stage, str(folder / "description.json"), content)
    must(all(isinstance(name, str) for name in load_dataset("gone").classes))


# Command lines, settings, environment variables


def _setting_seeds(root: Path) -> list[bytes]:
    config = asdict(load(MODEL, DATASET))
    texts = {
        name: ",".join(map(str, value)) if isinstance(value, tuple) else str(value) for name, value in config.items()
    }
    return [f"{name}={text}".encode() for name, text in texts.items() if name not in ("model", "dataset")]


@target(_setting_seeds, _words("=", ",", ":", "true", "0.5", "-1", "2:0.9", "1" + "0" * 400, "cifar10"))
def setting(stage: Stage, content: bytes) -> None:
    """--set NAME=VALUE."""
    must(isinstance(override(load(MODEL, DATASET), [content.decode(errors="surrogateescape")]), Config))


SCRIPTS = (
    "module_recorder.py",
    "module_explorer.py",
    "module_gradient_search.py",
    "scripts/run_module_search.py",
    "scripts/run_layer_sensitivity_analyzer.py",
    "scripts/make_report.py",
    "preprocess/kernel_importance_analyzer.py",
    "preprocess/layer_sensitivity_analyzer.py",
    "preprocess/module_output_collector.py",
    "experiments/calculate_flops/calculate_flops.py",
    "experiments/trade_off/trade_off.py",
)
OPTIONS = (
    "--target_class",
    "--checkpoint",
    "--jobs",
    "--early_stop",
    "--fresh",
    "--keep",
    "--max_loss",
    "--target_conv",
    "--set",
    "--help",
    "-h",
)
VALUES = (
    "0",
    "1",
    "-1",
    "all",
    "x",
    "99999999999",
    "1.5",
    "",
    "²",
    "--",
    "a\nb",
    "population=4",
    "alpha=nan",
    "\udcff",
)


def _command_lines(random: np.random.Generator, seeds: list[bytes]) -> bytes:
    words = json.loads(seeds[random.integers(len(seeds))])
    for _ in range(int(random.integers(0, 5))):
        place = int(random.integers(1, len(words) + 1))
        vocabulary = OPTIONS if random.random() < 0.5 else VALUES
        words[place : place + int(random.integers(2))] = [vocabulary[random.integers(len(vocabulary))]]
    if random.random() < 0.3:
        place = int(random.integers(1, len(words)))
        words[place] = mutated(random, [words[place].encode(errors="surrogateescape")]).decode(errors="replace")
    return json.dumps(words).encode()


def _command_seeds(root: Path) -> list[bytes]:
    common = ["--model", MODEL, "--dataset", DATASET]
    return [
        json.dumps([script, *common, *more]).encode() for script in SCRIPTS for more in ([], ["--set", SETTINGS[0]])
    ]


@target(_command_seeds, _command_lines, takes_seeds=False)
def command_line(stage: Stage, content: bytes) -> None:
    """The words behind a script's name, where no stage has run yet."""
    script, *words = json.loads(content)
    if script not in SCRIPTS:
        script = SCRIPTS[len(content) % len(SCRIPTS)]
    sys.argv = [script, *words]
    try:
        runpy.run_path(str(TOP / script), run_name="__main__")
    finally:
        torch.use_deterministic_algorithms(False)


VARIABLES = ("SEED", "NUM_WORKERS", "WAIT_LIMIT", "EXPLORER_THREADS", "DEVICE", "PRECISION")


def _environment_seeds(root: Path) -> list[bytes]:
    return [f"{name}={value}".encode() for name in VARIABLES for value in ("0", "12", "cpu", "float32", "auto")]


@target(_environment_seeds, _words("cuda:0", "bfloat16", "-1", "1" * 400, "meta"))
def environment(stage: Stage, content: bytes) -> None:
    """The variables that stand beside the lines of global_configure.py."""
    name, _, value = content.replace(b"\0", b"").decode(errors="surrogateescape").partition("=")
    variable = f"CNNMOD_{name if name in VARIABLES else VARIABLES[len(name) % len(VARIABLES)]}"
    os.environ[variable] = value
    try:
        importlib.reload(global_configure)
        resolve_device(global_configure.device)
        resolve_precision(global_configure.precision)
    finally:
        stage_in(stage.artifacts.root_dir)


def go_offline() -> None:
    """No download gets through, and none is waited for."""

    def refuse(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network here")

    urllib.request.urlopen = refuse
