"""Kill the trainings and the analysis scripts again and again, and compare their files with those of undisturbed runs.

    python tests/faults/kill_stages.py --kills 10 --seed 0

`kill -9` meets each script at seeded random moments, a training mostly in the middle of an epoch; the same command is
started again until it ends. Then every array, checkpoint, log and JSON file must be byte for byte what the undisturbed
script wrote, but for the seconds in it.
"""

from pathlib import Path
from typing import Any

from faults import (
    LAUNCHER,
    SEARCH,
    STAGES,
    Finding,
    conclude,
    copy,
    fault_parser,
    run_to_end,
    start_forked,
    workshop,
)
from killing import kill_until

import global_configure
import report.figures_of_model  # noqa: F401  imported once here, not in every fork
from utils.errors import run


def main() -> None:
    parser = fault_parser(__doc__, kills=(10, "how often to kill each script"))
    arguments = parser.parse_args()
    folder = Path(global_configure.root_dir).resolve()
    findings: list[Finding] = []
    details: dict[str, Any] = {}
    with workshop() as place:
        ready = place / "start"
        for what, script in STAGES.items():
            if script is LAUNCHER:  # what kill_search.py kills
                run_to_end(SEARCH, ready)
                continue
            rows, details[what] = kill_until(what, [script], start_forked, ready, arguments.kills, arguments.seed)
            findings += rows
            ready = copy(place / "undisturbed", "ready")
    conclude("kill_stages", folder, findings, details)


if __name__ == "__main__":
    run(main)
