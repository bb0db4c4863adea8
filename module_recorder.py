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
from dataset.datasets import load_split
from models.registry import architecture_of
from models.strong_model import load_strong_model
from modules.modularization import save_modularization, show_modularization
from search.genetic.generations import agree_on_settings, check_room_for_search, resume_search, set_old_search_aside
from search.genetic.kernel_groups import KernelGroups, genome_layout, kernel_groups
from search.genetic.log import Generation, SearchEnd, best_generation, describe, is_over, save_end, save_log
from search.genetic.populations import population_of
from search.genetic.scoring import places_of, scoring_rules
from search.genetic.tournament import Scores, score_population
from utils.artifacts import ArrayFile
from utils.errors import UserError, run
from utils.locks import held, state_of
from utils.stage import Stage, open_stage, stage_parser
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
    with held(stage.artifacts.recorder_role):
        record(stage, fresh=arguments.fresh, checkpoint=arguments.checkpoint, patience=patience)


def record(stage: Stage, *, fresh: bool, checkpoint: int | None, patience: int | None) -> None:
    """Score generation after generation as the explorers deliver them, then cut the modules out."""
    config, artifacts = stage.config, stage.artifacts
    architecture = architecture_of(config.model)
    layout = genome_layout(architecture.num_kernels, architecture.tied_to, config)
    model = load_strong_model(config, artifacts, stage.device)
    importance = artifacts.kernel_importance.load(config.num_classes, sum(architecture.num_kernels))
    groups = [kernel_groups(layout, row) for row in importance]
    split = load_split(config)
    images = split.valid.first(config.search_images)
    if fresh:
        set_old_search_aside(stage)
    check_room_for_search(stage, layout.num_genes, len(images))
    agree_on_settings(stage, images)

    rows = resume_search(stage, checkpoint=checkpoint, patience=patience)
    if rows:
        print(f"going on after generation {rows[-1].generation}", flush=True)
    last_look = time.monotonic()
    while not is_over(rows, config.generations, patience):
        generation = len(rows)
        scores, masks = score(stage, groups, outputs_of_explorers(stage, generation, len(images)), images.labels, rows)
        now = time.monotonic()
        rows.append(row_of(generation, scores, masks, config, now - last_look))
        last_look = now
        # The row first: a generation counts as scored when its fitness is there.
        save_log(artifacts.search_log, rows)
        artifacts.fitness(generation).save(scores.fitness)
        show_generation(rows, config)
    end = SearchEnd(rows[-1].generation, config.generations, rows[-1].generation < config.generations)
    save_end(artifacts.search_end, end)

    generation, ensemble = chosen_ensemble(config, rows)
    print(f"\nmodules of generation {generation}, ensemble {' '.join(map(str, ensemble))}")
    search = {
        "method": "genetic",
        "generation": generation,
        "generations": len(rows),
        "ensemble": ensemble,
        "seconds": sum(row.seconds for row in rows),
    }
    masks = np.stack(
        [
            decoded(stage, groups[target_class], generation, target_class)[chromosome]
            for target_class, chromosome in enumerate(ensemble)
        ]
    )
    show_modularization(save_modularization(model, masks, split, stage, search))
    print(f"generations: {len(rows)}; seconds: {search['seconds']:.0f}; modules in {artifacts.module(0).path.parent}")


def outputs_of_explorers(stage: Stage, generation: int, num_images: int) -> list[np.ndarray]:
    """Every class's outputs (population, images) of the generation, once they are there; damaged ones are sent back."""
    size = (stage.config.population, num_images)
    while True:
        wait_for_explorers(stage, generation)
        files = [stage.artifacts.outputs(generation, target_class) for target_class in range(stage.config.num_classes)]
        outputs = [found for file in files if (found := file.load_if_whole(*size)) is not None]
        if len(outputs) == len(files):
            return outputs


def wait_for_explorers(stage: Stage, generation: int) -> None:
    """Return when every class's population and outputs of the generation are there."""
    needed = {
        target_class: (
            stage.artifacts.population(generation, target_class),
            stage.artifacts.outputs(generation, target_class),
        )
        for target_class in range(stage.config.num_classes)
    }

    def awaited_classes() -> list[int]:
        return [target_class for target_class, pair in needed.items() if not all(map(ArrayFile.exists, pair))]

    def awaited() -> str:
        of_state: dict[str, list[str]] = {}
        for target_class in awaited_classes():
            state = state_of(stage.artifacts.explorer_role(target_class).lock)
            of_state.setdefault(state, []).append(str(target_class))
        classes = "; ".join(f"class {', '.join(several)} ({state})" for state, several in of_state.items())
        return f"generation {generation} of {classes}: {stage.artifacts.command('module_explorer.py --target_class C')}"

    wait_until(lambda: not awaited_classes(), awaited)


def score(
    stage: Stage, groups: list[KernelGroups], outputs: list[np.ndarray], labels: np.ndarray, rows: list[Generation]
) -> tuple[Scores, list[np.ndarray]]:
    """The tournament of the generation after `rows`, and all classes' masks."""
    config, generation = stage.config, len(rows)
    masks = [decoded(stage, groups[c], generation, c) for c in range(config.num_classes)]
    rules = scoring_rules(config, rows[-1].accuracy if rows else None)
    protected = None
    if rows:
        last_masks = [
            decoded(stage, groups[c], generation - 1, c)[rows[-1].ensemble[c]] for c in range(config.num_classes)
        ]
        protected = places_of(last_masks, masks)
    device = stage.device if stage.device.type == "cuda" else None
    scores = score_population(
        outputs, masks, labels, rules, seed=stage.seed, generation=generation, protected=protected, device=device
    )
    return scores, masks


def decoded(stage: Stage, groups: KernelGroups, generation: int, target_class: int) -> np.ndarray:
    """The kernel masks (population, K) of a class's generation."""
    return groups.decode(population_of(stage, groups, target_class, generation))


def row_of(generation: int, scores: Scores, masks: list[np.ndarray], config: Config, seconds: float) -> Generation:
    """The log's row of a scored generation."""
    ensemble = tuple(int(chromosome) for chromosome in scores.ensembles[0])
    accuracy, distance = float(scores.ensemble_accuracy[0]), float(scores.ensemble_distance[0])
    return Generation(
        generation=generation,
        accuracy=accuracy,
        distance=distance,
        fitness=config.alpha * accuracy + (1 - config.alpha) * distance,
        kernels_kept=float(np.mean([masks[c][chromosome].mean() for c, chromosome in enumerate(ensemble)])),
        mean_fitness=float(scores.fitness.mean()),
        final_ensembles=len(scores.ensembles),
        ensembles_scored=scores.num_scored,
        ensemble=ensemble,
        seconds=seconds,
    )


def show_generation(rows: list[Generation], config: Config) -> None:
    """Print one line on the generation that was just scored."""
    row = rows[-1]
    print(f"{describe(row)}  best so far: {best_generation(rows).generation} of {config.generations}", flush=True)


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
