"""Running the commands behind the tables: which were run, when, how long, on which machine and by which code."""

import importlib.metadata
import os
import shutil
import subprocess
import time
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import torch
from result_commands import Command

import global_configure
from engines.node import processor
from models import files as model_files
from utils.artifacts import TableFile
from utils.device import num_cores, resolve_device
from utils.processes import ProcessGroup

TOP = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "torchvision", "numpy")


@dataclass(frozen=True)
class Ran:
    """One run of a command."""

    number: int
    line: str  # the root_dir's name and the command line
    succeeded: int  # 1, or 0 where it failed or was interrupted
    seconds: float
    ended: str  # UTC
    commit: str
    machine: str  # with versions and precision


@dataclass(frozen=True)
class Place:
    """Where the commands of one dataset write: a root_dir for every seed in roots/, and log.csv."""

    folder: Path
    precision: str
    command: str  # that runs all of them

    @property
    def roots(self) -> Path:
        """The folder of the root_dirs."""
        return self.folder / "roots"

    @property
    def log(self) -> TableFile[Ran]:
        """All runs of commands."""
        return TableFile(self.folder / "log.csv", self.command, Ran)

    def succeeded(self) -> dict[str, Ran]:
        """By line the last runs of the commands that succeeded; their seconds are those of all runs of the line."""
        found: dict[str, Ran] = {}
        seconds: dict[str, float] = {}
        for ran in self.log.load_if_there():
            seconds[ran.line] = seconds.get(ran.line, 0.0) + ran.seconds
            if ran.succeeded:
                found[ran.line] = replace(ran, seconds=seconds[ran.line])
        return found

    def run(self, command: Command) -> float:
        """Run a command and write its row; returns its seconds. Raises UserError, with its message, where it fails."""
        self._prepare(command)
        name, log = "_".join([command.model, Path(command.script).stem]), self.folder / "logs" / command.root
        variables = {
            "CNNMOD_ROOT_DIR": str(self.roots / command.root),
            "CNNMOD_DATASET_DIR": str(Path(global_configure.dataset_dir).resolve()),
            "CNNMOD_SEED": str(command.seed),
            "CNNMOD_PRECISION": self.precision,
        }
        start, commit, succeeded = time.monotonic(), commit_now(), 0
        try:
            with ProcessGroup(log) as group:
                group.start(name, TOP / command.script, command.arguments, variables)
                group.wait()
            succeeded = 1
        finally:
            rows, seconds = self.log.load_if_there(), round(time.monotonic() - start, 1)
            ended = datetime.now(timezone.utc).isoformat(timespec="seconds")
            machine = f"{machine_now()}, {self.precision}"
            self.log.save([*rows, Ran(len(rows), command.line, succeeded, seconds, ended, commit, machine)])
        return seconds

    def _prepare(self, command: Command) -> None:
        """Share the decoded datasets with the other root_dirs; of a seed's further root_dirs, copy the strong model."""
        data = self.roots / command.root / "data"
        shared, link = Path(global_configure.root_dir).resolve() / "data" / "decoded_dataset", data / "decoded_dataset"
        for folder in (shared, data):
            folder.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(os.path.relpath(shared, data), target_is_directory=True)
        here, there = command.artifacts(self.roots), replace(command, root=f"seed_{command.seed}").artifacts(self.roots)
        if here != there:
            here.folder.mkdir(exist_ok=True)
            for file in (model_files.network_settings, model_files.trained_on, model_files.entire_model):
                file(there).check_is_there()
                shutil.copyfile(file(there).path, file(here).path)


def machine_now() -> str:
    """The GPU if commands take one, the processor, its cores, and versions."""
    device = resolve_device(global_configure.device)
    gpu = f"{torch.cuda.get_device_name(device)}, " if device.type == "cuda" else ""
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in PACKAGES)
    return f"{gpu}{processor()}, {num_cores()} cores, {versions}"


def commit_now() -> str:
    """The commit of the code, with a + behind it where the code differs from it; "unknown" without git."""
    git = shutil.which("git")
    if git is None:
        return "unknown"

    def ask(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([git, *words], cwd=TOP, capture_output=True, text=True, check=False)

    head = ask("rev-parse", "--short=10", "HEAD")
    if head.returncode:
        return "unknown"
    changed = ask("diff", "--quiet", "HEAD", "--", "*.py", "*.cpp").returncode
    return head.stdout.strip() + ("+" if changed else "")
