"""Kill scripts again and again, and compare what they write in the end with undisturbed runs.

    python tests/faults/kill.py terminals --kills 20 --seed 0
    python tests/faults/kill.py launcher --kills 20 --seed 0
    python tests/faults/kill.py stages --kills 10 --seed 0

`kill -9` meets the scripts at seeded random moments; the same commands are started again until they end. Then every
array, checkpoint, log and JSON file must be byte for byte what undisturbed scripts wrote, but for the seconds in it.
terminals: the recorder and two explorers of a module search by themselves, one of them or all, forked from one process
that has torch imported. launcher: scripts/run_module_search.py as a user starts it, where the launcher alone, its whole
process group or a child of it is killed. stages: each training and analysis script, a training mostly in the middle of
an epoch.
"""

import os
import signal
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from faults import (
    IMPORTANCE,
    LAUNCHER,
    LOOK_EVERY,
    PATIENCE,
    SEARCH,
    STAGES,
    TRAIN,
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
    run_to_end,
    start_forked,
    start_python,
    workshop,
)

from utils.errors import run

Start = Callable[[Script, Path], Running]
WHAT: dict[str, dict[str, tuple[Sequence[Script], Start]]] = {
    "terminals": {"search, terminals": (SEARCH, start_forked)},
    "launcher": {"search, launcher": ((LAUNCHER,), start_python)},
    "stages": {what: ((script,), start_forked) for what, script in STAGES.items()},
}


def main() -> None:
    parser = fault_parser(__doc__, kills=(20, "how often to kill; of the stages, each script"))
    parser.add_argument("what", choices=WHAT, help="what to kill")
    arguments = parser.parse_args()
    findings: list[Finding] = []
    details: dict[str, Any] = {}
    with workshop(*([] if arguments.what == "stages" else [[TRAIN], [IMPORTANCE]])) as place:
        ready = place / "start"
        for what, (scripts, start) in WHAT[arguments.what].items():
            if LAUNCHER in scripts and start is start_forked:  # killed as `launcher`
                run_to_end(SEARCH, ready)
                continue
            finding, details[what] = kill_until(what, scripts, start, ready, arguments.kills, arguments.seed)
            findings.append(finding)
            ready = copy(place / "undisturbed", "ready")
    conclude(f"kill_{arguments.what}", findings, details)


def kill_until(
    what: str,
    scripts: Sequence[Script],
    start: Start,
    ready: Path,
    kills: int,
    seed: int,
) -> tuple[Finding, dict[str, Any]]:
    """Disturbed runs from the root_dir `ready` until so many kills are done, each compared with an undisturbed one."""
    undisturbed = copy(ready, "undisturbed")
    files_before, began = count_files(undisturbed), time.monotonic()
    first = bring_to_end(scripts, undisturbed, start, 0, faults_of(seed, what), 0.0, 0)
    seconds, files = time.monotonic() - began, count_files(undisturbed) - files_before
    expected = result_of(undisturbed)
    runs: list[dict[str, Any]] = []
    to_progress: list[float] = []
    while (done := sum(each["kills"] for each in runs)) < kills:
        random = faults_of(seed, what, len(runs))
        disturbed = copy(ready, "disturbed")
        result = bring_to_end(scripts, disturbed, start, kills - done, random, seconds, files)
        _wait_for_orphans(disturbed)
        found = result_of(disturbed)
        different = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
        runs.append({"kills": result.kills, "ended with one line": result.refusals, "different": different})
        to_progress += result.seconds_to_progress[1:]  # the first is no resumption
        print(f"{what}: {result.kills} kills, {len(different)} of {len(expected)} files different", flush=True)
    lost = [each for each in runs if each["different"]]
    start_seconds = next(iter(first.seconds_to_progress), float("nan"))
    kills_done = sum(each["kills"] for each in runs)
    figures = f"{len(runs) - len(lost)} of {len(runs)} runs identical, {len(expected)} files each"
    if to_progress:
        resumed = statistics.median(to_progress)
        figures += f"; next file {resumed:.2f} s after a restart (median), {start_seconds:.2f} s after a first start"
    details = {
        "runs": runs,
        "undisturbed seconds": seconds,
        "seconds from a start to the first file": start_seconds,
        "seconds from a restart to the next file": to_progress,
    }
    held = kills_done - sum(max(1, each["kills"]) for each in lost)
    return Finding(f"kill -9: {what}", kills_done, held, figures), details


@dataclass
class Disturbed:
    """What it took to bring scripts to their end."""

    kills: int = 0
    refusals: int = 0  # ended with one line: a child of the launcher was killed, or another process held the place
    seconds_to_progress: list[float] = field(default_factory=list)  # from a restart of everything to the next new file


def bring_to_end(
    scripts: Sequence[Script],
    root: Path,
    start: Start,
    most_kills: int,
    random: np.random.Generator,
    usual_seconds: float,
    usual_files: int,
) -> Disturbed:
    """Type the commands again and again until all have ended well; meanwhile `kill -9` at random moments.

    A moment is a share of the usual seconds, or up to 40 ms after some number of files more. A kill meets one process,
    some or all of them; of a launcher, itself, its whole group, or one of its children.
    """
    result, ended, running = Disturbed(), set(), {}
    while len(ended) < len(scripts):
        alone = not running
        files_before, began, progressed = count_files(root), time.monotonic(), False
        running |= {script: start(script, root) for script in scripts if script not in ended and script not in running}
        at_files, delay = _moment(random, usual_seconds, usual_files)
        at_files += files_before
        deadline = None if at_files > files_before else began + delay
        to_kill = result.kills < most_kills
        while all(process.exit_code is None for process in running.values()):
            now, files = time.monotonic(), count_files(root)
            if files > files_before and not progressed:
                progressed = True
                if alone:
                    result.seconds_to_progress.append(now - began)
            if deadline is None and files >= at_files:
                deadline = now + delay
            if to_kill and deadline is not None and now >= deadline:
                result.kills += _kill_some(list(running.values()), root, random)
                break
            if now - began > PATIENCE:
                raise RuntimeError(f"no end in {PATIENCE:.0f} s: {[p.said() for p in running.values()]}")
            time.sleep(LOOK_EVERY)
        time.sleep(LOOK_EVERY)
        for script, process in list(running.items()):
            if process.exit_code is None and script is not LAUNCHER:
                continue
            code = process.wait()
            del running[script]
            if code == 0:
                ended.add(script)
            elif code != -signal.SIGKILL:
                if most_kills == 0 or "Traceback" in process.said():
                    raise RuntimeError(process.said())
                result.refusals += 1
                if result.refusals > 20 + 4 * result.kills:
                    raise RuntimeError(f"{script.path} is refused again and again: {process.said()}")
                time.sleep(0.2)
    return result


def _wait_for_orphans(root: Path) -> None:
    """Return when the children of killed launchers have noticed and ended."""
    began = time.monotonic()
    while processes_of(root):
        if time.monotonic() - began > PATIENCE:
            raise RuntimeError(f"processes {processes_of(root)} outlive their launcher")
        time.sleep(LOOK_EVERY)


def _moment(random: np.random.Generator, usual_seconds: float, usual_files: int) -> tuple[int, float]:
    if random.random() < 0.4:
        return 0, float(random.uniform(0, usual_seconds))
    return int(random.integers(1, max(2, usual_files // 2))), float(random.uniform(0, 0.04))


def _kill_some(running: list[Running], root: Path, random: np.random.Generator) -> int:
    (first, *_) = running
    if first.script is LAUNCHER:
        children = [pid for pid in processes_of(root) if pid != first.process.pid]
        choice = random.integers(3)
        if choice == 0 and children:
            try:
                os.kill(children[random.integers(len(children))], signal.SIGKILL)
            except ProcessLookupError:
                return 0
            return 1
        return int(first.send(signal.SIGKILL, to_group=choice == 1))
    chosen = random.random(len(running)) < 0.5
    chosen[random.integers(len(running))] = True
    hit = [process.send(signal.SIGKILL) for process, killed in zip(running, chosen, strict=True) if killed]
    for process, killed in zip(running, chosen, strict=True):
        if killed:
            process.wait()
    return int(any(hit))


if __name__ == "__main__":
    run(main)
