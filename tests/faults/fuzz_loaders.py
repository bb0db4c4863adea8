"""Hand mutated and random inputs to every loader of what a user can hand in.

    python tests/faults/fuzz_loaders.py --inputs 10000 --seed 0
    python tests/faults/fuzz_loaders.py --inputs 10000 --loader zip_dataset

Every input must be loaded as a valid value or refused with one line (UserError, SettingError, or a command line's exit
code 2). Each loader runs in a process of its own that may take 1 GiB of memory more and 20 seconds an input, and that
reports whenever it writes a file outside its folder or starts a program. What goes wrong is kept in
data/robustness/fuzz_failures.
"""

import contextlib
import io
import mmap
import os
import resource
import select
import signal
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from faults import PATIENCE, Finding, conclude, fault_parser, faults_of, stage_in, workshop
from fuzz_targets import SETTING_UP, TARGETS, Target, go_offline, make_seeds

import global_configure
from configures.setting import SettingError
from utils.errors import UserError, run

MORE_MEMORY = 2**30  # bytes of address space beyond what the process has when it starts
TIME_LIMIT = 20.0  # seconds of processor time an input
OWN_FAULT = 70  # the exit code of a child that could not even begin
MOST_KEPT = 20  # failures of one loader whose inputs are kept


def main() -> None:
    parser = fault_parser(__doc__, inputs=(10_000, "inputs per loader"))
    parser.add_argument("--loader", choices=TARGETS, nargs="+", default=list(TARGETS), help="these alone")
    arguments = parser.parse_args()
    folder = Path(global_configure.root_dir).resolve()
    kept = folder / "data" / "robustness" / "fuzz_failures"
    results: dict[str, Counter[str]] = {}
    with workshop() as place:
        seeds = make_seeds(place / "start")
        for name in arguments.loader:
            began = time.monotonic()
            results[name] = fuzz(TARGETS[name], seeds[name], place / name, arguments.inputs, arguments.seed, kept)
            counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(results[name].items()))
            print(f"{name}: {counts} ({time.monotonic() - began:.0f} s)", flush=True)
    total = sum(results.values(), Counter())
    fine = total["accepted"] + total["refused"]
    figures = f"{len(results)} loaders; {total['accepted']} loaded, {total['refused']} refused with one line"
    tried = arguments.inputs * len(results)
    conclude(
        "fuzz_loaders",
        folder,
        [Finding("mutated and random inputs", tried, fine, figures)],
        {"loaders": {name: dict(counts) for name, counts in results.items()}},
    )


def fuzz(target: Target, seeds: list[bytes], folder: Path, inputs: int, seed: int, kept: Path) -> Counter[str]:
    """How many inputs were `accepted`, `refused`, or something else; a process that dies is followed by another."""
    folder.mkdir()
    progress = mmap.mmap(-1, 8)  # the input that the child is at
    counts: Counter[str] = Counter()
    at = 0
    while at < inputs:
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            _child(target, seeds, folder, range(at, inputs), seed, kept, progress, writer)
        os.close(writer)
        outcomes = _outcomes(reader, pid)
        exit_code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if exit_code == OWN_FAULT:
            raise RuntimeError(f"the fuzzer of {target.name} failed itself, see above")
        counts.update(outcomes)
        at = int.from_bytes(progress[:8], "little") + 1
        if exit_code != 0:  # it died on the last one
            ended = f"died_{exit_code}"
            counts[ended] += 1
            _keep(kept, target, at - 1, target.make(faults_of(seed, target.name, at - 1), seeds), ended)
    return counts


def _outcomes(reader: int, pid: int) -> list[str]:
    """What the child says of each input; it is killed where it is silent for too long, even to signals."""
    said = b""
    with os.fdopen(reader, "rb", buffering=0) as pipe:
        while True:
            if not select.select([pipe], [], [], PATIENCE)[0]:
                os.kill(pid, signal.SIGKILL)
            if not (piece := pipe.read(2**16)):
                return said.decode().split()
            said += piece


def _child(
    target: Target,
    seeds: list[bytes],
    folder: Path,
    numbers: range,
    seed: int,
    kept: Path,
    progress: mmap.mmap,
    writer: int,
) -> None:
    """Try the inputs of `numbers`; ends this process."""
    try:
        sys.dont_write_bytecode = True
        go_offline()
        stage = stage_in(folder)
        outcomes = [_try(target, stage, content) for content in seeds]  # and what is imported late is imported now
        if target.takes_seeds and "accepted" not in (outcome for outcome, _ in outcomes):
            raise RuntimeError(f"{target.name} takes no valid input: {outcomes}")
        devnull = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):  # what scripts and libraries print
            os.dup2(devnull, stream)
        pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
        limit = pages * resource.getpagesize() + MORE_MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        signal.signal(signal.SIGPROF, _too_long)
        forbidden: list[str] = []
        sys.addaudithook(lambda event, values: _watch(event, values, folder, forbidden))
        failures = 0
        for number in numbers:
            progress[:8] = number.to_bytes(8, "little")
            content = target.make(faults_of(seed, target.name, number), seeds)
            outcome, said = _try(target, stage, content)
            if forbidden:
                outcome, said = "reached_out", "\n".join(forbidden)
                forbidden.clear()
            if outcome not in ("accepted", "refused") and (failures := failures + 1) <= MOST_KEPT:
                _keep(kept, target, number, content, said)
                forbidden.clear()  # that was our own doing
            os.write(writer, f"{outcome} ".encode())
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(OWN_FAULT)


class TooLong(BaseException):
    """An input that keeps a loader busy; not an Exception, so that no loader takes it for a damaged file."""


def _too_long(*_: object) -> None:
    raise TooLong


def _try(target: Target, stage: Any, content: bytes) -> tuple[str, str]:
    """The outcome of one input, and what was said."""
    signal.setitimer(signal.ITIMER_PROF, TIME_LIMIT)
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            target.load(stage, content)
        return "accepted", ""
    except (UserError, SettingError) as error:
        line = f"error: {' '.join(str(error).split())}"  # as utils.errors.run prints it
        return ("refused", line) if str(error).strip() else ("said_nothing", line)
    except SystemExit as end:
        lines = said.getvalue().splitlines()
        if end.code in (None, 0):
            return "accepted", ""
        refused = end.code in (2, 3) and len(lines) == 1 and lines[0].startswith("error: ")
        return ("refused" if refused else "odd_exit"), f"{end.code}: {said.getvalue()}"
    except TooLong:
        return "too_long", ""
    except BaseException as error:
        return type(error).__name__, "".join(traceback.format_exception(error))
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate", "os.chmod")
PROGRAMS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect")


def _watch(event: str, values: tuple[Any, ...], folder: Path, forbidden: list[str]) -> None:
    """An audit hook: note what writes outside `folder` or starts something."""
    if SETTING_UP.now:
        return
    if event in PROGRAMS:
        forbidden.append(f"{event} {values!r}")
    elif (event == "open" and isinstance(values[2], int) and values[2] & WRITES) or event in CHANGES:
        _note_outside(event, values[0], folder, forbidden)


def _note_outside(event: str, path: Any, folder: Path, forbidden: list[str]) -> None:
    if isinstance(path, int) or os.fsdecode(path) == os.devnull:
        return
    if not os.path.realpath(os.fsdecode(path)).startswith(f"{folder}{os.sep}"):
        forbidden.append(f"{event} {path!r}")


def _keep(kept: Path, target: Target, number: int, content: bytes, said: str) -> None:
    kept.mkdir(parents=True, exist_ok=True)
    (kept / f"{target.name}_{number}.input").write_bytes(content)
    (kept / f"{target.name}_{number}.txt").write_text(said, errors="replace")


if __name__ == "__main__":
    run(main)
