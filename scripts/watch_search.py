"""Watch a running search from its files, on any machine that shares them; it does not disturb the search.

    python scripts/watch_search.py --model simcnn_x0_25 --dataset digits
    python scripts/watch_search.py --model simcnn_x0_25 --dataset digits --once

On a terminal the view is drawn again in its place; elsewhere one line is printed for every generation. Ends with the
search, or with Ctrl-C.
"""

import shutil
import sys
import textwrap
import time

import global_configure  # noqa: F401  (finds our packages before others of their names)
from models.opening import Stage, open_stage, stage_parser
from report.search_view import SearchView, look, view_lines
from search.genetic.log import describe
from utils.errors import UserError, run
from utils.tables import unescaped

UP_AND_CLEAR = "\x1b[{}A\x1b[J"  # terminal control: the cursor so many lines up, then clear to the end of the screen


def main() -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--once", action="store_true", help="one look, then end")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between two looks; default: 1")
    arguments = parser.parse_args()
    if not 0 < arguments.interval <= 3600:
        raise UserError(f"--interval {arguments.interval}: expected seconds above 0, at most 3600")
    stage = open_stage(arguments)
    view = look(stage.config, stage.artifacts)
    if arguments.once:
        print("\n".join(view_lines(view)))
    if view.seconds_since_change is None:
        print(f"start one with: {stage.artifacts.command('scripts/run_module_search.py')}", flush=True)
    if not arguments.once:
        (watch if sys.stdout.isatty() else print_lines)(stage, view, arguments.interval)


def watch(stage: Stage, view: SearchView, interval: float) -> None:
    """Draw the view again and again in the same place until the search is over."""
    height = 0
    while True:
        width = shutil.get_terminal_size().columns - 1  # a wrapped line would count twice
        lines = [part for line in view_lines(view) for part in textwrap.wrap(line, width, subsequent_indent="  ")]
        if height:
            print(UP_AND_CLEAR.format(height), end="", file=unescaped(sys.stdout))
        print("\n".join(lines), flush=True)
        if view.end:
            return
        height = len(lines)
        time.sleep(interval)
        view = look(stage.config, stage.artifacts)


def print_lines(stage: Stage, view: SearchView, interval: float) -> None:
    """Print one line a generation until the search is over."""
    shown = 0
    while True:
        for row in view.rows[shown:]:
            print(describe(row), flush=True)
        shown = len(view.rows)  # fewer than before, where the search went back to a checkpoint
        if view.end:
            print(view_lines(view)[-1])
            return
        time.sleep(interval)
        view = look(stage.config, stage.artifacts)


if __name__ == "__main__":
    run(main)
