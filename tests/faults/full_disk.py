"""Let the disk fill up, or turn read-only, while each stage is at work; then make room and type the command again.

    python tests/faults/full_disk.py --times 10 --seed 0

The stage writes on a small disk of its own (a tmpfs, so this needs Linux and the right to mount). At a seeded random
moment a file takes all but a few KiB of it, or it is mounted read-only, as a disk is after an error. The stage must end
with one line and exit code 2, or need no more room; when the disk is as before, the same command must end with what an
undisturbed run finds, byte for byte, but for the seconds in it.
"""

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from faults import (
    LAUNCHER,
    LOOK_EVERY,
    PATIENCE,
    STAGES,
    Finding,
    Running,
    Script,
    conclude,
    copy,
    count_files,
    fault_parser,
    faults_of,
    processes_of,
    result_of,
    start_forked,
    start_python,
    workshop,
)

from utils.errors import UserError, run

DISK_MIB = 512
MOST_LEFT = 8 * 1024  # bytes that are left free at the most


def main() -> None:
    parser = fault_parser(__doc__, times=(10, "how often each stage's disk fills up, and turns read-only"))
    parser.add_argument("--last_stage", choices=STAGES, default=list(STAGES)[-1], help="the stages up to this one")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with workshop() as place:
        ready = place / "start"
        for what, script in STAGES.items():
            undisturbed = copy(ready, "undisturbed")
            files, began = count_files(undisturbed), time.monotonic()
            if start(script, undisturbed).wait() != 0:
                raise RuntimeError(f"{script.path} does not end well")
            # Fine-tuning leaves as many files as there were: its disk turns full at any time of its first half.
            seconds, files = time.monotonic() - began, max(1, count_files(undisturbed) - files)
            expected = result_of(undisturbed)
            for way in ("full", "read-only"):
                for number in range(arguments.times):
                    random = faults_of(arguments.seed, f"{way} disk: {what}", number)
                    with small_disk(copy(ready, "disturbed") / "data") as disk:
                        row = disturb(script, disk, way, random, files, seconds)
                        row["identical"] = result_of(disk.parent) == expected
                    rows.append({"stage": what, "disk": way, **row})
                    print(", ".join(f"{name}: {value}" for name, value in rows[-1].items()), flush=True)
            if what == arguments.last_stage:
                break
            ready = copy(undisturbed, "ready")
    conclude("full_disk", [finding(rows, way) for way in ("full", "read-only")], {"faults": rows})


def finding(rows: list[dict[str, Any]], way: str) -> Finding:
    """The table's row of one kind of fault."""
    chosen = [row for row in rows if row["disk"] == way]
    held = sum(row["one line"] and row["half files"] == 0 and row["identical"] for row in chosen)
    ended = sum(row["exit code"] == 2 for row in chosen)
    identical = sum(row["identical"] for row in chosen)
    figures = (
        f"{len({row['stage'] for row in chosen})} stages; {ended} ended with one line, the others needed no more room; "
        f"{sum(row['half files'] for row in chosen)} half files; afterwards {identical} identical"
    )
    return Finding(f"the disk turns {way} under a stage", len(chosen), held, figures)


@contextlib.contextmanager
def small_disk(data: Path) -> Iterator[Path]:
    """A disk of its own in place of a folder `data`, with what was in it. Raises UserError without the right to it."""
    content = data.rename(data.with_name("content"))
    data.mkdir()
    if complaint := call("mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(data)):
        raise UserError(f"a tmpfs cannot be mounted ({complaint}): try as root, on Linux")
    try:
        shutil.copytree(content, data, dirs_exist_ok=True)
        yield data
    finally:
        shutil.rmtree(content)
        call("umount", "--lazy", str(data))


def call(program: str, *words: str) -> str:
    """What a program of the system complains of; empty where it did its work."""
    path = shutil.which(program)
    if path is None:
        return f"there is no {program}"
    done = subprocess.run([path, *words], capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stderr.strip() or f"exit code {done.returncode}"


def start(script: Script, root: Path) -> Running:
    """Start a stage; the launcher as a user does, since it counts its children."""
    return start_python(script, root) if script is LAUNCHER else start_forked(script, root)


def disturb(
    script: Script, data: Path, way: str, random: np.random.Generator, files: int, seconds: float
) -> dict[str, Any]:
    """Run a stage until its disk fails it, and again on a whole disk; what it ended with, and what it left."""
    root = data.parent
    before, enough, began = count_files(root), int(random.integers(0, files)), time.monotonic()
    left, delay = int(random.integers(MOST_LEFT)), float(random.uniform(0, 0.5 * seconds / files))
    running = start(script, root)
    while running.exit_code is None and count_files(root) - before < enough:
        if time.monotonic() > began + PATIENCE:
            raise RuntimeError(f"no progress: {running.said()}")
        time.sleep(LOOK_EVERY)
    time.sleep(delay)
    with full(data, left) if way == "full" else read_only(data):
        exit_code = running.wait()
        while processes_of(root):  # a launcher's children
            time.sleep(LOOK_EVERY)
    said = running.said()
    complaints = [line for line in said.splitlines() if line.startswith("error:")]
    # A launcher shows a failing child's last lines before its own.
    in_order = exit_code == 2 and len(complaints) >= 1 and (script is LAUNCHER or len(complaints) == 1)
    half_files = [path for path in data.rglob("*.partial") if path.is_file()]
    again = start(script, root)
    if again.wait() != 0:
        raise RuntimeError(f"{script.path} does not go on: {again.said()}")
    return {
        "exit code": exit_code,
        "one line": (exit_code == 0 or in_order) and "Traceback" not in said,
        "half files": len(half_files) if way == "full" else 0,  # nobody can remove one from a read-only disk
        "said": complaints[-1] if complaints else "",
    }


@contextlib.contextmanager
def full(data: Path, left: int) -> Iterator[None]:
    """Hardly any room on the disk: `left` bytes."""
    filler = data / "dataset" / ".filler"
    with filler.open("wb", buffering=0) as file:
        with contextlib.suppress(OSError):  # until nothing fits
            while True:
                file.write(bytes(2**20))
        file.truncate(max(0, file.tell() - left))
    try:
        yield
    finally:
        filler.unlink()


@contextlib.contextmanager
def read_only(data: Path) -> Iterator[None]:
    """A disk that can be read alone. It is refused while a file is being written."""
    deadline = time.monotonic() + PATIENCE
    while complaint := call("mount", "-o", "remount,ro", str(data)):
        if time.monotonic() > deadline:
            raise RuntimeError(complaint)
        time.sleep(LOOK_EVERY)
    try:
        yield
    finally:
        call("mount", "-o", "remount,rw", str(data))


if __name__ == "__main__":
    run(main)
