"""What a generation is scored by: the configuration's rules, and the last best ensemble, which is never pruned."""

import numpy as np

from configures.base import Config
from search.genetic.tournament import ScoringRules, accuracy_weight


def scoring_rules(config: Config, last_best_accuracy: float | None) -> ScoringRules:
    """The rules of a generation; None = the first one, which has no last best ensemble."""
    return ScoringRules(
        thresholds=dict(config.accuracy_thresholds),
        survivors_min=config.survivors_min,
        survivors_max=config.survivors_max,
        accuracy_weight=accuracy_weight(config.alpha, config.gamma, last_best_accuracy),
        distance_weight=1 - config.alpha,
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
