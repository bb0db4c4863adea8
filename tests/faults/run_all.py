"""All robustness commands, one after the other, and their table.

    python tests/faults/run_all.py --seed 0
    python tests/faults/run_all.py --quick

Each command writes its own JSON below data/robustness; the table is printed and written there as ROBUSTNESS.md, one row
per thing that was tried. Ends with exit code 1 where something did not hold.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

from faults import RESULTS, fault_parser

from utils.errors import run
from utils.files import save_text
from utils.tables import markdown_table

FOLDER = Path(__file__).resolve().parent
# Per command: its words, and what --quick says instead.
COMMANDS = (
    ("kill.py terminals --kills 100", "kill.py terminals --kills 2"),
    ("kill.py launcher --kills 20", "kill.py launcher --kills 1"),
    ("kill.py stages --kills 20", "kill.py stages --kills 1"),
    ("damage_files.py --count 200 --runs 5", "damage_files.py --count 3 --runs 0"),
    ("full_disk.py --times 5", "full_disk.py --times 1 --last_stage importance"),
    ("failed_launches.py --launches 20", "failed_launches.py --launches 1"),
    ("kill_nodes.py --node_kills 20 --driver_kills 5", "kill_nodes.py --node_kills 1 --driver_kills 1"),
)


def main() -> None:
    parser = fault_parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="a few faults of each kind, to see that everything runs")
    arguments = parser.parse_args()
    rows, lost = [], []
    for full, quick in COMMANDS:
        words = [*(quick if arguments.quick else full).split(), "--seed", str(arguments.seed)]
        name = words[0].removesuffix(".py") + (f"_{words[1]}" if words[0] == "kill.py" else "")
        print(f"\n== {' '.join(words)}", flush=True)
        began = time.monotonic()
        exit_code = subprocess.run([sys.executable, FOLDER / words[0], *words[1:]], check=False).returncode
        print(f"{time.monotonic() - began:.0f} s", flush=True)
        if exit_code not in (0, 1):  # it could not even try
            sys.exit(exit_code)
        lost += [name] if exit_code else []
        content = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        rows += [[row["what"], row["tried"], row["held"], row["figures"], " ".join(words)] for row in content["rows"]]
    machine = ", ".join(f"{key}: {value}" for key, value in content["machine"].items())
    text = table(rows, machine)
    print(f"\n{text}")
    save_text(RESULTS / "ROBUSTNESS.md", text)
    print(f"saved {RESULTS / 'ROBUSTNESS.md'}")
    if lost:
        print(f"error: not everything held: {', '.join(lost)}; see above", file=sys.stderr)
        sys.exit(1)


def table(rows: list[list[object]], machine: str) -> str:
    """The rows as Markdown."""
    body = markdown_table(["what", "tried", "held", "figures", "command"], rows)
    return f"{body}\nCommands in `tests/faults`. {machine}.\n"


if __name__ == "__main__":
    run(main)
