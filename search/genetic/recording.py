"""What becomes of a scored generation, and of a search that is over: rows, fitness, the end, and the modules."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from configures.base import Config
from models.strong_model import load_strong_model, load_strong_split
from modules.module_set import ModuleSet, show_module_set
from modules.module_sets import save_set
from search.genetic import files
from search.genetic.generations import GeneticSearch
from search.genetic.log import Generation, SearchEnd, best_generation, until_over
from search.genetic.scoring import ensemble_masks, row_of, score_generation
from utils.errors import UserError
from utils.locks import keep_there
from utils.progress import steps

FREE = ("generations", "chosen_generation", "chosen_ensemble")  # settings that the search's files do not depend on


def record_generation(
    search: GeneticSearch, rows: list[Generation], outputs: Sequence[np.ndarray], since: float
) -> float:
    """Score the generation after `rows`, add its row to them, and write both.

    Args:
        search: the search.
        rows: of the generations before.
        outputs: per class (population, images) float32.
        since: the time.monotonic() from which its seconds count.

    Returns the time.monotonic() up to which they count.
    """
    generation, artifacts = len(rows), search.stage.artifacts
    with steps(f"scoring generation {generation}", None):
        scores = score_generation(search, outputs, rows)
    now = time.monotonic()
    rows.append(row_of(search, generation, outputs, scores, now - since))
    log, fitness = files.log(artifacts), files.fitness(artifacts, generation)
    # If a generation's fitness was lost, later ones may be scored already, by the same populations.
    later = log.load_if_there()[len(rows) :]
    # The row first: a generation counts as scored when its fitness is there.
    log.save([*rows, *later])
    keep_there(fitness.path, lambda: fitness.save(scores.fitness))
    fitness.save(scores.fitness)
    rows.extend(later[: max(0, search.num_scored() - len(rows))])
    keep_there(log.path, lambda: log.save(rows))
    return now


def record_end(search: GeneticSearch, rows: list[Generation]) -> None:
    """Say in a file that the search is over."""
    generations = search.config.generations
    end = SearchEnd(rows[-1].generation, generations, rows[-1].generation < generations)
    file = files.end(search.stage.artifacts)
    file.save(end)
    keep_there(file.path, lambda: file.save(end))


def write_modules(
    search: GeneticSearch,
    rows: list[Generation],
    patience: int | None,
    name: str | None = None,
    noticed: Mapping[str, Any] | None = None,
) -> ModuleSet:
    """Cut the modules of the chosen ensemble out, write them as a set and print how good they are.

    Rows of generations that an earlier command scored after the end of the search that is asked for are left out: which
    modules are chosen must not depend on them. What was `noticed` during the search stands in the set's record. `name`
    is the set's; None = `genetic`.
    """
    rows = until_over(rows, search.config.generations, patience)
    stage, seconds = search.stage, sum(row.seconds for row in rows)
    generation, ensemble = chosen_ensemble(search.config, rows)
    free = FREE if patience is None else (*FREE, "patience")
    found = {
        "method": "genetic",
        "generation": generation,
        "generations": len(rows),
        "ensemble": ensemble,
        "seconds": seconds,
        "settings": files.settings(stage.artifacts).load(),
        "configured": search.config.part_of("genetic search") | {name: getattr(search.config, name) for name in free},
        "options": [] if patience is None else ["--early_stop"],
        **(noticed or {}),
    }
    strong = load_strong_model(stage.config, stage.artifacts, stage.device)
    for target_class in range(stage.config.num_classes):
        search.breed(generation, target_class)  # a damaged population is made again
    masks = ensemble_masks(search, generation, ensemble)
    split = load_strong_split(stage.config, stage.artifacts)
    modules = save_set(stage, strong, masks, split, found, name=name, default_name="genetic")
    print(f"\nmodules of generation {generation}, ensemble {' '.join(map(str, ensemble))}")
    show_module_set(modules.record)
    print(f"generations: {len(rows)}; seconds: {seconds:.0f}; module set {modules.name} in {modules.folder}")
    return modules


def chosen_ensemble(config: Config, rows: list[Generation]) -> tuple[int, tuple[int, ...]]:
    """The generation and ensemble that give the modules: the configuration's, if it names them, else the best.

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
