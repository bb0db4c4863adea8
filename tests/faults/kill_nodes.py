"""Kill nodes and drivers of a small module search on a Ray cluster, and compare what it finds with an undisturbed one.

    python tests/faults/kill_nodes.py --node_kills 20 --driver_kills 5 --seed 0

The nodes are processes of this machine, raylets of one worker each. At seeded random moments one is killed, and another
one takes its place; or the driver is killed, and its command typed again. In the end every array, checkpoint, log and
JSON file must be byte for byte what a recorder and explorers wrote, but for the seconds in it. After each killed driver
none of its tasks may go on running, and in the end no process of the cluster.
"""

import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from faults import (
    EXPLORERS,
    IMPORTANCE,
    LAUNCHER,
    LOOK_EVERY,
    RECORDER,
    SETTINGS,
    TRAIN,
    Finding,
    Script,
    conclude,
    copy,
    fault_parser,
    faults_of,
    result_of,
    run_to_end,
    start_python,
    workshop,
)
from ray_nodes import RayNodes, ray_nodes

from engines.opening import check_ray_is_there
from utils.errors import run

NODES = 3
LONGER = (*SETTINGS, "generations=24", "population=12")  # so that a search outlives some kills


def main() -> None:
    parser = fault_parser(
        __doc__, node_kills=(20, "how many nodes to kill"), driver_kills=(5, "how often to kill the driver")
    )
    arguments = parser.parse_args()
    check_ray_is_there("kill_nodes.py")
    kills = {"node": arguments.node_kills, "driver": arguments.driver_kills}
    with workshop([TRAIN], [IMPORTANCE]) as place:
        with ray_nodes(NODES) as nodes:
            findings, details = kill_until(nodes, place / "start", kills, arguments.seed)
        left = wait_until_none(nodes.processes)
    findings.append(Finding("Ray's processes have ended with the cluster", 1, int(not left), f"left: {len(left)}"))
    conclude("kill_nodes", findings, details)


def kill_until(nodes: RayNodes, ready: Path, kills: dict[str, int], seed: int) -> tuple[list[Finding], dict[str, Any]]:
    """Searches from the root_dir `ready` until so many are killed, each compared with an undisturbed one."""
    random = faults_of(seed, "kill nodes")
    to_kill = random.permutation([what for what, count in kills.items() for _ in range(count)]).tolist()
    undisturbed = copy(ready, "undisturbed")
    run_to_end([replace(script, settings=LONGER) for script in (RECORDER, *EXPLORERS)], undisturbed)
    expected, runs = result_of(undisturbed), []
    while not runs or to_kill:
        disturbed = copy(ready, "disturbed")
        done = search_disturbed(nodes, disturbed, to_kill, random)
        found = result_of(disturbed)
        different = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
        runs.append({**done, "different": different})
        print(f"{done}, {len(different)} of {len(expected)} files different, {len(to_kill)} to go", flush=True)
    findings = []
    for what in kills:
        tried = sum(each[what] for each in runs)
        held = tried - sum(max(1, each[what]) for each in runs if each["different"])
        same = sum(not each["different"] for each in runs)
        figures = f"{same} of {len(runs)} runs identical, {len(expected)} files each"
        findings.append(Finding(f"kill -9: {what} of a Ray search", tried, held, figures))
    tried, ended = (sum(each[name] for each in runs) for name in ("driver", "tasks ended with it"))
    findings.append(Finding("a killed driver's tasks have ended", tried, ended, ""))
    return findings, {"runs": runs}


def search_disturbed(nodes: RayNodes, root: Path, to_kill: list[str], random: np.random.Generator) -> dict[str, int]:
    """One search to its end, its command typed again after each killed driver; takes what it kills out of `to_kill`."""
    words = ("--engine", "ray", "--address", nodes.address)
    script = Script(LAUNCHER.path, words, LONGER)
    done = {"node": 0, "driver": 0, "tasks ended with it": 0}
    while True:
        driver = start_python(script, root)
        while (code := driver.exit_code) is None:
            if not to_kill:
                code = driver.wait()
                break
            # From its start on, and while it searches: it takes some seconds to come so far.
            ends = time.monotonic() + random.uniform(0, 12)
            while time.monotonic() < ends and driver.exit_code is None:
                time.sleep(LOOK_EVERY)
            if driver.exit_code is not None:
                continue
            what = to_kill.pop()
            done[what] += 1
            if what == "node":
                nodes.replace(int(random.integers(NODES)))
                continue
            driver.send(signal.SIGKILL)
            driver.wait()
            done["tasks ended with it"] += not wait_until_none(lambda: nodes.processes("ray::_run_task"))
            break
        if code == 0:
            return done
        if code is not None:
            raise RuntimeError(f"exit code {code}: {driver.said()}")


def wait_until_none(processes: Callable[[], dict[int, str]], seconds: float = 60.0) -> dict[int, str]:
    """The processes that are still there after so many seconds."""
    ends = time.monotonic() + seconds
    while (found := processes()) and time.monotonic() < ends:
        time.sleep(0.1)
    return found


if __name__ == "__main__":
    run(main)
