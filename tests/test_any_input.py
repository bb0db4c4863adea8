"""Whatever a user hands in, a loader takes what is valid and refuses the rest with one line: files, words, variables.

Of each kind of input some hundred are tried. For thousands of others every time:

    python -m pytest tests/test_any_input.py --hypothesis-profile thorough
"""

import functools
import json
import pickle  # writes only: words of its format inside checkpoints
import runpy
import tempfile
from collections.abc import Callable
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from confined import confined
from conftest import TOP, Run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from near_valid import near_bytes, near_json, near_zip
from random_modules import random_patched_model

from dataset.datasets import load_dataset
from dataset.images import IMAGENET
from models import files as model_files
from models.rescnn import Conv, ResCNN
from models.strong_model import load_weights
from models.training import Epoch
from modules.module_set import SetRecord
from patching import files as patch_files
from patching.on_disk import load_patched_weak_models
from patching.patched_model import load_patched_model, save_patched_model
from patching.report import PatchedWeakModel, method_entry
from patching.rules import RangeRule, Rule
from patching.weak_models import WeakKind
from search.genetic import files as genetic_files
from search.genetic.log import Generation, SearchEnd
from search.gradient import files as gradient_files
from search.gradient.log import Round
from utils.artifacts import Artifacts, CheckpointFile, JsonFile, RecordFile
from utils.device import resolve_device, resolve_precision
from utils.errors import MissingFile, UserError
from utils.files import load_array, save_array, save_checkpoint
from utils.recorded_settings import record_or_compare

pytestmark = pytest.mark.slow
MODEL, DATASET = "rescnn_x0_25", "digits_5"
MAKER = "python make_it.py"
SAME_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
Loaded = TypeVar("Loaded")


def taken_or_refused(path: Path, content: bytes, load: Callable[[], Loaded]) -> Loaded | None:
    """What a loader makes of the content; None where it refuses it with a message that names the file or its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    with confined(path.parent):
        try:
            return load()
        except UserError as error:
            assert str(path.parent) in str(error)
            return None


def written(save: Callable[[Path], object]) -> bytes:
    """What `save` writes to the file that it is given."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "file.npy")  # the name that np.save would give it
        save(path)
        return path.read_bytes()


# Arrays and checkpoints

ARRAY = np.arange(12, dtype=np.float32).reshape(6, 2)
NPY_WORDS = [b"'descr': '<f4'", b"'|O'", b"(6, 2)", b"(-1,)", b"True", b"fortran_order", b"shape", b"\x93NUMPY"]


ARRAYS = [written(save) for save in (lambda path: save_array(path, ARRAY), lambda path: np.save(path, ARRAY))]


@SAME_FOLDER
@given(near_bytes(ARRAYS, NPY_WORDS))
def test_arrays(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.npy"
    found = taken_or_refused(path, content, lambda: load_array(path, dtype="float32", shape=(6, 2), made_by=MAKER))
    if found is not None:
        assert (found.shape, found.dtype) == ((6, 2), np.float32)
        assert np.isfinite(found).all()
    options: dict[str, Any] = {"dtype": "float32", "shape": (None, 2), "made_by": MAKER, "memory_map": True}
    found = taken_or_refused(path, content, lambda: load_array(path, **options))
    if found is not None:  # of unknown length: by its checksum
        np.testing.assert_array_equal(found, ARRAY)


LAYERS = (Conv(2, pool=True), Conv(3, pool=True))
PICKLE_WORDS = [
    *(b"collections\nOrderedDict\n", b"torch._utils\n_rebuild_tensor_v2\n", b"posix\nsystem\n", b"ctorch\nTensor\n"),
    *(b"cbuiltins\nbytearray\n", b"cbuiltins\nset\n", b"ccollections\nCounter\n"),
    *(pickle.dumps(value, 2)[2:-1] for value in (2**40, -1, 1e300, "cpu", (), [1], {"a": 1}, None, True)),
    *(bytes([code]) for code in b"R.)}(tQ0b\x85\x86\x87\x81\x92"),
]


@functools.cache
def checkpoints() -> list[bytes]:
    """A small network's, as the toolkit writes it and in both of torch's own formats."""
    torch.manual_seed(0)
    state = ResCNN(2, layers=LAYERS, hidden=(4,)).state_dict()
    by_torch = [
        written(lambda path, z=zipped: torch.save(state, path, _use_new_zipfile_serialization=z))
        for zipped in (True, False)
    ]
    return [written(lambda path: save_checkpoint(path, state)), *by_torch]


@SAME_FOLDER
@given(st.data())
def test_checkpoints(tmp_path: Path, data: st.DataObject) -> None:
    whole = checkpoints()
    content = data.draw(near_zip(whole[1], PICKLE_WORDS) | near_bytes(whole, PICKLE_WORDS))
    path, model = tmp_path / "c.pth", ResCNN(2, layers=LAYERS, hidden=(4,))
    taken_or_refused(path, content, lambda: load_weights(model, CheckpointFile(path, MAKER)))
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


@functools.cache
def patched() -> bytes:
    model = random_patched_model(RangeRule(0.0, 1.0), ("a", "b", "c"), strong_network="simcnn_tiny")
    return written(lambda path: save_patched_model(model, path))


@SAME_FOLDER
@given(st.data())
def test_patched_models(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "p.pth"
    model = taken_or_refused(path, data.draw(near_zip(patched(), PICKLE_WORDS)), lambda: load_patched_model(path))
    if model is not None:
        with torch.inference_mode():
            assert model(torch.zeros(1, 32, 32, 3, dtype=torch.uint8)).ndim == 2


# Tables and JSON, as people write them by hand: without a checksum

TABLES = [
    (genetic_files.log, [Generation(n, 0.5, 0.25, 0.5, 0.5, 0.3, 20, 100, (0, 1, 2), 0.125) for n in range(3)]),
    (
        lambda artifacts: gradient_files.of_search(artifacts).log,
        [Round(n, 0.5, 0.25, 0.5, 12, 10, 9, 20, 0.125, 0.75, 0.125) for n in range(3)],
    ),
    (model_files.training_log, [Epoch(n, 0.01, 1.5, 0.5, 0.5, 0.25) for n in range(3)]),
]
CSV_WORDS = [b",", b"\n", b'"', b"inf", b"generation", b"number", b" "]


@pytest.mark.parametrize(("file_of", "rows"), TABLES, ids=["generations", "rounds", "epochs"])
@SAME_FOLDER
@given(data=st.data())
def test_tables(tmp_path: Path, file_of: Callable[[Artifacts], Any], rows: list[Any], data: st.DataObject) -> None:
    file = file_of(Artifacts(tmp_path, MODEL, DATASET))
    file.save(rows)
    lines = [line.rpartition(b",")[0] for line in file.path.read_bytes().splitlines()]
    found = taken_or_refused(file.path, data.draw(near_bytes([b"\n".join(lines)], CSV_WORDS)), file.load)
    for number, row in enumerate(found or []):
        assert next(iter(vars(row).values())) == number
        floats = {name: value for name, value in vars(row).items() if isinstance(value, float)}
        may_be_unknown = {field.name for field in fields(row) if field.default is not MISSING}
        assert all(np.isfinite(value) or (name in may_be_unknown and np.isnan(value)) for name, value in floats.items())


RECORDS = [
    (genetic_files.end, SearchEnd(3, 3, False)),
    (
        lambda artifacts: RecordFile(artifacts.folder / "set.json", "train.py", SetRecord),
        SetRecord(("0", "1", "2", "3", "4"), 9, (5, 6, 7, 8, 9), 0.5, 12, 10, 9, 12, 10, 9, {"method": "genetic"}),
    ),
]


@pytest.mark.parametrize(("file_of", "record"), RECORDS, ids=["end", "modules"])
@SAME_FOLDER
@given(data=st.data())
def test_records(tmp_path: Path, file_of: Callable[[Artifacts], Any], record: Any, data: st.DataObject) -> None:
    artifacts = Artifacts(tmp_path, MODEL, DATASET)
    file = file_of(artifacts)
    content = data.draw(near_json(json.dumps(asdict(record)).encode()))
    is_end = isinstance(record, SearchEnd)
    found = taken_or_refused(file.path, content, file.load)
    if found is not None:
        for field in fields(record):
            kinds = {type(getattr(record, field.name)), *([int] if field.type is float else [])}
            assert type(getattr(found, field.name)) in kinds
        assert is_end or len(found.classes) == len(found.kernels_kept) == 5


@SAME_FOLDER
@given(near_json(json.dumps(made_with := {"alpha": 0.9, "ratios": [0.5, 0.6], "sha": "ab", "mode": None}).encode()))
def test_recorded_settings(tmp_path: Path, content: bytes) -> None:
    file = JsonFile(tmp_path / "settings.json", MAKER)

    def agree() -> bool:
        record_or_compare(file, made_with)
        return True

    if taken_or_refused(file.path, content, agree):
        assert json.loads(content) == made_with


CONFUSION = np.array([[3, 1], [0, 4]])
METHODS = {"before": method_entry(CONFUSION, None), "min_max": method_entry(CONFUSION, RangeRule(0, 1))}
PATCHED = PatchedWeakModel(("6", "1"), (1,), 8, METHODS, "simcnn_digits", (1,), "SET", "", "simcnn_tiny", "weak", 2, 2)


@SAME_FOLDER
@given(near_json(json.dumps(asdict(PATCHED)).encode()))
def test_patch_reports(tmp_path: Path, content: bytes) -> None:
    artifacts = Artifacts(tmp_path, MODEL, DATASET)
    path = patch_files.report(artifacts, "SET", WeakKind.SIMPLE, 1, 2, "min_max").path

    def load() -> list[PatchedWeakModel]:
        try:
            return load_patched_weak_models(artifacts, WeakKind.SIMPLE)
        except MissingFile:  # all that is there is of another module set
            return []

    for model in taken_or_refused(path, content, load) or []:
        assert all(model.confusion(method).dtype == np.int64 for method in model.methods)
        assert all(isinstance(model.rule(calibration), Rule) for calibration in model.calibrations)


@SAME_FOLDER
@given(near_json(json.dumps({"fingerprint": "a", "classes": ["a", "b"]}).encode()))
def test_descriptions_of_decoded_datasets(root_dir: Path, content: bytes) -> None:
    folder = root_dir / "data" / "decoded_dataset" / "gone"
    for part in ("train", "test"):
        save_array(folder / f"{part}_images.npy", np.zeros((2, 32, 32, 3), np.uint8))
        save_array(folder / f"{part}_labels.npy", np.arange(2))
    found = taken_or_refused(
        folder / "description.json", content, lambda: load_dataset("gone", 32, "stretch", IMAGENET)
    )
    if found is not None:
        assert len(found.classes) >= 2
        assert all(isinstance(name, str) for name in found.classes)


# Command lines and environment variables

SCRIPTS = (
    "module_recorder.py",
    "module_explorer.py",
    "module_gradient_search.py",
    "module_fine_tuner.py",
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
)
VALUES = (
    "0",
    "1",
    "-1",
    "all",
    "x",
    "9" * 11,
    "1.5",
    "",
    "\u00b2",
    "--",
    "a\nb",
    "population=4",
    "alpha=nan",
)


@SAME_FOLDER
@given(
    script=st.sampled_from(SCRIPTS),
    words=st.lists(
        st.sampled_from([*OPTIONS, "--set", "--help"]) | st.sampled_from(VALUES) | st.text(max_size=4), max_size=5
    ),
)
def test_command_lines_before_any_stage_has_run(
    root_dir: Path, run_main: Callable[..., Run], script: str, words: list[str]
) -> None:
    run = run_main(script, "--model", MODEL, "--dataset", DATASET, *words, root=root_dir)
    if run.exit_code:
        run.refused(exit_code=2)


VARIABLES = ("SEED", "NUM_WORKERS", "WAIT_LIMIT", "EXPLORER_THREADS", "DEVICE", "PRECISION")
TEXTS = st.sampled_from(["0", "12", "-1", "1" * 400, "cpu", "cuda:0", "meta", "auto", "float32", "bfloat16"])


@SAME_FOLDER
@given(
    name=st.sampled_from(VARIABLES),
    value=TEXTS | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
)
def test_environment_variables(name: str, value: str) -> None:
    """Those that stand beside the lines of global_configure.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(f"CNNMOD_{name}", value)
        try:
            found = runpy.run_path(str(TOP / "global_configure.py"))
            resolve_device(found["device"])
            resolve_precision(found["precision"], torch.device("cpu"))
        except UserError as error:
            assert str(error)
        except SystemExit as end:
            assert end.code == 2
