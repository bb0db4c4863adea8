"""Joint fitness of all classes' chromosomes: ensembles are built as a tournament, scored exactly, pruned as they grow.

A chromosome is only as good as the ensembles that it appears in. Classes in random order are paired; all ensembles of
two groups are scored on the validation images of the groups' own classes; the best survive and are crossed with their
neighbours' survivors, until ensembles span all classes (Qi et al., ASE 2022, section 4.2).

How it is fast, and exact. Per image all outputs are replaced by small integers, their levels (see ranks.py):
an ensemble is right if the level of the label's module is above all others. One array per partial ensemble gives the
accuracy of every pair of partial ensembles by comparing and counting. On images of the ensemble's own classes it has
the level of the label's module if the ensemble is right, else 0; on other images the ensemble's largest level. All else
is computed of the survivors alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from modules.jaccard import distance_units, mean_of_units
from modules.own_class import auc_by_class
from search.genetic.pair_counting import count_greater
from search.genetic.ranks import output_levels
from utils.device import core_threads, num_cores
from utils.seeds import generator

OTHERS_AT_ONCE = 16  # classes whose masks are compared with those of one: bounds the memory


@dataclass(frozen=True)
class ScoringRules:
    """What decides who survives, and what fitness is."""

    thresholds: dict[int, float]  # classes of an ensemble -> the accuracy that lets it survive; see `threshold`
    survivors_min: int
    survivors_max: int
    accuracy_weight: float  # alpha'
    distance_weight: float  # 1 - alpha
    own_class_weight: float = 0.0  # of the modules' mean AUC for their own classes; 0, as published: none
    draws_survivors: bool = False  # partial ensembles survive by chance, as many as would by accuracy: a control

    def threshold(self, classes: int) -> float:
        """The accuracy that lets an ensemble of so many classes survive.

        If none is named, it is 0; of more classes than are named, that of the most.
        """
        most = max(self.thresholds, default=classes)
        return self.thresholds.get(min(classes, most), 0.0)


@dataclass(frozen=True)
class Scores:
    """What a tournament gives."""

    fitness: np.ndarray  # (classes, population) float64: the best final ensemble's with that chromosome, or 0
    ensembles: np.ndarray  # (final ensembles, classes) int64 chromosome indices, best fitness first
    ensemble_accuracy: np.ndarray  # (final ensembles,) float64
    ensemble_distance: np.ndarray  # (final ensembles,) float64: mean pairwise Jaccard distance
    ensemble_own_class: np.ndarray  # (final ensembles,) float64: the modules' mean AUC; 0 if nothing weighs it
    num_scored: int  # ensembles whose accuracy was counted


@dataclass(frozen=True)
class PartialEnsembles:
    """Partial ensembles over some of the classes. E ensembles; n images, those of these classes side by side."""

    classes: tuple[int, ...]
    members: np.ndarray  # (E, len(classes)) chromosome indices
    own: slice  # where the images of these classes stand among the n
    levels: np.ndarray  # (E, n): on own images the label's module's if it is right, else 0; on others the largest
    distance_sum: np.ndarray  # (E,) int64: summed Jaccard distance over the pairs of members, in units of 2^-40
    own_class_sum: np.ndarray  # (E,) float64: summed AUC of the members


def accuracy_weight(alpha: float, gamma: float, last_best_accuracy: float | None) -> float:
    """alpha' = alpha + max(0, gamma - accuracy of the last generation's best); alpha in the first generation."""
    return alpha if last_best_accuracy is None else alpha + max(0.0, gamma - last_best_accuracy)


def score_population(
    outputs: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    labels: np.ndarray,
    rules: ScoringRules,
    *,
    seed: int,
    generation: int,
    protected: Sequence[int] | None = None,
    threads: int | None = None,
    device: torch.device | None = None,
) -> Scores:
    """Fitness of every chromosome, and the final ensembles.

    Args:
        outputs: per class (population, n) float32: its modules' outputs on the n images.
        masks: per class (population, K) bool: the kernels that they keep.
        labels: (n,) the images' classes.
        rules: thresholds, bounds on survivors and weights.
        seed, generation: decide the order of the classes.
        protected: one chromosome per class: the last best ensemble, never pruned.
        threads: for comparing and counting on the CPU; None = all cores. The result does not depend on it.
        device: a CUDA device to compare and count on; None = the CPU.

    Ties: equal outputs go to the lower class; equal accuracies and fitnesses keep the order of construction.
    """
    num_classes = len(outputs)
    order = generator(seed, "tournament", generation).permutation(num_classes).tolist()
    groups = _singles(output_levels(outputs, labels), _own_class(outputs, labels, rules), order)
    num_scored = 0
    with core_threads(torch.device("cpu"), threads or num_cores()) as workers:
        count = partial(count_greater, workers=workers, device=device)
        while len(groups) > 1:
            crossed, last = [], len(groups) == 2
            for left, right in zip(groups[::2], groups[1::2], strict=False):
                draw = None
                if rules.draws_survivors and not last:
                    draw = generator(seed, "survivors", generation, *left.classes, *right.classes)
                group, accuracy, fitness = _cross(left, right, masks, rules, protected, count, draw, last)
                num_scored += len(left.members) * len(right.members)
                crossed.append(group)
            groups = crossed + groups[len(groups) - len(groups) % 2 :]  # an odd one out waits a round
    in_class_order = np.argsort(group.classes)
    ensembles = group.members[:, in_class_order]
    chromosome_fitness = np.zeros((num_classes, len(outputs[0])))
    for target_class in range(num_classes):
        np.maximum.at(chromosome_fitness[target_class], ensembles[:, target_class], fitness)
    distance = mean_of_units(group.distance_sum, num_classes)
    own_class = group.own_class_sum / num_classes
    return Scores(chromosome_fitness, ensembles, accuracy, distance, own_class, num_scored)


def _own_class(outputs: Sequence[np.ndarray], labels: np.ndarray, rules: ScoringRules) -> list[np.ndarray]:
    """Per class (population,) float64: its modules' AUC for the class, if the rules weigh it; else 0."""
    if rules.own_class_weight == 0:
        return [np.zeros(len(of_class)) for of_class in outputs]
    found = [auc_by_class(of_class.T, labels, [number] * len(of_class)) for number, of_class in enumerate(outputs)]
    return [np.nan_to_num(auc, nan=0.5) for auc in found]  # of a class without images nothing is known


def _singles(levels: list[np.ndarray], own_class: list[np.ndarray], order: list[int]) -> list[PartialEnsembles]:
    """Every class alone, in the tournament's order, in which the images are laid out too."""
    by_class = np.concatenate([levels[label] for label in order], axis=2)  # (classes, population, n)
    ends = np.cumsum([levels[label].shape[2] for label in order])
    population = by_class.shape[1]
    return [
        PartialEnsembles(
            classes=(target_class,),
            members=np.arange(population)[:, None],
            own=slice(end - levels[target_class].shape[2], end),
            levels=by_class[target_class],  # alone, a module is always the largest
            distance_sum=np.zeros(population, np.int64),
            own_class_sum=own_class[target_class],
        )
        for target_class, end in zip(order, ends.tolist(), strict=True)
    ]


def _cross(
    left: PartialEnsembles,
    right: PartialEnsembles,
    masks: Sequence[np.ndarray],
    rules: ScoringRules,
    protected: Sequence[int] | None,
    count: Callable[..., np.ndarray],
    draw: np.random.Generator | None,
    last: bool,
) -> tuple[PartialEnsembles, np.ndarray, np.ndarray]:
    """The surviving ensembles of two groups, by falling fitness, with accuracy and fitness; the last need no levels.

    They survive by accuracy; or, if there is a generator to `draw` them by, by chance.
    """
    classes = left.classes + right.classes
    num_own = right.own.stop - left.own.start
    ours, theirs = _ascending(left, left, right), _ascending(right, left, right)
    num_right = count(ours, theirs, num_best=rules.survivors_max if draw is None else None)
    always = None if protected is None else _find(left, right, protected)
    if always is not None:
        place = divmod(always, len(theirs))
        num_right[place] = (ours[place[0]] > theirs[place[1]]).sum()
    chosen = most_accurate(num_right.ravel(), num_own, rules.threshold(len(classes)), rules, always)
    if draw is not None:
        chosen = drawn(num_right.size, len(chosen), always, draw)

    e, f = np.divmod(chosen, len(right.members))
    members = np.concatenate([left.members[e], right.members[f]], axis=1)
    distance_sum = left.distance_sum[e] + right.distance_sum[f] + _between(left.classes, right.classes, members, masks)
    accuracy = num_right[e, f] / max(1, num_own)
    distance = mean_of_units(distance_sum, len(classes))
    fitness = rules.accuracy_weight * accuracy + rules.distance_weight * distance
    own_class_sum = left.own_class_sum[e] + right.own_class_sum[f]
    fitness += rules.own_class_weight * own_class_sum / len(classes)

    best_first = np.argsort(-fitness, kind="stable")
    group = PartialEnsembles(
        classes=classes,
        members=members[best_first],
        own=slice(left.own.start, right.own.stop),
        levels=left.levels[:0] if last else _joined_levels(left, right, e[best_first], f[best_first]),
        distance_sum=distance_sum[best_first],
        own_class_sum=own_class_sum[best_first],
    )
    return group, accuracy[best_first], fitness[best_first]


def _between(
    classes: tuple[int, ...], others: tuple[int, ...], members: np.ndarray, masks: Sequence[np.ndarray]
) -> np.ndarray:
    """Per ensemble (E,) int64 the summed distance of its members of some classes from those of the others.

    Two classes meet once in a tournament, so what is computed here for their whole populations is not kept.

    Args:
        classes, others: the classes.
        members: (E, classes and others) chromosome indices.
        masks: per class (population, K) bool.
    """
    total, population = np.zeros(len(members), np.int64), len(masks[0])
    for start in range(0, len(others), OTHERS_AT_ONCE):
        block = others[start : start + OTHERS_AT_ONCE]
        rows = np.concatenate([masks[other] for other in block])
        first = len(classes) + start
        places = members[:, first : first + len(block)] + population * np.arange(len(block))
        for number, one in enumerate(classes):
            total += distance_units(masks[one], rows)[members[:, number, None], places].sum(1)
    return total


def _ascending(group: PartialEnsembles, left: PartialEnsembles, right: PartialEnsembles) -> np.ndarray:
    """A group's levels on the images of both, inverted on the right one's: a pair is right if the left one is greater.

    On the left one's images a pair is right if left > right, on the right one's if right > left, that is if
    not left > not right, bit by bit.
    """
    return np.concatenate([group.levels[:, left.own], ~group.levels[:, right.own]], axis=1)


def _joined_levels(left: PartialEnsembles, right: PartialEnsembles, e: np.ndarray, f: np.ndarray) -> np.ndarray:
    ours, theirs = left.levels[e], right.levels[f]
    joined: np.ndarray = np.maximum(ours, theirs)
    joined[:, left.own] *= ours[:, left.own] > theirs[:, left.own]
    joined[:, right.own] *= theirs[:, right.own] > ours[:, right.own]
    return joined


def _find(left: PartialEnsembles, right: PartialEnsembles, protected: Sequence[int]) -> int | None:
    """The index of the protected ensemble's part among the crossed ensembles, if both halves hold it."""
    halves = []
    for group in (left, right):
        wanted = [protected[target_class] for target_class in group.classes]
        found = np.flatnonzero((group.members == wanted).all(axis=1))
        if not len(found):
            return None
        halves.append(int(found[0]))
    return halves[0] * len(right.members) + halves[1]


def most_accurate(
    num_right: np.ndarray, num_own: int, threshold: float, rules: ScoringRules, always: int | None
) -> np.ndarray:
    """Indices of the ensembles that survive, by falling accuracy; equal ones in their order.

    As many as reach the threshold, but at least `survivors_min` and at most `survivors_max`; `always` is added if it
    is not among them.

    Args:
        num_right: (ensembles,) on how many of their `num_own` images they are right.
        num_own: the images of their classes.
        threshold: an accuracy.
        rules: the bounds.
        always: an ensemble's index, or None.
    """
    # Counts are few: by how many ensembles have each of them, nothing needs to be sorted but the survivors.
    ensembles_with = np.bincount(num_right, minlength=num_own + 1)
    reach_it = ensembles_with[np.arange(num_own + 1) / max(1, num_own) >= threshold].sum()
    num_surviving = min(len(num_right), int(np.clip(reach_it, rules.survivors_min, rules.survivors_max)))
    ensembles_from = np.cumsum(ensembles_with[::-1])[::-1]  # that have this count or a larger one
    last_count = np.flatnonzero(ensembles_from >= num_surviving)[-1]
    above, at = np.flatnonzero(num_right > last_count), np.flatnonzero(num_right == last_count)
    chosen = np.concatenate([above[np.argsort(-num_right[above], kind="stable")], at[: num_surviving - len(above)]])
    return chosen if always is None or always in chosen else np.append(chosen, always)


def drawn(ensembles: int, surviving: int, always: int | None, draw: np.random.Generator) -> np.ndarray:
    """Indices of `surviving` of so many ensembles, rising, each as likely as any other; `always` is one of them."""
    chosen = draw.choice(ensembles, surviving, replace=False)
    if always is not None and always not in chosen:
        chosen[0] = always
    return np.sort(chosen)
