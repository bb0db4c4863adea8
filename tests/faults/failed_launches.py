"""Let launches of the module search fail in every way, and count the processes that are left behind.

    python tests/faults/failed_launches.py --launches 20 --seed 0

In turn: a child that fails, `kill -9` of a child, SIGTERM, Ctrl-C (SIGINT to the whole group), SIGINT to the launcher
alone, and `kill -9` of the launcher, each at a seeded random moment. A launch holds if nothing of it runs on and what
it said in the end was one line. Needs a /proc.
"""

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
from faults import (
    IMPORTANCE,
    LAUNCHER,
    LOOK_EVERY,
    PATIENCE,
    SETTINGS,
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
    stage_in,
    start_python,
    workshop,
)

from modules import files as module_files
from utils.errors import run

FAULTS = ("a child fails", "kill -9 of a child", "SIGTERM", "Ctrl-C", "SIGINT", "kill -9 of the launcher")
ENDLESS = Script(LAUNCHER.path, ("--jobs", "1"), (*SETTINGS, "generations=500"))
MOST_FILES = 12  # after so many new files at the most, and
LONGEST_DELAY = 0.5  # so many seconds, the fault comes
GRACE = 120.0  # seconds, on a busy machine, until what still runs counts as left behind


def main() -> None:
    parser = fault_parser(__doc__, launches=(20, "how many launches"))
    arguments = parser.parse_args()
    launches: list[dict[str, Any]] = []
    with workshop([TRAIN], [IMPORTANCE]) as place:
        for number in range(arguments.launches):
            root = copy(place / "start", f"launch_{number}")
            launches.append(fail(root, FAULTS[number % len(FAULTS)], faults_of(arguments.seed, "launch", number)))
            print(", ".join(f"{name}: {value}" for name, value in launches[-1].items()), flush=True)
    left = sum(launch["left behind"] for launch in launches)
    slowest = max(launch["seconds until all had ended"] for launch in launches)
    held = sum(launch["left behind"] == 0 and launch["one line"] for launch in launches)
    figures = f"{left} processes left behind; all had ended {slowest:.1f} s after the fault at the latest"
    conclude("failed_launches", [Finding("failed launches", len(launches), held, figures)], {"launches": launches})


def fail(root: Path, fault: str, random: np.random.Generator) -> dict[str, Any]:
    """Launch a search, let it fail, and say what was left of it."""
    if fault == "a child fails":
        importance = module_files.kernel_importance(stage_in(root).artifacts).path
        importance.write_bytes(importance.read_bytes()[:-1])
    launcher = start_python(ENDLESS, root)
    if fault != "a child fails":
        strike(launcher, root, fault, random)
    struck = time.monotonic()
    exit_code = launcher.wait()
    if fault == "a child fails":  # when it did, nobody saw
        struck = time.monotonic()
    while processes_of(root) and time.monotonic() < struck + GRACE:
        time.sleep(LOOK_EVERY)
    seconds, left = time.monotonic() - struck, processes_of(root)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    said = launcher.said()
    complaints = [line for line in said.splitlines() if line.startswith(("error:", "interrupted:"))]
    # Before its first line the launcher is still being imported, and a signal is Python's to answer.
    one_line = not said.startswith("root_dir:") or ("Traceback" not in said and len(complaints) <= 1)
    return {
        "fault": fault,
        "exit code": exit_code,
        "left behind": len(left),
        "one line": one_line,
        "seconds until all had ended": round(seconds, 2),
        "said": complaints[-1] if complaints else "",
    }


def strike(launcher: Running, root: Path, fault: str, random: np.random.Generator) -> None:
    """Send the fault's signal at a random moment."""
    enough = count_files(root) + int(random.integers(0, MOST_FILES))
    victim_needed = fault == "kill -9 of a child"
    deadline = time.monotonic() + PATIENCE

    def children() -> list[int]:
        return [pid for pid in processes_of(root) if pid != launcher.process.pid]

    while launcher.exit_code is None and (count_files(root) < enough or (victim_needed and not children())):
        if time.monotonic() > deadline:
            raise RuntimeError(f"the launcher makes no progress: {launcher.said()}")
        time.sleep(LOOK_EVERY)
    time.sleep(random.uniform(0, LONGEST_DELAY))
    if victim_needed:
        victims = children()
        os.kill(victims[random.integers(len(victims))], signal.SIGKILL)
    elif fault == "SIGTERM":
        launcher.send(signal.SIGTERM)
    elif fault == "kill -9 of the launcher":
        launcher.send(signal.SIGKILL)
    else:
        launcher.send(signal.SIGINT, to_group=fault == "Ctrl-C")


if __name__ == "__main__":
    run(main)
