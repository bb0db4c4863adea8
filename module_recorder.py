"""Score every generation of all classes' populations together, end the search, and cut the modules out.

    python module_recorder.py --model simcnn_x0_25 --dataset digits --early_stop
    python module_recorder.py --model simcnn_x0_25 --dataset digits --checkpoint 5

Works with one module_explorer.py per class, started in any order. One that was ended goes on when the same command is
typed again; --checkpoint G goes back to generation G. Writes data/MODEL_DATASET/ga/search_log.csv, and in the end the
modules of the best generation's best ensemble. Method: Qi et al., ASE 2022, section 4.2.
"""

import time

import numpy as np

from configures.base import Config
from models.opening import open_stage
from models.strong_model import load_strong_model
from models.trained_on import load_strong_split
from modules import files as module_files
from modules.modularization import show_modularization
from modules.on_disk import save_modularization
from search.genetic import files as genetic_files
from search.genetic.generations import GeneticSearch, open_search
from search.genetic.log import Generation, SearchEnd, best_generation, describe, is_over
from search.genetic.scoring import ensemble_masks, row_of, score_generation
from utils.artifacts import ArrayFile
from utils.errors import UserError, run
from utils.locks import held, state_of
from utils.progress import say, steps
from utils.stage import stage_parser
from utils.waiting import wait_until


def main() -> None:
    parser = stage_parser(__doc__)
    parser.add_argument(
        "--early_stop", action="store_true", help="end when `patience` generations bring nothing better"
    )
    parser.add_argument("--checkpoint", type=int, help="go back to this generation and score the later ones again")
    parser.add_argument("--fresh", action="store_true", help="set an earlier search's files aside and start anew")
    arguments = parser.parse_args()
    stage = open_stage(arguments)
    if arguments.fresh and arguments.checkpoint is not None:
        raise UserError("--fresh starts anew, --checkpoint goes on from an old search: give one of them")
    patience = stage.config.patience if arguments.early_stop else None
    with held(genetic_files.recorder_role(stage.artifacts)):
        search = open_search(stage)
        rows = search.start(fresh=arguments.fresh, checkpoint=arguments.checkpoint, patience=patience)
        if rows:
            say(f"going on after generation {rows[-1].generation}")
        record(search, rows, patience)
        write_modules(search, rows)


def record(search: GeneticSearch, rows: list[Generation], patience: int | None) -> None:
    """Score generation after generation as the explorers deliver them; `rows` has those before, and all in the end."""
    config, artifacts = search.config, search.stage.artifacts
    last_look = time.monotonic()
    while not is_over(rows, config.generations, patience):
        generation = len(rows)
        outputs = outputs_of_explorers(search, generation)
        with steps(f"scoring generation {generation}", None):
            scores = score_generation(search, outputs, rows)
        now = time.monotonic()
        rows.append(row_of(search, generation, scores, now - last_look))
        last_look = now
        # The row first: a generation counts as scored when its fitness is there.
        genetic_files.log(artifacts).save(rows)
        genetic_files.fitness(artifacts, generation).save(scores.fitness)
        best = best_generation(rows).generation
        say(f"{describe(rows[-1])}  best so far: {best} of {config.generations}")
    end = SearchEnd(rows[-1].generation, config.generations, rows[-1].generation < config.generations)
    genetic_files.end(artifacts).save(end)


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


def write_modules(search: GeneticSearch, rows: list[Generation]) -> None:
    """Cut the modules of the chosen ensemble out, write them and say how good they are."""
    stage, seconds = search.stage, sum(row.seconds for row in rows)
    generation, ensemble = chosen_ensemble(search.config, rows)
    found = {
        "method": "genetic",
        "generation": generation,
        "generations": len(rows),
        "ensemble": ensemble,
        "seconds": seconds,
    }
    strong = load_strong_model(stage.config, stage.artifacts, stage.device)
    for target_class in range(stage.config.num_classes):
        search.breed(generation, target_class)  # a damaged population is made again
    masks = ensemble_masks(search, generation, ensemble)
    split = load_strong_split(stage.config, stage.artifacts)
    result = save_modularization(strong, masks, split, stage, found)
    print(f"\nmodules of generation {generation}, ensemble {' '.join(map(str, ensemble))}")
    show_modularization(result)
    folder = module_files.module(stage.artifacts, 0).path.parent
    print(f"generations: {len(rows)}; seconds: {seconds:.0f}; modules in {folder}")


def chosen_ensemble(config: Config, rows: list[Generation]) -> tuple[int, tuple[int, ...]]:
    """The generation and ensemble that give the modules: the configuration's, where it names them, else the best.

    Raises UserError for a generation that was not scored or a chromosome that does not exist.
    """
    row = best_generation(rows)
    if config.chosen_generation >= 0:
        if config.chosen_generation >= len(rows):
            raise UserError(f"chosen_generation {config.chosen_generation}: expected 0 to {len(rows) - 1}")
        row = rows[config.chosen_generation]
    ensemble = config.chosen_ensemble or row.ensemble
    if not all(0 <= chromosome < config.population for chromosome in ensemble):
        raise UserError(f"chosen_ensemble {ensemble}: expected indices from 0 to {config.population - 1}")
    return row.generation, ensemble


if __name__ == "__main__":
    run(main)
