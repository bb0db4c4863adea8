"""What was run: a record of every stage, where its files lie, and whether it must be run again."""

import importlib.metadata
import itertools
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import torch
from result_stages import Stage

import global_configure
from configures.base import load
from engines.node import processor
from models import files as model_files
from patching import files as patch_files
from patching.weak_models import WeakKind
from search.gradient import files as gradient_files
from utils.artifacts import Artifacts, RecordFile
from utils.device import num_cores, resolve_device
from utils.files import write_whole

TOP = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "torchvision", "numpy")
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")  # of a processor, on which speed and the last bits depend


def _of_strong(artifacts: Artifacts) -> Iterator[Path]:
    for file in (model_files.network_settings, model_files.trained_on, model_files.entire_model):
        file(artifacts).check_is_there()
        yield file(artifacts).path


def _of_gradient(artifacts: Artifacts) -> Iterator[Path]:
    yield from gradient_files.folder(artifacts).iterdir()


def _of_weak(artifacts: Artifacts) -> Iterator[Path]:
    for target_class in range(load(artifacts.model, artifacts.dataset).num_classes):
        history = patch_files.weak_model_log(artifacts, WeakKind.SIMPLE, target_class)
        history.check_is_there()
        yield history.path
        yield patch_files.weak_model_settings(artifacts, WeakKind.SIMPLE, target_class).path
        yield from history.path.parent.glob("epoch_*.pth")


# What a stage left, for others to take over.
TAKEN = {"strong": _of_strong, "gradient": _of_gradient, "weak": _of_weak}

DONE, TO_DO = "done", "to do"


@dataclass(frozen=True)
class Record:
    """One stage, as it was run."""

    done: bool  # else it was interrupted, or failed
    commands: tuple[str, ...]  # as they would be typed
    seed: int
    precision: str
    seconds: float  # of all runs that went on with it
    ended: str  # UTC
    commit: str
    versions: dict[str, str]
    machine: dict[str, str]
    ended_well: int = 0  # how many of the commands, before the one that was interrupted or failed


@dataclass(frozen=True)
class Place:
    """Where the stages of one dataset and size lie: a root_dir for every root, their logs and records beside."""

    folder: Path
    precision: str
    command: str  # what runs the stages

    def root(self, name: str) -> Path:
        """A root_dir."""
        return self.folder / "roots" / name

    def artifacts(self, stage: Stage) -> Artifacts:
        """The files of a stage's network."""
        return Artifacts(self.root(stage.root), stage.model, stage.dataset)

    def log(self, stage: Stage) -> Path:
        """What a stage's scripts print."""
        return self.folder / "logs" / f"{stage.name}.log"

    def record(self, name: str) -> RecordFile[Record]:
        """The record of a stage by its name."""
        return RecordFile(self.folder / "records" / f"{name}.json", f"{self.command} --only {name}", Record)

    def state(self, stage: Stage) -> str:
        """DONE, or in a few words why not."""
        record = self.record(stage.name).load_if_there()
        if record is None:
            return TO_DO
        if (record.commands, record.seed, record.precision) != (typed(stage), stage.seed, self.precision):
            return "made otherwise"
        if not record.done:
            return "interrupted"
        newer = self._newer_than(record, stage)
        return f"older than {newer[0]}" if newer else DONE

    def _newer_than(self, record: Record, stage: Stage) -> list[str]:
        """The stages that a stage needs which ended after this record of it."""
        needed = {name: self.record(name).load_if_there() for name in stage.needs}
        return [name for name, of_need in needed.items() if of_need and of_need.ended > record.ended]

    def variables(self, stage: Stage) -> dict[str, str]:
        """The environment variables by which a script knows where and how to work."""
        return {
            "CNNMOD_ROOT_DIR": str(self.root(stage.root)),
            "CNNMOD_DATASET_DIR": str(Path(global_configure.dataset_dir).resolve()),
            "CNNMOD_SEED": str(stage.seed),
            "CNNMOD_PRECISION": self.precision,
        }

    def prepare(self, stage: Stage) -> None:
        """Bring what a stage shares with others to its root: the decoded datasets, and what it takes of another."""
        data = self.root(stage.root) / "data"
        shared, link = Path(global_configure.root_dir).resolve() / "data" / "decoded_dataset", data / "decoded_dataset"
        for folder in (shared, data):
            folder.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(os.path.relpath(shared, data), target_is_directory=True)
        if not stage.other_root:
            return
        there, here = Artifacts(self.root(stage.other_root), stage.model, stage.dataset), self.artifacts(stage)
        for file in itertools.chain.from_iterable(TAKEN[what](there) for what in stage.taken):
            content, target = file.read_bytes(), here.root_dir / file.relative_to(there.root_dir)
            write_whole(target, lambda target, content=content: target.write(content))

    @contextmanager
    def recorded(self, stage: Stage) -> Iterator[Iterator[int]]:
        """Record what happens within: done once all commands are, or interrupted where it is left before.

        Gives the commands that are left to do; one ended well when the next one is asked for. Some begin anew when
        they are typed again, so one that ended well is not.
        """
        file, start = self.record(stage.name), time.monotonic()
        interrupted = file.load() if self.state(stage) == "interrupted" else None
        before, first = (interrupted.seconds, interrupted.ended_well) if interrupted else (0.0, 0)
        if interrupted and self._newer_than(interrupted, stage):
            first = 0
        commit, machine, done = commit_now(), machine_now(), first

        def commands() -> Iterator[int]:
            nonlocal done
            while done < len(stage.commands):
                yield done
                done += 1

        try:
            yield commands()
        finally:
            record = Record(
                done=done == len(stage.commands),
                commands=typed(stage),
                seed=stage.seed,
                precision=self.precision,
                seconds=round(before + time.monotonic() - start, 1),
                ended=datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
                commit=commit,
                versions={package: importlib.metadata.version(package) for package in PACKAGES},
                machine=machine,
                ended_well=done,
            )
            file.save(record)


def typed(stage: Stage) -> tuple[str, ...]:
    """A stage's command lines."""
    return tuple(shlex.join(["python", *words]) for words in stage.commands)


def machine_now() -> dict[str, str]:
    """The processor, and the GPU if stages take one."""
    device = resolve_device(global_configure.device)
    gpu = {"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
    return {"processor": processor(), "flags": " ".join(flags()), "cores": str(num_cores()), **gpu}


def flags() -> list[str]:
    """Those of FLAGS that the processor has, as far as the system tells."""
    try:
        description = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    line = next((line for line in description.splitlines() if line.startswith("flags")), "")
    return [flag for flag in FLAGS if flag in line.split()]


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
