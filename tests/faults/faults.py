"""What the robustness commands share: a small pipeline to break, scripts to start and kill, and the table's rows.

Everything is broken in a folder of its own that is removed afterwards. The scripts run on the CPU as processes of their
own. Most are forked from the command's process, in which torch is imported already: signals meet them as any other,
and a restart costs milliseconds. `start_python` starts them as a user does.
"""

import contextlib
import csv
import importlib
import io
import json
import multiprocessing
import os
import platform
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentTypeError
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import global_configure
from configures.base import load
from models.opening import OneLineParser, Stage
from utils.artifacts import Artifacts
from utils.device import num_cores
from utils.files import save_text
from utils.seeds import generator
from utils.tables import show_table

TOP = Path(__file__).resolve().parents[2]
RESULTS = Path(global_configure.root_dir).resolve() / "data" / "robustness"  # before the scripts get other folders
MODEL, DATASET = "rescnn_x0_25", "digits_5"
STRONG_CLASSES, WEAK_CLASSES = ("0", "1", "2"), ("6", "7", "8", "9")
TRAIN_IMAGES, TEST_IMAGES = 20, 4  # per class
# The whole pipeline in seconds: three classes, 12 validation images, four generations of six chromosomes.
SETTINGS = (
    "source=tiny",
    f"classes={','.join(STRONG_CLASSES)}",
    f"num_classes={len(STRONG_CLASSES)}",
    "epochs=3",
    "batch_size=16",
    "sensitivity_ratios=0.5,1.0",
    "population=6",
    "parents=4",
    "elites=2",
    "generations=3",
    "survivors_min=4",
    "survivors_max=20",
    "accuracy_thresholds=2:0.9,3:0.8",
    "weak_train_images=15",
    "weak_test_images=4",
    "weak_epochs=3",
    "checkpoint_every=1",
    "mask_steps=60",
    "mask_batch_size=8",
)
UNLIKE = ("seconds", "date", "checksum", "sha256")  # what must differ between two runs
PATIENCE = 900.0  # seconds without a new file and without an end, on a busy machine, before a process counts as hanging
LOOK_EVERY = 0.01  # seconds


@dataclass(frozen=True)
class Script:
    """A script of the pipeline and what it is given besides the model, the dataset and the settings."""

    path: str  # from the top of the project
    arguments: tuple[str, ...] = ()
    settings: tuple[str, ...] = SETTINGS

    @property
    def words(self) -> list[str]:
        """The script's whole command line."""
        overrides = [word for setting in self.settings for word in ("--set", setting)]
        return ["--model", MODEL, "--dataset", DATASET, *overrides, *self.arguments]


TRAIN = Script("train.py")
IMPORTANCE = Script("preprocess/kernel_importance_analyzer.py")
SENSITIVITY = Script("scripts/run_layer_sensitivity_analyzer.py")
GRADIENT = Script("module_gradient_search.py", ("--keep", "0.6"))
FINE_TUNING = Script("module_fine_tuner.py", ("--set", "fine_tuning_steps=60"))
RECORDER = Script("module_recorder.py")
EXPLORERS = (
    Script("module_explorer.py", ("--target_class", "0", "2")),
    Script("module_explorer.py", ("--target_class", "1")),
)
LAUNCHER = Script("scripts/run_module_search.py", ("--jobs", "2"))
COLLECTOR = Script("preprocess/module_output_collector.py")
WEAK_TRAIN = Script("experiments/patch/patch_for_weak_model/train.py")
PATCH = Script("experiments/patch/apply_patch.py", ("--exp_type", "weak"))
SEARCH = (RECORDER, *EXPLORERS)
STAGES = {  # in the order of the pipeline
    "training": TRAIN,
    "importance": IMPORTANCE,
    "sensitivity": SENSITIVITY,
    "gradient search": GRADIENT,
    "fine-tuning": FINE_TUNING,
    "module search": LAUNCHER,
    "module outputs": COLLECTOR,
    "weak training": WEAK_TRAIN,
    "patching": PATCH,
}


def write_images(folder: Path) -> None:
    """A dataset {train,test}/CLASS/N.png: noise, each class with a colour of its own, so that there is something to
    learn."""
    random = np.random.default_rng(0)
    for name in (*STRONG_CLASSES, *WEAK_CLASSES):
        colour = random.integers(0, 130, 3)
        for part, count in (("train", TRAIN_IMAGES), ("test", TEST_IMAGES)):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 120, (32, 32, 3)) + colour
                Image.fromarray(pixels.astype(np.uint8)).save(folder / part / name / f"{number:02d}.png")


@contextlib.contextmanager
def workshop(*stages: Sequence[Script]) -> Iterator[Path]:
    """A temporary folder with the root_dir `start` in it: the images, and what some stages wrote one after the other.

    The scripts of a stage run together.
    """
    import report.figures_of_model  # noqa: F401  once here, not in every fork

    torch.set_num_threads(1)  # no threads, which a fork would not take along
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1)  # imports what torch imports late, once for all forks
    with tempfile.TemporaryDirectory(prefix="robustness_") as name:
        folder = Path(name)
        write_images(folder / "start" / "data" / "dataset" / "tiny")
        for scripts in stages:
            run_to_end(scripts, folder / "start")
        yield folder


def copy(root: Path, name: str) -> Path:
    """A copy of a root_dir beside it, in place of an older one of that name; times of change stay."""
    target = root.with_name(name)
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(root, target))


def stage_in(root: Path) -> Stage:
    """The small pipeline in `root`, for loaders that are called in this process."""
    _point_to(root)
    artifacts = Artifacts(root, MODEL, DATASET)
    return Stage(load(MODEL, DATASET, list(SETTINGS)), artifacts, torch.device("cpu"), torch.float32, 0)


def _environment(root: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CNNMOD_")}
    ours = {"CNNMOD_ROOT_DIR": str(root), "CNNMOD_DEVICE": "cpu", "CNNMOD_WAIT_LIMIT": str(int(PATIENCE))}
    return {**kept, **ours, "OMP_NUM_THREADS": "1"}


def _point_to(root: Path) -> None:
    for name in [name for name in os.environ if name.startswith("CNNMOD_")]:
        del os.environ[name]
    os.environ.update(_environment(root))
    importlib.reload(global_configure)


@dataclass(frozen=True)
class Running:
    """A script at work."""

    script: Script
    process: BaseProcess | subprocess.Popen[bytes]
    log: Path  # all that it prints

    @property
    def exit_code(self) -> int | None:
        """None while it runs; minus the signal's number where one ended it."""
        if isinstance(self.process, subprocess.Popen):
            return self.process.poll()
        return self.process.exitcode

    def send(self, number: signal.Signals, *, to_group: bool = False) -> bool:
        """Send a signal; whether there was still somebody to meet it. Only `start_python` makes a group."""
        pid = self.process.pid
        if self.exit_code is not None or pid is None:
            return False
        (os.killpg if to_group else os.kill)(pid, number)
        return True

    def wait(self, seconds: float = PATIENCE) -> int:
        """Its exit code. Raises RuntimeError where it does not end."""
        end = time.monotonic() + seconds
        while (code := self.exit_code) is None:
            if time.monotonic() > end:
                self.send(signal.SIGKILL)
                raise RuntimeError(f"{self.script.path} did not end in {seconds:.0f} s: {self.said()}")
            time.sleep(LOOK_EVERY)
        return code

    def said(self) -> str:
        """All that this script has printed in this root_dir."""
        return self.log.read_text(errors="replace")


def start_forked(script: Script, root: Path) -> Running:
    """Start a script in a fork of this process."""
    log = _log_of(script, root)
    process = multiprocessing.get_context("fork").Process(target=_run_forked, args=(script, root, log), daemon=True)
    process.start()
    return Running(script, process, log)


def _run_forked(script: Script, root: Path, log: Path) -> None:
    with log.open("ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    _point_to(root)
    sys.argv = [str(TOP / script.path), *script.words]
    runpy.run_path(sys.argv[0], run_name="__main__")


def start_python(script: Script, root: Path) -> Running:
    """Start a script as a user does, in a process group of its own."""
    log = _log_of(script, root)
    with log.open("ab") as output:
        command = [sys.executable, str(TOP / script.path), *script.words]
        streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT}
        process = subprocess.Popen(
            command, env=_environment(root), start_new_session=True, preexec_fn=_heed_ctrl_c, **streams
        )
    return Running(script, process, log)


def _heed_ctrl_c() -> None:
    """As in a terminal, also where this process runs in the background and so ignores SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _log_of(script: Script, root: Path) -> Path:
    words = [Path(script.path).stem, *(word for word in script.arguments if word.isalnum())]
    return root / f"{'_'.join(words)}.log"


def run_to_end(scripts: Sequence[Script], root: Path) -> None:
    """Run scripts together. Raises RuntimeError where one does not end well."""
    for running in [start_forked(script, root) for script in scripts]:
        if running.wait() != 0:
            raise RuntimeError(f"{running.script.path}: {running.said()}")


def processes_of(root: Path) -> list[int]:
    """The running processes whose root_dir is `root`, but for this one. Only where there is a /proc."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it is somebody else's, or has ended
            if f"CNNMOD_ROOT_DIR={root}\0".encode() in (process / "environ").read_bytes():
                found.append(int(process.name))
    return [pid for pid in found if pid != os.getpid()]


def result_of(root: Path) -> dict[str, bytes]:
    """Every array, checkpoint, log and JSON file of a root_dir, but for what must differ: seconds, the date of a module
    set, and checksums over them, the state that lets a training go on, and when checksums were compared."""
    data = root / "data"
    found = {}
    for path in sorted(data.rglob("*")):
        name, parts = str(path.relative_to(data)), path.relative_to(data).parts
        if parts[0] == "dataset" or any(part.startswith(".") for part in parts):
            continue
        if path.stem == "training_state" or path.stem.endswith("_compared"):
            continue
        if path.suffix in (".npy", ".pth"):
            found[name] = path.read_bytes()
        elif path.suffix == ".json":
            found[name] = json.dumps(_without_seconds(json.loads(path.read_text()))).encode()
        elif path.suffix == ".csv":
            rows = list(csv.DictReader(io.StringIO(path.read_text())))
            found[name] = json.dumps(_without_seconds(rows)).encode()
    return found


def _without_seconds(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_seconds(element) for element in value]
    if isinstance(value, dict):
        return {key: _without_seconds(v) for key, v in value.items() if key not in UNLIKE}
    return value


def count_files(root: Path) -> int:
    """The whole files that the stages have written in a root_dir."""
    made = [folder for folder in (root / "data").iterdir() if folder.name != "dataset"]
    names = (path.name for folder in made for path in folder.rglob("*.*"))
    return sum(not name.startswith(".") and name.endswith((".npy", ".pth", ".csv", ".json")) for name in names)


@dataclass(frozen=True)
class Finding:
    """One row of the table: of so many that were tried, so many went as they should."""

    what: str
    tried: int
    held: int
    figures: str


def fault_parser(documentation: str | None, **counts: tuple[int, str]) -> OneLineParser:
    """The command line of all robustness commands: `--seed`, and one option per count with its default and sentence."""
    parser = OneLineParser(documentation)
    parser.add_argument("--seed", type=_whole_number, default=0, help="of the faults; default 0")
    for name, (default, sentence) in counts.items():
        parser.add_argument(f"--{name}", type=_whole_number, default=default, help=f"{sentence}; default {default}")
    return parser


def _whole_number(text: str) -> int:
    if not text.isdecimal() or len(text) > 9:
        raise ArgumentTypeError(f"expected a whole number of at most nine digits, given {text}")
    return int(text)


def faults_of(seed: int, what: str, *numbers: int) -> np.random.Generator:
    """The random generator of one kind of fault."""
    return generator(seed, f"faults: {what}", *numbers)


def conclude(name: str, findings: list[Finding], details: dict[str, Any]) -> None:
    """Print the rows, write `NAME.json` to RESULTS, and end with exit code 1 where something was lost."""
    show_table(["what", "tried", "held", "figures"], [[row.what, row.tried, row.held, row.figures] for row in findings])
    content = {
        "command": " ".join(["python", *sys.argv]),
        "machine": {"cores": num_cores(), "python": platform.python_version(), "torch": torch.__version__},
        "rows": [asdict(row) for row in findings],
        **details,
    }
    path = RESULTS / f"{name}.json"
    save_text(path, json.dumps(content, indent=1) + "\n")
    print(f"saved {path}", flush=True)
    lost = [row.what for row in findings if row.held < row.tried]
    if lost:
        print(f"error: not everything held: {'; '.join(lost)}; see {path}", file=sys.stderr)
        sys.exit(1)
