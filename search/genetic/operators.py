"""The genetic operators, as pure functions of (population, fitness, settings, random generator).

A population is an array (population, genes) uint8 of 0 and 1. Published settings: Qi et al., ASE 2022, section 4.2.
"""

import numpy as np

from configures.base import Config
from search.genetic.kernel_groups import GenomeLayout
from utils.errors import UserError
from utils.seeds import generator

LARGEST_EXPONENT = 600.0  # exp(-600) is well above the smallest float64


def first_population(
    layout: GenomeLayout, config: Config, seed: int, target_class: int, solution: np.ndarray | None = None
) -> np.ndarray:
    """The population of generation 0 of one class.

    `sensitivity`: per chromosome and layer an active ratio is drawn from the list for sensitive or other layers, and
    int(groups x ratio) genes are switched on, drawn without replacement with probability proportional to
    exp((groups - 1 - rank) / rank_scale): important groups come first. `random`: every gene is a fair coin. `gradient`:
    `solution` (genes,), the genome nearest to what the gradient search found, and mutations of it. Raises UserError for
    a rank_scale that is too small for so many groups.
    """
    least = max(layout.groups.values()) / LARGEST_EXPONENT
    if config.rank_scale < least:
        raise UserError(
            f"rank_scale {config.rank_scale}: expected at least {least:.2g}, or the last groups' chance is 0"
        )
    rng = generator(seed, "first population", target_class)
    if solution is not None:
        copies = np.repeat(solution[None], config.population - 1, axis=0)
        return np.concatenate([solution[None], mutate(copies, config.mutation, rng)])
    if config.init_pop_mode == "random":
        return rng.integers(0, 2, (config.population, layout.num_genes), np.uint8)
    population = np.zeros((config.population, layout.num_genes), np.uint8)
    for chromosome in population:
        for group, genes in layout.gene_slices.items():
            groups = layout.groups[group]
            ratios = config.active_ratios_sensitive if group in layout.sensitive else config.active_ratios
            # 100 x 0.29 is 28.999... in binary: what is nearly whole counts as whole.
            num_active = int(groups * rng.choice(ratios) + 1e-9)
            # Without the common factor exp((groups - 1) / rank_scale), which could be too large for a float.
            weight = np.exp(-np.arange(groups) / config.rank_scale)
            active = rng.choice(groups, num_active, replace=False, p=weight / weight.sum())
            chromosome[genes][active] = 1
    return population


def next_generation(
    population: np.ndarray, fitness: np.ndarray, config: Config, seed: int, target_class: int, generation: int
) -> np.ndarray:
    """The population of `generation`, bred from the one before and its fitness (population,).

    Elites go on unchanged, best first; the rest are mutated offspring of the parents.
    """
    rng = generator(seed, "next generation", target_class, generation)
    best_first = rank_by_fitness(fitness)
    elites = population[best_first[: config.elites]]
    parents = population[best_first[: config.parents]]
    offspring = crossover(parents, len(population) - len(elites), rng)
    return np.concatenate([elites, mutate(offspring, config.mutation, rng)])


def rank_by_fitness(fitness: np.ndarray) -> np.ndarray:
    """Chromosome indices by falling fitness; equal ones by index (steady-state selection takes the first)."""
    return np.argsort(-fitness, kind="stable")


def crossover(parents: np.ndarray, num_offspring: int, rng: np.random.Generator) -> np.ndarray:
    """Single-point: offspring k has the genes of parent k before a random point, and of parent k + 1 from there on.

    Parents (cyclic) in the given order; the point is uniform in 1 ... genes - 1.
    """
    num_parents, num_genes = parents.shape
    first = np.arange(num_offspring) % num_parents
    second = (first + 1) % num_parents
    point = rng.integers(1, max(2, num_genes), num_offspring)
    offspring: np.ndarray = np.where(np.arange(num_genes) < point[:, None], parents[first], parents[second])
    return offspring


def mutate(offspring: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """`share` of each offspring's genes (rounded down, at least one unless share is 0) redrawn from {0, 1}."""
    num_offspring, num_genes = offspring.shape
    num_mutated = max(1, int(num_genes * share + 1e-9)) if share > 0 else 0
    # The first columns of a random permutation of each row: distinct genes.
    genes = rng.random((num_offspring, num_genes)).argsort(axis=1)[:, :num_mutated]
    mutated = offspring.copy()
    np.put_along_axis(mutated, genes, rng.integers(0, 2, genes.shape, np.uint8), axis=1)
    return mutated
