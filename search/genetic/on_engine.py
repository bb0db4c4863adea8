"""The genetic search by one driver, whose workers evaluate modules of all classes wherever an engine runs them.

The driver breeds, hands chunks out, scores, and writes the files that recorder and explorers write, byte for byte:
which worker took what, and in which order results come, changes none of them. Ended at any time, it goes on from the
files.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engines.engine import Engine
from models.strong_model import load_strong_model
from modules.evaluation_inputs import evaluation_inputs, outputs_on_worker
from modules.population_outputs import known_and_new
from search.genetic.chunks import ModuleCosts, block_chunks, image_blocks
from search.genetic.generations import GeneticSearch, known_outputs, save_outputs
from search.genetic.log import Generation, best_generation, describe, is_over
from search.genetic.recording import record_end, record_generation, write_modules
from utils.progress import say, steps, time_in_words

FIRST_GUESS = 1e-4  # seconds for each unit that a module keeps, before anything is measured


def search_on_engine(
    search: GeneticSearch, rows: list[Generation], patience: int | None, engine: Engine, name: str | None
) -> None:
    """Go on after the generations of `rows` until the search is over, and write the modules as the set `name`.

    Raises UserError if outputs are NaN or infinite, or a task fails for good.
    """
    last_look, last = time.monotonic(), search.config.generations
    driver = Driver(search, engine)
    while not is_over(rows, last, patience):
        outputs, num_run = driver.outputs(len(rows))
        evaluated = time.monotonic()
        pace = num_run / (evaluated - last_look)
        last_look = record_generation(search, rows, outputs, last_look)
        left = time_in_words(rows[-1].seconds * (last + 1 - len(rows)))
        best = f"best so far: {best_generation(rows).generation} of {last}; {engine.where()}"
        say(describe(rows[-1], best, f"{pace:.1f} chromosomes/s, at most {left} left"))
    record_end(search, rows)
    mixed = len(engine.processors) > 1
    write_modules(search, rows, patience, name, {"mixed_processors": engine.processors} if mixed else None)


class Driver:
    """Lets workers evaluate one generation after the other."""

    def __init__(self, search: GeneticSearch, engine: Engine) -> None:
        stage = search.stage
        strong = load_strong_model(stage.config, stage.artifacts, stage.device)
        inputs = evaluation_inputs(stage.config, strong, search.images, search.dtype)
        self._search, self._engine, self._inputs = search, engine, engine.share(inputs)
        self._costs = ModuleCosts(search.config.num_classes, FIRST_GUESS)

    def outputs(self, generation: int) -> tuple[list[np.ndarray], int]:
        """Every class's outputs (population, images) float32, which are in their files, and how many modules ran."""
        classes = range(self._search.config.num_classes)
        populations = [self._open(generation, target_class) for target_class in classes]
        of_class = np.repeat(classes, [len(population.new) for population in populations])
        masks = np.concatenate([population.new for population in populations])
        self._evaluate(generation, masks, of_class, populations)
        return [population.outputs() for population in populations], len(masks)

    def _open(self, generation: int, target_class: int) -> "Population":
        """One class's population, in its file, and as much of its outputs as is known."""
        search = self._search
        masks = search.breed(generation, target_class)
        are_there, known = known_outputs(search, generation, target_class, masks)
        outputs_of, new = known_and_new(masks, known)
        # Modules with equal beginnings beside each other: what they have in common is computed once in a chunk.
        population = Population(masks, outputs_of, new[np.lexsort(new.T[::-1])])
        if not are_there and not len(new):
            save_outputs(search, generation, target_class, population.outputs())
        return population

    def _evaluate(
        self, generation: int, masks: np.ndarray, of_class: np.ndarray, populations: Sequence["Population"]
    ) -> None:
        """Let workers evaluate masks (modules, U) of classes (modules,); a class's last one writes its file."""
        engine, seconds = self._engine, self._costs.of(masks, of_class)
        blocks = image_blocks(seconds, engine.workers)
        for block, chunk in block_chunks(seconds, engine.workers, blocks):
            modules = masks[chunk], of_class[chunk]
            key = block, chunk.start, chunk.stop
            engine.submit(key, outputs_on_worker, self._inputs, engine.device, *modules, (block, blocks))
        outputs = np.empty((len(masks), len(self._search.images)), np.float32)
        missing_blocks = np.full(len(masks), blocks)
        missing_modules = np.bincount(of_class, minlength=len(populations))
        with steps(f"generation {generation}, chromosomes", len(masks)) as advance:
            for (_, start, stop), (found, first_image, took) in engine.results():
                self._costs.measured(masks[start:stop], of_class[start:stop], took * blocks)
                outputs[start:stop, first_image : first_image + found.shape[1]] = found
                missing_blocks[start:stop] -= 1
                for module in start + np.flatnonzero(missing_blocks[start:stop] == 0):
                    target_class = of_class[module]
                    population = populations[target_class]
                    population.outputs_of[masks[module].tobytes()] = outputs[module]
                    missing_modules[target_class] -= 1
                    if not missing_modules[target_class]:
                        save_outputs(self._search, generation, int(target_class), population.outputs())
                    advance()
        self._costs.learn()


@dataclass(frozen=True)
class Population:
    """One class's population, while outputs of it are awaited."""

    masks: np.ndarray  # (population, U) bool
    outputs_of: dict[bytes, np.ndarray]  # (images,) by the bytes of a mask
    new: np.ndarray  # (new, U) bool: the masks that had no outputs

    def outputs(self) -> np.ndarray:
        """(population, images) float32, once all are there."""
        return np.stack([self.outputs_of[mask.tobytes()] for mask in self.masks])
