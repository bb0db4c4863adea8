"""Run the whole module search: one recorder, and explorers for all classes.

    python scripts/run_module_search.py --model simcnn_x0_25 --dataset digits
    python scripts/run_module_search.py --model simcnn_x0_25 --dataset digits --jobs 4 --early_stop
    python scripts/run_module_search.py --model simcnn_x0_25 --dataset digits --fresh
    python scripts/run_module_search.py --model simcnn_x0_25 --dataset digits --engine ray --address auto
    python scripts/run_module_search.py --model simcnn_x0_25 --dataset digits --method gradient --keep 0.4
    python scripts/run_module_search.py --model simcnn_x0_25 --dataset digits --method taylor --keep 0.5

The same as module_recorder.py and one module_explorer.py per class in terminals of their own, and the same modules. The
classes are shared among --jobs explorers (default: one per core), each of which loads the images once. One that fails
ends all; the same command typed again goes on from the last whole generation. With --method gradient it is
module_gradient_search.py. docs/methods.md says what the other methods do.

With --engine the recorder is a driver, and --jobs workers (on a running Ray cluster: all of its cores) take chunks of
all classes' populations, so that there can be more of them than classes; the files and the modules are the same.
"""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

import global_configure
from engines.opening import add_engine_options, check_engine_options, open_engine
from models import files as model_files
from models.opening import Stage, open_stage, stage_parser
from modules import files as module_files
from modules.module_sets import add_as_option, check_new_name
from search.driver import DrivenMethod, search_modules
from search.genetic import files as genetic_files
from search.genetic.generations import add_start_options, started
from search.genetic.log import best_generation, describe
from search.genetic.on_engine import search_on_engine
from search.methods import METHODS
from utils.device import num_cores
from utils.errors import UserError, run
from utils.locks import held
from utils.processes import ProcessGroup
from utils.progress import is_shown, say, time_in_words
from utils.tensorboard import add_tensorboard, tensorboard

TOP = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--method", choices=METHODS, default="genetic", help="docs/methods.md says which one to take")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--keep", type=float, help="of some methods: the share of the kernels to keep at most")
    size.add_argument("--keep_flops", type=float, help="of some methods: the largest share of the FLOPs")
    size.add_argument("--max_loss", type=float, help="not with --method genetic: the percentage points to lose at most")
    parser.add_argument("--jobs", type=int, help="explorers at a time; default: num_workers of global_configure.py")
    add_engine_options(parser, "a recorder and explorers are started")
    add_start_options(parser)
    add_tensorboard(parser)
    add_as_option(parser, "the name of the method")
    arguments = parser.parse_args()
    check_new_name(arguments.as_name)
    check_options(arguments)
    check_engine_options(arguments)
    method = METHODS[arguments.method]
    stage = open_stage(arguments)
    if isinstance(method, DrivenMethod):
        as_asked = method.as_asked(arguments)
        with tensorboard(as_asked.files(stage.artifacts).folder, arguments.tensorboard):
            search_modules(stage, as_asked, fresh=arguments.fresh, name=arguments.as_name)
        return
    jobs = number_of_jobs(arguments.jobs, stage)
    for needed in (model_files.entire_model(stage.artifacts), module_files.kernel_importance(stage.artifacts)):
        needed.check_is_there()
    with held(genetic_files.launcher_role(stage.artifacts)):
        if arguments.engine:
            search_by_driver(stage, arguments)
            return
        # Before any explorer looks: one that saw the end of the old search would be off.
        with held(genetic_files.recorder_role(stage.artifacts)):
            started(stage, arguments)
        print(search(stage, arguments, jobs))


def search_by_driver(stage: Stage, arguments: argparse.Namespace) -> None:
    """Search as the driver of an engine, in the place of the recorder and of all explorers."""
    classes = range(stage.config.num_classes)
    explorers = [genetic_files.explorer_role(stage.artifacts, target_class) for target_class in classes]
    with held(genetic_files.recorder_role(stage.artifacts)):
        opened, rows, patience = started(stage, arguments)
        if rows:
            say(f"going on after generation {rows[-1].generation}")
        jobs = arguments.jobs or global_configure.num_workers
        with held(*explorers), open_engine(arguments, stage.device, jobs) as engine:
            search_on_engine(opened, rows, patience, engine, arguments.as_name)


def check_options(arguments: argparse.Namespace) -> None:
    """Raises UserError for options of other methods."""
    if arguments.tensorboard and not isinstance(METHODS[arguments.method], DrivenMethod):
        raise UserError(f"--tensorboard: not with --method {arguments.method}; its search_log.csv has these numbers")
    own = METHODS[arguments.method].options
    for option in sorted({option for method in METHODS.values() for option in method.options if option not in own}):
        value = getattr(arguments, option)
        if value is not None and value is not False:  # --checkpoint 0 is given
            having = " or ".join(name for name, method in METHODS.items() if option in method.options)
            raise UserError(f"--{option}: only with --method {having}, given --method {arguments.method}")


def search(stage: Stage, arguments: argparse.Namespace, jobs: int) -> str:
    """Run a recorder and the explorers to the end; what the recorder printed of its result."""
    settings = [word for assignment in arguments.set for word in ("--set", assignment)]
    common = ["--model", arguments.model, "--dataset", arguments.dataset, *settings]
    logs = genetic_files.folder(stage.artifacts) / "logs"
    jobs = min(jobs, stage.config.num_classes)
    say(f"{jobs} explorers for {stage.config.num_classes} classes; logs in {logs}")
    with ProcessGroup(logs) as group, progress_of(stage) as show_scored:
        options = ["--early_stop"] * arguments.early_stop + (["--as", arguments.as_name] if arguments.as_name else [])
        group.start("recorder", TOP / "module_recorder.py", [*common, *options])
        for job in range(jobs):
            classes = [str(target_class) for target_class in range(job, stage.config.num_classes, jobs)]
            group.start(f"explorer_{job}", TOP / "module_explorer.py", [*common, "--target_class", *classes])
        group.wait(show_scored)
    text = (logs / "recorder.log").read_text(encoding="utf-8")
    return text[text.rindex("modules of generation") :].rstrip()


def number_of_jobs(asked: int | None, stage: Stage) -> int:
    """The explorers to start: what was asked for, else the configuration's; there may be fewer classes."""
    jobs = asked if asked is not None else global_configure.num_workers
    if jobs < 0 or asked == 0:
        raise UserError(f"--jobs {jobs}: expected at least 1")
    if jobs == 0:
        jobs = num_cores() if stage.device.type == "cpu" else 1
    return jobs


@contextmanager
def progress_of(stage: Stage) -> Iterator[Callable[[], None]]:
    """One progress line on a terminal, and one line a generation in a log file, read from the search's files.

    Yields what shows the generations that were scored since the last time.
    """
    shown, total = 0, stage.config.generations + 1
    with tqdm(total=total, desc="generations", disable=None if is_shown() else True) as bar:

        def show_scored() -> None:
            nonlocal shown
            rows = genetic_files.log(stage.artifacts).load_if_there()
            if not rows or len(rows) == shown:
                return
            bar.update(len(rows) - bar.n)
            bar.set_postfix_str(f"best {best_generation(rows).accuracy:.2%}")  # short, so that the bar has room
            if bar.disable:
                left = time_in_words(rows[-1].seconds * (total - len(rows)))
                for row in rows[shown:]:
                    say(describe(row, f"at most {left} left"))
            shown = len(rows)

        yield show_scored


if __name__ == "__main__":
    run(main)
