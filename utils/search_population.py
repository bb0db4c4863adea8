"""The populations of a search: read from their files, and bred where there is none or it is damaged."""

import numpy as np

from utils.genetic import first_population, next_generation
from utils.kernel_groups import GenomeLayout
from utils.stage import Stage


def population_of(stage: Stage, layout: GenomeLayout, target_class: int, generation: int) -> np.ndarray:
    """One class's population (population, genes) uint8 of a generation, which is in its file afterwards.

    It follows from the population and the fitness of the generation before, so a damaged file is simply made again.
    Raises UserError where that fitness is missing or damaged.
    """
    config, artifacts = stage.config, stage.artifacts
    file = artifacts.population(generation, target_class)
    population = file.load_if_whole(config.population, layout.num_genes)
    if population is not None:
        return population
    if generation == 0:
        population = first_population(layout, config, stage.seed, target_class)
    else:
        parents = population_of(stage, layout, target_class, generation - 1)
        fitness = artifacts.fitness(generation - 1).load(config.num_classes, config.population)[target_class]
        population = next_generation(parents, fitness, config, stage.seed, target_class, generation)
    file.save(population)
    return population
