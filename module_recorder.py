"""Score every generation of all classes' populations together, end the search, and cut the modules out.

    python module_recorder.py --model simcnn_x0_25 --dataset digits --early_stop
    python module_recorder.py --model simcnn_x0_25 --dataset digits --checkpoint 5

Works with one module_explorer.py per class, started in any order. One that was ended goes on when the same command is
typed again; --checkpoint G goes back to generation G. Writes data/MODEL_DATASET/ga/search_log.csv, and in the end the
modules of the best generation's best ensemble, as a module set in data/MODEL_DATASET/modules. Method: Qi et al.,
ASE 2022, section 4.2.
"""

import time

import numpy as np

from models.opening import open_stage, stage_parser
from modules.module_sets import add_as_option, check_new_name
from search.genetic import files as genetic_files
from search.genetic.generations import GeneticSearch, add_start_options, started
from search.genetic.log import Generation, best_generation, describe, is_over
from search.genetic.recording import record_end, record_generation, write_modules
from utils.artifacts import ArrayFile
from utils.errors import run
from utils.locks import held, state_of
from utils.processes import wait_until
from utils.progress import say


def main() -> None:
    parser = stage_parser(__doc__)
    add_start_options(parser)
    add_as_option(parser, "genetic")
    arguments = parser.parse_args()
    check_new_name(arguments.as_name)
    stage = open_stage(arguments)
    with held(genetic_files.recorder_role(stage.artifacts)):
        search, rows, patience = started(stage, arguments)
        if rows:
            say(f"going on after generation {rows[-1].generation}")
        record(search, rows, patience)
        write_modules(search, rows, patience, arguments.as_name)


def record(search: GeneticSearch, rows: list[Generation], patience: int | None) -> None:
    """Score generation after generation as the explorers deliver them; `rows` has those before, and all in the end."""
    config, last_look = search.config, time.monotonic()
    while not is_over(rows, config.generations, patience):
        outputs = outputs_of_explorers(search, len(rows))
        last_look = record_generation(search, rows, outputs, last_look)
        best = best_generation(rows).generation
        say(describe(rows[-1], f"best so far: {best} of {config.generations}"))
    record_end(search, rows)


def outputs_of_explorers(search: GeneticSearch, generation: int) -> list[np.ndarray]:
    """Every class's outputs (population, images) of the generation, once they are there; damaged ones are sent back."""
    classes, size = range(search.config.num_classes), (search.config.population, len(search.images))
    while True:
        wait_for_explorers(search, generation)
        files = [genetic_files.outputs(search.stage.artifacts, generation, target_class) for target_class in classes]
        outputs = [found for file in files if (found := file.load_if_whole(*size)) is not None]
        if len(outputs) == len(files):
            return outputs


def wait_for_explorers(search: GeneticSearch, generation: int) -> None:
    """Return when every class's population and outputs of the generation are there."""
    artifacts = search.stage.artifacts
    needed = {
        target_class: [
            file(artifacts, generation, target_class) for file in (genetic_files.population, genetic_files.outputs)
        ]
        for target_class in range(search.config.num_classes)
    }

    def awaited_classes() -> list[int]:
        return [target_class for target_class, pair in needed.items() if not all(map(ArrayFile.exists, pair))]

    def awaited() -> str:
        of_state: dict[str, list[str]] = {}
        for target_class in awaited_classes():
            state = state_of(genetic_files.explorer_role(artifacts, target_class).lock)
            of_state.setdefault(state, []).append(str(target_class))
        classes = "; ".join(f"class {', '.join(several)} ({state})" for state, several in of_state.items())
        return f"generation {generation} of {classes}: {artifacts.command('module_explorer.py --target_class C')}"

    wait_until(lambda: not awaited_classes(), awaited)


if __name__ == "__main__":
    run(main)
