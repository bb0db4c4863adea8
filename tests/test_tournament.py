"""The tournament against its definition, written with loops over ensembles and images: equal to the last bit."""

import itertools
from fractions import Fraction
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from utils.jaccard import RESOLUTION
from utils.seeds import generator
from utils.tournament import (
    IMAGE_BLOCK,
    ScoringRules,
    _count_greater_cuda,
    accuracy_weight,
    count_greater,
    rank_outputs,
    score_population,
    select_survivors,
)

Ensemble = dict[int, int]  # class -> chromosome


class Definition:
    """What DESIGN.md says, one ensemble and one image at a time."""

    def __init__(self, outputs: list, masks: list, labels: np.ndarray, rules: ScoringRules) -> None:
        self.outputs, self.masks, self.labels, self.rules = outputs, masks, labels.tolist(), rules

    def accuracy(self, ensemble: Ensemble) -> float:
        """Over the images of the ensemble's own classes; of equal outputs the lower class's is the answer."""
        right = own = 0
        for image, label in enumerate(self.labels):
            if label not in ensemble:
                continue
            own += 1
            answers = {c: float(self.outputs[c][ensemble[c]][image]) for c in sorted(ensemble)}
            right += max(answers, key=lambda c: answers[c]) == label  # max takes the first of equal ones
        return right / own if own else 0.0

    def distance(self, ensemble: Ensemble) -> float:
        total, pairs = Fraction(0), 0
        for a, b in itertools.combinations(sorted(ensemble), 2):
            kept_a, kept_b = (set(np.flatnonzero(self.masks[c][ensemble[c]])) for c in (a, b))
            jaccard = len(kept_a & kept_b) / len(kept_a | kept_b)
            total += Fraction(round((1 - jaccard) * RESOLUTION)) / Fraction(RESOLUTION)
            pairs += 1
        return float(total) / pairs

    def fitness(self, ensemble: Ensemble) -> float:
        accuracy, distance = self.accuracy(ensemble), self.distance(ensemble)
        return self.rules.accuracy_weight * accuracy + self.rules.distance_weight * distance

    def survivors(self, ensembles: list[Ensemble], protected: list[int] | None) -> list[Ensemble]:
        """By accuracy as many as reach the threshold, within the bounds, and the protected one; then by fitness."""
        accuracies = [self.accuracy(ensemble) for ensemble in ensembles]
        threshold = self.rules.thresholds.get(len(ensembles[0]), 0.0)
        reach_it = sum(accuracy >= threshold for accuracy in accuracies)
        number = min(max(reach_it, self.rules.survivors_min), self.rules.survivors_max)
        by_accuracy = sorted(range(len(ensembles)), key=lambda e: -accuracies[e])
        chosen = [ensembles[e] for e in by_accuracy[:number]]
        chosen += [
            ensembles[e]
            for e in by_accuracy[number:]
            if protected and all(protected[c] == chromosome for c, chromosome in ensembles[e].items())
        ]
        return sorted(chosen, key=lambda ensemble: -self.fitness(ensemble))

    def tournament(self, order: list[int], protected: list[int] | None) -> tuple[list[Ensemble], int]:
        """The final ensembles, best first, and how many were scored."""
        groups = [[{c: chromosome} for chromosome in range(len(self.outputs[c]))] for c in order]
        num_scored = 0
        while len(groups) > 1:
            crossed = []
            while len(groups) >= 2:
                left, right, *groups = groups
                ensembles = [{**a, **b} for a in left for b in right]
                num_scored += len(ensembles)
                crossed.append(self.survivors(ensembles, protected))
            groups = crossed + groups  # an odd one out waits a round, and stays last
        return groups[0], num_scored


def check(
    outputs: list, masks: list, labels: np.ndarray, rules: ScoringRules, protected: list[int] | None, generation: int
) -> None:
    num_classes = len(outputs)
    definition = Definition(outputs, masks, labels, rules)
    order = generator(5, "tournament", generation).permutation(num_classes).tolist()
    finals, num_scored = definition.tournament(order, protected)
    kwargs: dict[str, Any] = {"seed": 5, "generation": generation, "protected": protected}
    scores = score_population(outputs, masks, labels, rules, threads=1, **kwargs)
    assert scores.ensembles.tolist() == [[e[c] for c in range(num_classes)] for e in finals]
    assert scores.ensemble_accuracy.tolist() == [definition.accuracy(e) for e in finals]
    assert scores.ensemble_distance.tolist() == [definition.distance(e) for e in finals]
    assert scores.ensemble_fitness.tolist() == [definition.fitness(e) for e in finals]
    assert scores.num_scored == num_scored
    for c, population in enumerate(outputs):
        expected = [
            max([definition.fitness(e) for e in finals if e[c] == chromosome], default=0.0)
            for chromosome in range(len(population))
        ]
        assert scores.fitness[c].tolist() == expected
    if protected:
        assert protected in scores.ensembles.tolist()
    more_threads = score_population(outputs, masks, labels, rules, threads=3, **kwargs)
    for name, value in vars(scores).items():
        assert np.array_equal(value, getattr(more_threads, name)), name


@st.composite
def instances(draw: st.DrawFn, num_classes: int, largest_population: int) -> tuple:
    """Outputs of few distinct values, with both zeros; few kernels; few images, so that nearly everything ties."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    population = draw(st.integers(1, largest_population))
    num_images, kernels = draw(st.integers(1, 14)), draw(st.integers(1, 6))
    labels = random.integers(num_classes, size=num_images)  # some classes may have no image
    values = np.array(draw(st.sampled_from([[0, 1], [-0.0, 0.0, 1], [-2, -1, 0, 1, 2], [0.1, 0.2, 0.3, 0.7]])))
    outputs, masks = [], []
    lift = draw(st.booleans())
    for c in range(num_classes):
        drawn = values[random.integers(len(values), size=(population, num_images))]
        outputs.append((drawn + lift * (labels == c)).astype(np.float32))  # half of them are better than chance
        mask = random.random((population, kernels)) < 0.6
        mask[:, 0] = True
        masks.append(mask)
    sizes = range(2, num_classes + 1)
    share = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
    survivors_min = draw(st.integers(1, 4))
    rules = ScoringRules(
        thresholds={size: draw(share) for size in sizes if draw(st.booleans())},
        survivors_min=survivors_min,
        survivors_max=draw(st.integers(survivors_min, 8)),
        accuracy_weight=draw(st.sampled_from([0.9, 1.1, 0.0])),
        distance_weight=draw(st.sampled_from([1 - 0.9, 0.0])),
    )
    protected = random.integers(population, size=num_classes).tolist() if draw(st.booleans()) else None
    return outputs, masks, labels, rules, protected, draw(st.integers(0, 3))


@pytest.mark.parametrize(("num_classes", "population"), [(2, 6), (3, 5), (4, 4), (5, 4)])
def test_the_tournament_is_its_definition(num_classes: int, population: int) -> None:
    @settings(max_examples=100)
    @given(instances(num_classes, population))
    def checked(instance: tuple) -> None:
        check(*instance)

    checked()


@settings(max_examples=30)
@given(instances(10, 3))
def test_the_tournament_of_ten_classes(instance: tuple) -> None:
    check(*instance)


def test_the_protected_ensemble_survives_although_it_is_the_worst() -> None:
    """All others are right everywhere; it never is."""
    labels = np.array([0, 1, 2, 3, 4])
    outputs = [np.where(labels == c, 1.0, 0.0)[None].repeat(4, 0).astype(np.float32) for c in range(5)]
    for c in range(5):
        outputs[c][3] = np.where(labels == (c + 1) % 5, 3, -1)
    masks = [np.eye(4, dtype=bool)] * 5
    rules = ScoringRules({2: 0.5, 4: 0.5, 5: 0.5}, 1, 2, 0.9, 0.0)
    kept = score_population(outputs, masks, labels, rules, seed=0, generation=0, protected=[3] * 5)
    assert len(kept.ensembles) == 3
    assert kept.ensembles[-1].tolist() == [3] * 5
    assert kept.ensemble_accuracy.tolist() == [1, 1, 0]
    pruned = score_population(outputs, masks, labels, rules, seed=0, generation=0)
    assert [3] * 5 not in pruned.ensembles.tolist()


def test_survivors() -> None:
    accuracy = np.array([0.5, 0.9, 0.9, 0.7, 0.9, 0.1])
    fitness = np.array([0.0, 0.1, 0.3, 0.2, 0.3, 0.9])

    def survivors(threshold: float, least: int, most: int, always: int | None = None) -> list[int]:
        rules = ScoringRules({}, least, most, 0.9, 0.1)
        return select_survivors(accuracy, fitness, threshold, rules, always).tolist()

    assert survivors(0.9, 1, 9) == [2, 4, 1]  # the threshold itself reaches it
    assert survivors(0.9, 4, 9) == [2, 4, 3, 1]
    assert survivors(0.0, 1, 2) == [2, 1]  # of equal accuracies the first ones
    assert survivors(0.0, 9, 9) == [5, 2, 4, 3, 1, 0]
    assert survivors(0.9, 1, 9, always=0) == [2, 4, 1, 0]
    assert survivors(0.9, 1, 9, always=4) == [2, 4, 1]


def test_weight_of_accuracy() -> None:
    assert accuracy_weight(0.9, 0.9, None) == 0.9
    assert accuracy_weight(0.9, 0.9, 0.95) == 0.9
    assert accuracy_weight(0.9, 0.9, 0.5) == 0.9 + (0.9 - 0.5)


@given(
    num_classes=st.integers(2, 4), population=st.integers(1, 5), num_images=st.integers(1, 6), seed=st.integers(0, 999)
)
def test_ranks_keep_order_and_give_ties_to_the_lower_class(
    num_classes: int, population: int, num_images: int, seed: int
) -> None:
    drawn = np.random.default_rng(seed).choice([-1.0, -0.0, 0.0, 2.0], (num_classes, population, num_images))
    ranks = rank_outputs(list(drawn.astype(np.float32)))
    assert ranks.shape == drawn.shape
    for image in range(num_images):
        assert sorted(ranks[:, :, image].ravel().tolist()) == list(range(num_classes * population))
        for (a, i), (b, j) in itertools.permutations(itertools.product(range(num_classes), range(population)), 2):
            if a != b:
                higher = drawn[a, i, image] > drawn[b, j, image]
                tied_lower = drawn[a, i, image] == drawn[b, j, image] and a < b
                assert (ranks[a, i, image] > ranks[b, j, image]) == (higher or tied_lower)


@pytest.mark.parametrize("num_images", [0, 1, 7, 8, 9, IMAGE_BLOCK - 1, IMAGE_BLOCK, IMAGE_BLOCK + 1, 2 * IMAGE_BLOCK])
def test_counting(num_images: int) -> None:
    random = np.random.default_rng(0)
    values, others = (random.integers(-1, 3, (rows, num_images)).astype(np.int16) for rows in (5, 3))
    expected = (values[:, None] > others[None]).sum(-1)
    for threads in (1, 2, 7, None):
        assert np.array_equal(count_greater(values, others, threads), expected)
    everywhere = count_greater(np.ones_like(values), np.zeros_like(others))
    assert (everywhere == num_images).all()
    # The same operations that run on CUDA.
    assert np.array_equal(_count_greater_cuda(values, others, torch.device("cpu")), expected)
