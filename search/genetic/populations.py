"""The populations of a search: read from their files, and bred where there is none or it is damaged."""

import numpy as np

from search.genetic.kernel_groups import KernelGroups
from search.genetic.operators import first_population, next_generation
from search.gradient.log import load_rounds
from utils.artifacts import ArrayFile
from utils.errors import UserError
from utils.stage import Stage


def population_of(stage: Stage, groups: KernelGroups, target_class: int, generation: int) -> np.ndarray:
    """One class's population (population, genes) uint8 of a generation, which is in its file afterwards.

    It follows from the population and the fitness of the generation before, so a damaged file is simply made again.
    Raises UserError where that fitness is missing or damaged.
    """
    config, artifacts = stage.config, stage.artifacts
    file = artifacts.population(generation, target_class)
    population = file.load_if_whole(config.population, groups.layout.num_genes)
    if population is not None:
        return population
    if generation == 0:
        solution = gradient_solution(stage, groups, target_class) if config.init_pop_mode == "gradient" else None
        population = first_population(groups.layout, config, stage.seed, target_class, solution)
    else:
        parents = population_of(stage, groups, target_class, generation - 1)
        fitness = artifacts.fitness(generation - 1).load(config.num_classes, config.population)[target_class]
        population = next_generation(parents, fitness, config, stage.seed, target_class, generation)
    file.save(population)
    return population


def gradient_solution(stage: Stage, groups: KernelGroups, target_class: int) -> np.ndarray:
    """The genome (genes,) nearest to the masks of the gradient search's last round. Raises UserError without one."""
    masks = last_gradient_round(stage).load(stage.config.num_classes, sum(groups.layout.num_kernels))
    return groups.encode(masks[target_class])


def last_gradient_round(stage: Stage) -> ArrayFile:
    """The masks (classes, K) of the gradient search's last round. Raises UserError where no round is done."""
    command = stage.artifacts.command("module_gradient_search.py")
    rounds = load_rounds(stage.artifacts.gradient_log, command)
    if not rounds:
        raise UserError(f"init_pop_mode gradient: missing {stage.artifacts.gradient_log}; first run: {command}")
    return stage.artifacts.gradient_kernels(rounds[-1].number)
