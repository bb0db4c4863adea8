"""The genetic search as a search method: what its files record as found."""

import dataclasses
from collections.abc import Iterator

from models.opening import Stage
from search.files import Found, SearchFiles
from search.genetic import files
from search.genetic.generations import open_search
from search.genetic.log import Generation, best_generation
from search.genetic.scoring import ensemble_masks
from search.method import Course, Panel, check_strong_model
from utils.artifacts import Artifacts
from utils.recorded_settings import configured_of


class Genetic:
    """See `search.method.Method`; module_recorder.py, and as many module_explorer.py as there are classes, search."""

    name = "genetic"
    script = "scripts/run_module_search.py"
    options = ("jobs", "early_stop", "checkpoint", "engine", "address")
    course = Course(
        "generation",
        Panel("generation", "generation"),
        (
            Panel(
                "accuracy",
                "best ensemble's accuracy in %,\nvalidation images, selected on",
                "the best ensemble's accuracy on the search's validation images",
                100,
            ),
            Panel("distance", "its mean Jaccard distance", "the mean Jaccard distance of its modules"),
            Panel("kernels_kept", "its kernels kept in %", "the kernels that they keep", 100),
            Panel("fitness", "its fitness"),
            Panel("mean_fitness", "mean fitness of all chromosomes"),
            Panel("seconds", "seconds per generation"),
        ),
        "Above, the best ensemble of each generation, one module per class, on the search's validation images; its "
        "fitness weighs accuracy and Jaccard distance. The mean fitness is what the explorers select by: a chromosome "
        "that is in no surviving ensemble counts 0.",
    )

    def files(self, artifacts: Artifacts, classes: tuple[int, ...] = ()) -> SearchFiles[Generation]:
        """See `Method`."""
        return files.of_search(artifacts)

    def candidates(self, stage: Stage) -> Iterator[Found]:
        """The best ensemble of the best generation, whether the search is over or not."""
        there, config = files.of_search(stage.artifacts), stage.config
        if not (rows := there.log.load_if_there()):
            return
        check_strong_model(there.settings, stage.artifacts)
        recorded = configured_of(there.settings.load())  # which need not be what this run was given
        own = {name: value for name, value in recorded.items() if name in config.part_of("genetic search")}
        search = open_search(dataclasses.replace(stage, config=dataclasses.replace(config, **own)))
        search.record_settings()  # raises where importance was measured again: genes would mean other kernels
        best, words = best_generation(rows), f"generation {best_generation(rows).generation} of {len(rows) - 1}"
        masks, seconds = ensemble_masks(search, best.generation, best.ensemble), sum(row.seconds for row in rows)
        yield Found(words, masks, seconds=seconds)
