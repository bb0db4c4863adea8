"""The results on real data: run the commands behind the tables, and make the tables of what they wrote.

    python experiments/results/results.py
    python experiments/results/results.py --list
    python experiments/results/results.py --only "seed_1: *resnet*" "*trade_off.py*"
    python experiments/results/results.py --tables --publish
    python experiments/results/results.py --dataset digits_5 --tiny

result_commands.py lists the commands. One that has succeeded is not run again (to have all run again, remove log.csv);
one that was interrupted resumes; after a failure the commands behind it run all the same. Everything lies in
root_dir/data/results: a root_dir for every seed in roots/, what the scripts print in logs/, when, where and how long
commands ran in log.csv, and the tables. --publish writes the tables to experiments/results.
"""

import argparse
from fnmatch import fnmatch
from pathlib import Path

from result_commands import Command, commands_of
from result_log import TOP, Results
from result_tables import write_tables

import global_configure
from models.opening import OneLineParser
from utils.device import PRECISIONS
from utils.errors import UserError, run
from utils.progress import time_in_words

DATASET = "cifar10"
HERE = Path(__file__).resolve().parent


def main() -> None:
    arguments = parsed_arguments()
    dataset, tiny = arguments.dataset, arguments.tiny
    commands = commands_of(dataset, tiny=tiny)
    if not commands:
        raise UserError(f"--dataset {dataset}: no network of the results has a configuration file for it")
    options = ["--dataset", dataset] * (dataset != DATASET) + ["--tiny"] * tiny
    results = Results(
        folder=Path(global_configure.root_dir).resolve() / "data" / "results" / f"{dataset}{'_tiny' * tiny}",
        precision=arguments.precision or ("float32" if tiny else "bfloat16"),
        made_by=" ".join(["python experiments/results/results.py", *options]),
        commands=commands,
    )
    wanted, ran = chosen(commands, arguments.only), results.ran
    if arguments.list:
        for command in wanted:
            took = f"{ran[command.line].seconds:.0f} s" if command.line in ran else "to do"
            print(f"{command.line}  [{command.table}, {took}]")
        return
    failed = 0 if arguments.tables else run_all(results, [command for command in wanted if command.line not in ran])
    if not arguments.only:
        write_tables(results, HERE if arguments.publish else results.folder)
    if failed:
        raise UserError(f"{failed} commands failed, see above; the same command tries them again")


def parsed_arguments() -> argparse.Namespace:
    """The command line. Raises UserError for --publish of what is not published."""
    parser = OneLineParser(__doc__)
    parser.add_argument("--dataset", default=DATASET, help=f"{DATASET} by default")
    parser.add_argument("--tiny", action="store_true", help="a few steps of everything, to see that it runs")
    parser.add_argument("--precision", choices=PRECISIONS, help="bfloat16 by default; of --tiny float32")
    parser.add_argument("--only", nargs="+", metavar="PATTERN", help="the commands that match, as --list shows them")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--list", action="store_true", help="show the commands, and run nothing")
    way.add_argument("--tables", action="store_true", help="run nothing, make the tables of what there is")
    parser.add_argument("--publish", action="store_true", help=f"write the tables to {HERE.relative_to(TOP)}")
    arguments = parser.parse_args()
    if arguments.publish and (arguments.tiny or arguments.only or arguments.dataset != DATASET):
        raise UserError(f"--publish: expected all commands on {DATASET}, without --tiny, --only and --dataset")
    return arguments


def chosen(commands: list[Command], patterns: list[str] | None) -> list[Command]:
    """The commands that match one of the patterns; None = all. Raises UserError for a pattern that none matches."""
    found = [c for c in commands if patterns is None or any(fnmatch(c.line, pattern) for pattern in patterns)]
    if not found:
        raise UserError(f"--only {' '.join(patterns or ())}: no command matches; --list shows all of them")
    return found


def run_all(results: Results, commands: list[Command]) -> int:
    """Run commands one after another; the number of those that failed."""
    failed = 0
    for number, command in enumerate(commands, start=1):
        print(f"{number} of {len(commands)}  {command.line}", flush=True)
        try:
            print(f"    {time_in_words(results.run(command))}", flush=True)
        except UserError as error:
            print(f"    failed: {error}", flush=True)
            failed += 1
    return failed


if __name__ == "__main__":
    run(main)
