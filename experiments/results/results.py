"""The published experiments: from the datasets to the tables, by the project's own commands.

    python experiments/results/results.py
    python experiments/results/results.py --list
    python experiments/results/results.py --only "*/seed_1/*" "*/gradient"
    python experiments/results/results.py --tables
    python experiments/results/results.py --tables --publish
    python experiments/results/results.py --dataset digits_5 --tiny

A stage is a few command lines, which stand in result_stages.py; --list names all of them. One that is done is passed
over as long as its command lines are the same and nothing that it reads was made since; one that was interrupted goes
on. Where one fails, those that do not need it are run all the same. Everything lies below root_dir/data/results:
a root_dir for every seed, in roots/; what scripts print, in logs/; what was run when, where and by which code, in
records/, and the tables. --publish writes them to experiments/results, over those that are there.
"""

import argparse
from fnmatch import fnmatch
from pathlib import Path

from result_records import DONE, TOP, Place, typed
from result_stages import PUBLISHED, TINY, Stage, stages_of
from result_tables import write_tables

import global_configure
from utils.device import PRECISIONS
from utils.errors import UserError, run
from utils.processes import ProcessGroup
from utils.progress import time_in_words
from utils.stage import OneLineParser
from utils.tables import show_table

PUBLISHED_DATASET = "cifar10"
HERE = Path(__file__).resolve().parent


def main() -> None:
    arguments = parsed_arguments()
    dataset, size = arguments.dataset, TINY if arguments.tiny else PUBLISHED
    options = [] if dataset == PUBLISHED_DATASET else ["--dataset", dataset]
    options += ["--tiny"] if arguments.tiny else []
    name = f"{dataset}_tiny" if arguments.tiny else dataset
    place = Place(
        folder=Path(global_configure.root_dir).resolve() / "data" / "results" / name,
        precision=arguments.precision or size.precision,
        command=" ".join(["python experiments/results/results.py", *options]),
    )
    stages = list(stages_of(dataset, size))
    if not stages:
        raise UserError(
            f"--dataset {arguments.dataset}: no network of {', '.join(size.seeds)} has a configuration for it"
        )
    if arguments.list:
        show_stages(place, stages)
        return
    failed = [] if arguments.tables else run_stages(place, chosen(stages, arguments.only), stages)
    if not arguments.only:
        write_tables(place, stages, HERE if arguments.publish else place.folder)
    if failed:
        raise UserError(f"not done, see above: {', '.join(failed)}; the same command tries them again")


def parsed_arguments() -> argparse.Namespace:
    """The command line. Raises UserError for --publish of what is not published."""
    parser = OneLineParser(__doc__)
    parser.add_argument("--dataset", default=PUBLISHED_DATASET, help=f"{PUBLISHED_DATASET} by default")
    parser.add_argument("--tiny", action="store_true", help="a few steps of everything, to see that it runs")
    parser.add_argument("--precision", choices=PRECISIONS, help="default: what result_stages.py says")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--list", action="store_true", help="show the stages, and run nothing")
    way.add_argument("--only", nargs="+", metavar="NAME", help="run these stages alone; patterns like */gradient")
    way.add_argument("--tables", action="store_true", help="run nothing, make the tables of what is done")
    parser.add_argument("--publish", action="store_true", help=f"write the tables to {HERE.relative_to(TOP)}")
    arguments = parser.parse_args()
    if arguments.publish and (arguments.tiny or arguments.only or arguments.dataset != PUBLISHED_DATASET):
        raise UserError(f"--publish: expected all stages on {PUBLISHED_DATASET}, without --tiny, --only and --dataset")
    return arguments


def chosen(stages: list[Stage], patterns: list[str] | None) -> list[Stage]:
    """The stages whose names match one of the patterns; None = all. Raises UserError for one that none matches."""
    for pattern in patterns or ():
        if not any(fnmatch(stage.name, pattern) for stage in stages):
            raise UserError(f"--only {pattern}: no stage is called so; --list shows their names")
    return [stage for stage in stages if patterns is None or any(fnmatch(stage.name, p) for p in patterns)]


def run_stages(place: Place, wanted: list[Stage], stages: list[Stage]) -> list[str]:
    """Run what is not done; the names of the stages that failed, or lack what they need."""
    by_name, failed = {stage.name: stage for stage in stages}, []
    for number, stage in enumerate(wanted, start=1):
        state = place.state(stage)
        if state == DONE:
            continue
        print(f"{number} of {len(wanted)}  {stage.name}: {state}", flush=True)
        lacking = [name for name in stage.needs if place.state(by_name[name]) != DONE]
        try:
            if lacking:
                raise UserError(f"it needs {', '.join(lacking)}; run that before")
            run_stage(place, stage)
            print(f"    {time_in_words(place.record(stage.name).load().seconds)}", flush=True)
        except UserError as error:
            print(f"    failed: {error}", flush=True)
            failed.append(stage.name)
    return failed


def run_stage(place: Place, stage: Stage) -> None:
    """Run a stage's commands. Raises UserError, with what it said, as soon as one fails."""
    log = place.log(stage)
    with place.recorded(stage) as left_to_do:
        place.prepare(stage)
        log.parent.mkdir(parents=True, exist_ok=True)
        for number in left_to_do:
            line, (script, *words) = typed(stage)[number], stage.commands[number]
            print(f"    $ {line}", flush=True)
            with log.open("a", encoding="utf-8") as file:
                file.write(f"$ {line}\n")
            with ProcessGroup(log.parent) as group:
                group.start(log.stem, TOP / script, words, place.variables(stage))
                group.wait()


def show_stages(place: Place, stages: list[Stage]) -> None:
    """Print every stage, how it stands and how long it took."""
    rows = []
    for stage in stages:
        record = place.record(stage.name).load_if_there()
        rows.append(
            [stage.name, place.state(stage), *([f"{record.seconds:.0f}", record.commit] if record else ["", ""])]
        )
    show_table(["stage", "state", "seconds", "commit"], rows)
    print(f"in {place.folder}")


if __name__ == "__main__":
    run(main)
