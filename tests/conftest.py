"""What the tests share: folders of their own, a small strong model, and scripts run as a user runs them."""

import contextlib
import functools
import io
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from torch import nn
from xdist.scheduler import LoadFileScheduling

import global_configure
from configures.base import load
from dataset.images import IMAGENET, Images, normalise
from dataset.splits import load_split
from models import files as model_files
from models.names import network_of
from utils import progress
from utils.artifacts import Artifacts
from utils.errors import ENDING, UserError
from utils.files import save_array

TOP = Path(__file__).resolve().parents[1]
# The same examples every time, or many others with --hypothesis-profile thorough; the machine may be busy: no deadline.
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True, database=None)
hypothesis.settings.register_profile("thorough", deadline=None, database=None, max_examples=10_000)
hypothesis.settings.load_profile("repeatable")
hypothesis.settings.register_profile("seeded", deadline=None, database=None)  # with --hypothesis-seed


def pytest_addoption(parser: pytest.Parser) -> None:
    """What no test may depend on, and `make test-portable` varies."""
    group = parser.getgroup("this project")
    group.addoption("--threads", type=int, default=1, help="CPU threads of each process (default: 1)")
    group.addoption("--seed", type=int, default=0, help="global_configure.seed, and of the shared strong models")
    group.addoption(
        "--first-line",
        type=float,
        default=progress.FIRST_LINE,
        help="seconds before a loop in the tests' own processes prints a progress line; inf: never",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Apply the options in this process, and for all processes that the tests start."""
    torch.set_num_threads(config.option.threads)
    # Without it each worker of xdist gets BLAS threads for all cores, which spin while they wait.
    os.environ["OMP_NUM_THREADS"] = str(config.option.threads)
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # more threads than cores must not keep each other from working
    global_configure.seed = config.option.seed
    # Event.wait refuses infinity.
    progress.FIRST_LINE = min(config.option.first_line, threading.TIMEOUT_MAX)


class ByFile(LoadFileScheduling):
    """One worker for all tests of a file, and of files that carry the same `xdist_group`: they share what they make.

    xdist's own groups hold no more from pytest 9.2 on, where the names of tests cannot be changed.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return _group_of(file) or file


@functools.cache
def _group_of(file: str) -> str:
    found = re.search(r'xdist_group\("([^"]+)"\)', (TOP / file).read_text(encoding="utf-8"))
    return found[1] if found else ""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    """How tests are shared out among workers."""
    return ByFile(config, log)


@dataclass(frozen=True)
class Run:
    """What a script left behind."""

    exit_code: int
    stdout: str
    stderr: str

    def refused(self, *expected: str, exit_code: int = 2) -> str:
        """The one line with which it refused its input; each of `expected` is in it."""
        assert self.exit_code == exit_code, self
        assert "Traceback" not in self.stdout + self.stderr, self
        (line,) = self.stderr.splitlines()
        assert line.startswith("error: "), line
        for part in expected:
            assert part in line, line
        return line


def environment(root: Path, **more: str) -> dict[str, str]:
    """The environment of a script whose root_dir is `root`: on the CPU, with the threads and seed of the tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CNNMOD_")}
    config = root.with_name(f"{root.name}_config")
    own = {"CNNMOD_ROOT_DIR": str(root), "CNNMOD_CONFIG_DIR": str(config), "CNNMOD_DEVICE": "cpu"}
    return {**kept, **own, "CNNMOD_SEED": str(global_configure.seed), **more}


def run_script(
    path: str, *args: Any, root: Path, cwd: Path = TOP, env: dict[str, str] | None = None, timeout: float = 600
) -> Run:
    """Run the script at `path`, relative to the top of the project, with `cwd` as the current folder."""
    script = os.path.relpath(TOP / path, cwd)
    return run_program([sys.executable, script, *map(str, args)], root=root, cwd=cwd, env=env, timeout=timeout)


def run_program(
    command: Sequence[str], *, root: Path, cwd: Path, env: dict[str, str] | None = None, timeout: float = 600
) -> Run:
    """Run a command with the environment of a script whose root_dir is `root`."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment(root, **(env or {})),
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
    )
    return Run(done.returncode, done.stdout, done.stderr)


def run_here(path: str, *args: Any, root: Path) -> Run:
    """Like `run_script`, but in this process: without the seconds that importing torch takes. For fixtures."""
    with pytest.MonkeyPatch.context() as patch:
        live_in(root, patch)
        return _run_here(path, args)


@pytest.fixture
def run_main(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    """The same for tests, whose own settings in `global_configure` count; they go on with this root_dir."""

    def run(path: str, *args: Any, root: Path) -> Run:
        monkeypatch.setattr(global_configure, "root_dir", root)
        return _run_here(path, args)

    return run


def _run_here(path: str, args: Sequence[Any]) -> Run:
    stdout, stderr, exit_code = io.StringIO(), io.StringIO(), 0
    handlers = {number: signal.getsignal(number) for number in ENDING}
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        patch.setattr(sys, "argv", [path, *map(str, args)])
        try:
            runpy.run_path(str(TOP / path), run_name="__main__")
        except SystemExit as end:
            exit_code = int(end.code or 0)
        finally:
            torch.set_deterministic_debug_mode("default")
            for number, handler in handlers.items():  # a script leaves them ignored, for the end of its process
                signal.signal(number, handler)
    return Run(exit_code, stdout.getvalue(), stderr.getvalue())


def live_in(root: Path, patch: pytest.MonkeyPatch) -> None:
    """What `environment` says to another process, in this one."""
    patch.setattr(global_configure, "root_dir", root)
    patch.setattr(global_configure, "dataset_dir", root / "data" / "dataset")
    patch.setattr(global_configure, "config_dir", root.with_name(f"{root.name}_config"))
    patch.setenv("CNNMOD_CONFIG_DIR", str(root.with_name(f"{root.name}_config")))  # of workers
    patch.setattr(global_configure, "device", "cpu")
    patch.setattr(global_configure, "precision", "float32")


@pytest.fixture(autouse=True)
def own_handlers() -> Iterator[None]:
    """Signals do in the next test what they did before: a script that ends leaves them ignored."""
    before = {number: signal.getsignal(number) for number in ENDING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def own_folders(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> Path:
    """A root_dir and a dataset_dir of the test's own, so that nothing is read from or written to the repository."""
    root = tmp_path_factory.mktemp("root")
    live_in(root, monkeypatch)
    torch.set_num_threads(pytestconfig.option.threads)  # an explorer that ran in this process has set its own number
    progress.show_progress(True)  # whatever an earlier test's --quiet has said
    return root


@pytest.fixture
def no_progress_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that compare all that is printed: on a busy machine every loop becomes slow enough for a line."""
    monkeypatch.setattr(progress, "FIRST_LINE", threading.TIMEOUT_MAX)


@pytest.fixture
def root_dir(own_folders: Path) -> Path:
    """The test's own, empty root_dir."""
    return own_folders


def refusal_of(call: Callable[[], object]) -> str:
    """The one line with which a call refuses what it was given."""
    with pytest.raises(UserError) as refused:
        call()
    message = str(refused.value)
    assert "\n" not in message
    return message


def last_layer(network: nn.Module) -> nn.Linear:
    """The layer that gives the logits."""
    return [layer for layer in network.modules() if isinstance(layer, nn.Linear)][-1]


def fit_last_layer(network: nn.Module, images: Images, num_classes: int) -> None:
    """Make a random network look trained: ridge regression of the classes on what its last layer reads."""
    last, read = last_layer(network), []
    hook = last.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    with torch.inference_mode():
        network.eval()(normalise(torch.tensor(images.pixels), images.normalisation))
        hook.remove()
        (x,) = read
        features = torch.cat([x.double(), torch.ones(len(x), 1, dtype=torch.double)], 1)
        wanted = torch.nn.functional.one_hot(torch.tensor(images.labels), num_classes).double() * 20 - 10
        gram = features.T @ features
        gram.diagonal().add_(1e-3 * gram.diagonal().mean())
        solution = torch.linalg.solve(gram, features.T @ wanted)
        last.weight.copy_(solution[:-1].T)
        last.bias.copy_(solution[-1])


def even_out(network: nn.Module, images: torch.Tensor) -> None:
    """Make a random network's answers differ: a deep one without training gives all images nearly the same logits."""
    last = last_layer(network)
    with torch.no_grad():
        logits = network.eval()(images)
        last.weight.div_(logits.std(0)[:, None])
        last.bias.sub_(logits.mean(0)).div_(logits.std(0))


@pytest.fixture(scope="session")
def strong_roots(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """`strong_roots(model, dataset)`: a root_dir with decoded digits and a strong model that looks trained.

    Made once and shared: for reading only. Tests that write take a copy, as `strong_root` does.
    """
    made: dict[tuple[str, str], Path] = {}

    def root_of(model: str, dataset: str) -> Path:
        if (model, dataset) not in made:
            root = tmp_path_factory.mktemp(f"{model}_{dataset}")
            config = load(model, dataset)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(global_configure, "root_dir", root)
                split = load_split(config)
            torch.manual_seed(global_configure.seed)
            network = network_of(config.network_name, config.num_classes, config.image_side)
            fit_last_layer(network, split.train, config.num_classes)
            model_files.entire_model(Artifacts(root, model, dataset)).save(network.state_dict())
            made[model, dataset] = root
        return made[model, dataset]

    return root_of


@pytest.fixture
def strong_root(strong_roots: Callable[[str, str], Path], tmp_path: Path) -> Path:
    """A root_dir of the test's own with digits and a strong simcnn_x0_25 of about 90 % accuracy on them."""
    return Path(shutil.copytree(strong_roots("simcnn_x0_25", "digits"), tmp_path / "strong_root"))


def keep_few_images(root: Path, train: int = 700, test: int = 60) -> None:
    """Of a strong root's digits only the first ones: enough to search with, and evaluated in a third of the time."""
    folder = root / "data" / "decoded_dataset" / "digits"
    for part, count in (("train", train), ("test", test)):
        for kind in ("images", "labels"):
            path = folder / f"{part}_{kind}.npy"
            save_array(path, np.load(path)[:count])


def files_below(folder: Path) -> dict[str, bytes]:
    """Every file below a folder by its relative name, to see that nothing changed."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file can grow beyond so many bytes, as on a disk that fills up. Not on Windows."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def assert_near(found: Any, expected: Any) -> None:
    """Assert equality up to the rounding of a network in float32.

    A network's logits are sums of thousands of terms, in an order that depends on the processor. The largest values
    decide on the error, so that a value near zero has no relative precision.
    """
    found, expected = (np.asarray(values, np.float64) for values in (found, expected))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def numbers_in(pattern: str, text: str) -> list[float]:
    """The numbers that the one group of `pattern` finds in a script's output."""
    return [float(found) for found in re.findall(pattern, text)]


def random_images(n: int, num_classes: int, seed: int = 0) -> Images:
    """Noise, each class with a colour of its own, so that there is something to learn."""
    random = np.random.default_rng(seed)
    labels = random.integers(num_classes, size=n)
    pixels = random.integers(0, 120, (n, 32, 32, 3))
    pixels += (np.random.default_rng(1).integers(0, 130, (num_classes, 3))[labels])[:, None, None, :]
    return Images(pixels.astype(np.uint8), labels.astype(np.int64), IMAGENET)
