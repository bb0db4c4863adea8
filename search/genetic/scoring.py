"""How a generation is scored: all classes' populations together, by their outputs; and what the log records."""

from collections.abc import Sequence

import numpy as np

from configures.base import Config
from modules.own_class import auc_by_class
from search.genetic.generations import GeneticSearch
from search.genetic.log import Generation
from search.genetic.tournament import Scores, ScoringRules, accuracy_weight, score_population


def score_generation(search: GeneticSearch, outputs: Sequence[np.ndarray], rows: list[Generation]) -> Scores:
    """The tournament of the generation after `rows`; outputs: per class (population, images) float32."""
    classes, generation = range(search.config.num_classes), len(rows)
    spread = search.layout.units.spread
    masks = [spread(search.breed(generation, target_class)) for target_class in classes]
    protected = None
    if rows:
        best = [spread(search.breed(generation - 1, c)[rows[-1].ensemble[c]]) for c in classes]
        protected = places_of(best, masks)
    return score_population(
        outputs,
        masks,
        search.images.labels,
        scoring_rules(search.config, rows[-1].accuracy if rows else None),
        seed=search.stage.seed,
        generation=generation,
        protected=protected,
        device=search.stage.device if search.stage.device.type == "cuda" else None,
    )


def scoring_rules(config: Config, last_best_accuracy: float | None) -> ScoringRules:
    """The rules of a generation; None = the first one, which has no last best ensemble."""
    return ScoringRules(
        thresholds=dict(config.accuracy_thresholds),
        survivors_min=config.survivors_min,
        survivors_max=config.survivors_max,
        accuracy_weight=accuracy_weight(config.alpha, config.gamma, last_best_accuracy),
        distance_weight=1 - config.alpha,
        own_class_weight=config.own_class,
        draws_survivors=config.survival == "random",
    )


def places_of(wanted: list[np.ndarray], masks: list[np.ndarray]) -> list[int] | None:
    """Per class the first chromosome with the wanted mask (K,), or None if a class has none."""
    places = []
    for mask, population in zip(wanted, masks, strict=True):
        found = np.flatnonzero((population == mask).all(axis=1))
        if not len(found):
            return None
        places.append(int(found[0]))
    return places


def row_of(
    search: GeneticSearch, generation: int, outputs: Sequence[np.ndarray], scores: Scores, seconds: float
) -> Generation:
    """The log's row of a scored generation: its best ensemble, by the fitness of every generation's same alpha.

    `outputs`: per class (population, images) float32.
    """
    ensemble = tuple(int(chromosome) for chromosome in scores.ensembles[0])
    accuracy, distance = float(scores.ensemble_accuracy[0]), float(scores.ensemble_distance[0])
    of_modules = np.stack([of_class[chromosome] for of_class, chromosome in zip(outputs, ensemble, strict=True)], 1)
    auc = auc_by_class(of_modules, search.images.labels)
    own_class = search.config.own_class * float(scores.ensemble_own_class[0])
    return Generation(
        generation=generation,
        accuracy=accuracy,
        distance=distance,
        fitness=search.config.alpha * accuracy + (1 - search.config.alpha) * distance + own_class,
        kernels_kept=float(np.mean([mask.mean() for mask in ensemble_masks(search, generation, ensemble)])),
        mean_fitness=float(scores.fitness.mean()),
        final_ensembles=len(scores.ensembles),
        ensembles_scored=scores.num_scored,
        ensemble=ensemble,
        seconds=seconds,
        auc_mean=float(np.nanmean(auc)),
        auc_least=float(np.nanmin(auc)),
    )


def ensemble_masks(search: GeneticSearch, generation: int, ensemble: Sequence[int]) -> np.ndarray:
    """The masks (classes, K) bool of an ensemble: one chromosome index per class."""
    masks = np.stack([search.masks(generation, c)[chromosome] for c, chromosome in enumerate(ensemble)])
    return search.layout.units.spread(masks)
