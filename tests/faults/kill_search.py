"""Kill a small module search again and again, and compare what it finds in the end with an undisturbed one.

    python tests/faults/kill_search.py --kills 20 --seed 0
    python tests/faults/kill_search.py --kills 20 --seed 0 --way launcher

`kill -9` meets the recorder, the explorers, or all of them, at seeded random moments; the same commands are started
again until they end. Then every array, checkpoint, log and JSON file must be byte for byte what the undisturbed search
wrote, but for the seconds in it. --way terminals: recorder and two explorers by themselves, forked from one process
that has torch imported; --way launcher: scripts/run_module_search.py as a user starts it, where the launcher alone, its
whole process group or a child of it is killed.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from faults import (
    IMPORTANCE,
    LAUNCHER,
    SEARCH,
    TRAIN,
    Running,
    Script,
    conclude,
    fault_parser,
    run_to_end,
    start_forked,
    start_python,
    workshop,
)
from killing import kill_until

import global_configure
from utils.errors import run

WAYS: dict[str, tuple[Sequence[Script], Callable[[Script, Path], Running]]] = {
    "terminals": (SEARCH, start_forked),
    "launcher": ((LAUNCHER,), start_python),
}


def main() -> None:
    parser = fault_parser(__doc__, kills=(20, "how often to kill"))
    parser.add_argument("--way", choices=WAYS, default="terminals", help="how the search is started")
    arguments = parser.parse_args()
    folder = Path(global_configure.root_dir).resolve()
    scripts, start = WAYS[arguments.way]
    with workshop() as place:
        ready = place / "start"
        for script in (TRAIN, IMPORTANCE):
            run_to_end([script], ready)
        findings, details = kill_until(
            f"search, {arguments.way}", scripts, start, ready, arguments.kills, arguments.seed
        )
    conclude(f"kill_search_{arguments.way}", folder, findings, details)


if __name__ == "__main__":
    run(main)
