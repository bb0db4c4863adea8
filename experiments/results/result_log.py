"""Running the commands behind the tables, and the log of what was run: when, how long, where and by which code."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from result_commands import Command

import global_configure
from models import files as model_files
from utils.artifacts import TableFile
from utils.device import machine_facts, processor_and_instructions, resolve_device, utc_now
from utils.processes import ProcessGroup

TOP = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "torchvision", "numpy")


@dataclass(frozen=True)
class Ran:
    """One run of a command that succeeded."""

    number: int
    line: str  # the root_dir's name and the command line
    seconds: float
    ended: str  # UTC
    commit: str
    machine: str  # with versions and precision


@dataclass(frozen=True)
class Results:
    """The commands on one dataset, and the folder that they write to: a root_dir for every seed in roots/, log.csv."""

    folder: Path
    precision: str
    made_by: str  # the command that runs all of them
    commands: list[Command]

    @property
    def roots(self) -> Path:
        """The folder of the root_dirs."""
        return self.folder / "roots"

    @property
    def log(self) -> TableFile[Ran]:
        """The commands that have succeeded."""
        return TableFile(self.folder / "log.csv", self.made_by, Ran)

    @property
    def ran(self) -> dict[str, Ran]:
        """The last run of each command that has succeeded, by its line."""
        return {ran.line: ran for ran in self.log.load_if_there()}

    def of(self, script: str) -> Iterator[tuple[Command, Ran]]:
        """The commands of a script that have succeeded, in their order."""
        ran = self.ran
        for command in self.commands:
            if command.script == script and command.line in ran:
                yield command, ran[command.line]

    def run(self, command: Command) -> float:
        """Run a command and log it; returns its seconds. Raises UserError, with its message, where it fails."""
        self._prepare(command)
        variables = {
            "CNNMOD_ROOT_DIR": str(self.roots / command.root),
            "CNNMOD_DATASET_DIR": str(Path(global_configure.dataset_dir).resolve()),
            "CNNMOD_SEED": str(command.seed),
            "CNNMOD_PRECISION": self.precision,
        }
        start, commit = time.monotonic(), commit_now()
        with ProcessGroup(self.folder / "logs" / command.root) as group:
            name = f"{command.model}_{Path(command.script).stem}"
            group.start(name, TOP / command.script, command.arguments, variables)
            group.wait()
        rows, seconds = self.log.load_if_there(), round(time.monotonic() - start, 1)
        machine = f"{machine_now()}, {self.precision}"
        self.log.save([*rows, Ran(len(rows), command.line, seconds, utc_now(), commit, machine)])
        return seconds

    def _prepare(self, command: Command) -> None:
        """Share the decoded datasets of all root_dirs; into a seed's further root_dirs, copy the strong model."""
        link = self.roots / command.root / "data" / "decoded_dataset"
        shared = Path(global_configure.root_dir).resolve() / "data" / "decoded_dataset"
        for folder in (shared, link.parent):
            folder.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(shared, target_is_directory=True)
        here, there = command.artifacts(self.roots), replace(command, root=f"seed_{command.seed}").artifacts(self.roots)
        if here != there:
            here.folder.mkdir(exist_ok=True)
            for file in (model_files.network_settings, model_files.trained_on, model_files.entire_model):
                file(there).check_is_there()
                shutil.copyfile(file(there).path, file(here).path)


def machine_now() -> str:
    """The GPU if commands take one, the processor, its cores, and versions."""
    facts, device = machine_facts(*PACKAGES), resolve_device(global_configure.device)
    gpu = f"{torch.cuda.get_device_name(device)}, " if device.type == "cuda" else ""
    versions = ", ".join(f"{package} {facts[package]}" for package in PACKAGES)
    return f"{gpu}{processor_and_instructions()}, {facts['cores']} cores, {versions}"


def commit_now() -> str:
    """The commit of the code, with a + behind it where the code differs from it; "unknown" without git."""
    command = ["git", "describe", "--always", "--exclude=*", "--abbrev=10", "--dirty=+"]
    try:
        done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
