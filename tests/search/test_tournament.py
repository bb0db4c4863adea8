"""The tournament against a loop over its ensembles: equal to the last bit."""

from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import naive
import numpy as np
import pytest
from hypothesis import given, settings

from search.genetic.tournament import ScoringRules, accuracy_weight, drawn, most_accurate, score_population


def check(
    outputs: list, masks: list, labels: np.ndarray, rules: ScoringRules, protected: list[int] | None, generation: int
) -> None:
    arguments: dict[str, Any] = {"seed": 5, "generation": generation, "protected": protected}
    scores = score_population(outputs, masks, labels, rules, threads=1, **arguments)
    assert naive.same_scores(naive.tournament(outputs, masks, labels, rules, **arguments), scores)
    assert naive.same_scores(score_population(outputs, masks, labels, rules, threads=3, **arguments), scores)
    if protected:
        assert protected in scores.ensembles.tolist()


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


@pytest.mark.parametrize(
    ("num_classes", "population", "examples"), [(2, 6, 100), (3, 5, 100), (4, 4, 100), (5, 4, 100), (10, 3, 30)]
)
def test_the_tournament_is_its_definition(num_classes: int, population: int, examples: int) -> None:
    @settings(max_examples=examples)
    @given(instances(num_classes, population))
    def checked(instance: tuple) -> None:
        check(*instance)

    checked()


@pytest.mark.parametrize(
    ("thresholds", "classes", "expected"),
    [
        ({}, 2, 0.0),
        ({2: 0.9, 10: 0.6}, 2, 0.9),
        ({2: 0.9, 10: 0.6}, 4, 0.0),  # not named
        ({2: 0.9, 10: 0.6}, 10, 0.6),
        ({2: 0.9, 10: 0.6}, 100, 0.6),  # more classes than any that is named
    ],
)
def test_the_threshold_of_the_most_classes_is_that_of_larger_ensembles(
    thresholds: dict[int, float], classes: int, expected: float
) -> None:
    assert ScoringRules(thresholds, 1, 1, 0.9, 0.1).threshold(classes) == expected


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


@settings(max_examples=60)
@given(instances(4, 4), st.lists(st.integers(0, 3), min_size=4, max_size=4))
def test_duplicates_are_ensembles_of_their_own(instance: tuple, copy_of: list[int]) -> None:
    """Chromosomes that are there twice, as in an old population: each keeps its place in the order."""
    outputs, masks, labels, rules, protected, generation = instance
    places = [place % len(outputs[0]) for place in copy_of]
    outputs, masks = [rows[places] for rows in outputs], [rows[places] for rows in masks]
    protected = [0, 1, 2, 3] if protected else None
    check(outputs, masks, labels, rules, protected, generation)


@pytest.mark.parametrize("threshold", [0.0, 1.1])  # reached by all, by none
def test_more_chromosomes_than_a_byte_counts(threshold: float) -> None:
    random = np.random.default_rng(0)
    labels = np.arange(12) % 2
    outputs = [random.integers(300, size=(256, 12)).astype(np.float32) for _ in range(2)]
    masks = [random.random((256, 5)) < 0.5 for _ in range(2)]
    rules = ScoringRules({2: threshold}, 3, 40, 0.9, 0.1)
    scores = score_population(outputs, masks, labels, rules, seed=0, generation=0)
    right = np.zeros((256, 256))
    for image, label in enumerate(labels):
        first, second = outputs[0][:, None, image], outputs[1][None, :, image]
        right += (first >= second) if label == 0 else (second > first)
    assert len(scores.ensembles) == (40 if threshold == 0 else 3)
    found = sorted(scores.ensemble_accuracy, reverse=True)
    assert found == (np.sort(right.ravel())[::-1][: len(found)] / 12).tolist()
    assert (scores.ensemble_accuracy == right[tuple(scores.ensembles.T)] / 12).all()


def test_a_term_for_the_own_class_tells_an_uninformative_module_from_one_that_knows() -> None:
    """Both are right in company: of two modules of class 0 the first always says the same."""
    labels = np.repeat([0, 1], 3)
    outputs = [np.array([[0.5] * 6, [1, 1, 1, 0, 0.25, 0.25]], np.float32), np.array([[0, 0, 0, 2, 2, 1]], np.float32)]
    outputs[1] = outputs[1].repeat(2, 0)
    masks = [np.eye(2, dtype=bool)] * 2
    published = ScoringRules({}, 9, 9, 0.9, 0.0)
    with_term = ScoringRules({}, 9, 9, 0.9, 0.0, own_class_weight=0.2)
    before, after = (
        score_population(outputs, masks, labels, rules, seed=0, generation=0) for rules in (published, with_term)
    )
    assert before.ensemble_accuracy.tolist() == [1] * 4 and (before.fitness == 0.9).all()
    assert (before.ensemble_own_class == 0).all()
    np.testing.assert_allclose(after.fitness[0], [0.9 + 0.2 * (0.5 + 1) / 2, 0.9 + 0.2])
    assert after.ensembles[0, 0] == 1
    np.testing.assert_allclose(after.ensemble_own_class, [1, 1, 0.75, 0.75])


@settings(max_examples=30)
@given(instances(4, 4))
def test_the_control_scores_as_many_ensembles_as_exactly(instance: tuple) -> None:
    """Whoever survives by chance: what is said of a final ensemble is what a loop over the images finds."""
    outputs, masks, labels, rules, protected, generation = instance
    arguments: dict[str, Any] = {"seed": 5, "generation": generation, "protected": protected}
    by_chance = replace(rules, draws_survivors=True)
    scores = score_population(outputs, masks, labels, by_chance, threads=1, **arguments)
    again = score_population(outputs, masks, labels, by_chance, threads=3, **arguments)
    assert naive.same_scores(scores, again)
    if protected:
        assert protected in scores.ensembles.tolist()
    for ensemble, accuracy in zip(scores.ensembles, scores.ensemble_accuracy, strict=True):
        answers = np.stack([of_class[c] for of_class, c in zip(outputs, ensemble, strict=True)]).argmax(0)
        assert accuracy == (answers == labels).mean()
    if not rules.thresholds and not protected:  # else a threshold decides how many they are
        assert scores.num_scored == score_population(outputs, masks, labels, rules, **arguments).num_scored


def test_survivors_by_chance() -> None:
    """All survive where there is room, the best ones need not where there is none, and generations draw anew."""
    random = np.random.default_rng(0)
    labels = np.arange(40) % 3
    outputs = [(random.standard_normal((6, 40)) + (labels == c)).astype(np.float32) for c in range(3)]
    masks = [random.random((6, 5)) < 0.5 for _ in range(3)]

    def best(survivors: int, by_chance: bool, generation: int = 0) -> tuple[float, int]:
        rules = ScoringRules({}, survivors, survivors, 1.0, 0.0, draws_survivors=by_chance)
        scores = score_population(outputs, masks, labels, rules, seed=0, generation=generation)
        return scores.ensemble_accuracy[0], len(scores.ensembles)

    assert best(216, True) == best(216, False)
    assert sum(best(2, True, g)[0] < best(2, False, g)[0] for g in range(10)) >= 8


@given(st.integers(1, 40), st.data())
def test_drawn(ensembles: int, data: st.DataObject) -> None:
    surviving = data.draw(st.integers(1, ensembles))
    always = data.draw(st.none() | st.integers(0, ensembles - 1))
    chosen = drawn(ensembles, surviving, always, np.random.default_rng(data.draw(st.integers(0, 99)))).tolist()
    assert chosen == sorted(set(chosen)) and len(chosen) == surviving and set(chosen) <= set(range(ensembles))
    assert always is None or always in chosen


@given(
    num_right=st.lists(st.integers(0, 7), min_size=1, max_size=20),
    threshold=st.sampled_from([0.0, 3 / 7, 0.5, 6 / 7, 1.0]),
    bounds=st.tuples(st.integers(1, 25), st.integers(1, 25)).map(sorted),
    data=st.data(),
)
def test_survivors_are_the_first_of_a_stable_sort(num_right, threshold, bounds, data) -> None:
    """And the protected one, behind them."""
    always = data.draw(st.none() | st.integers(0, len(num_right) - 1))
    number = min(max(sum(count / 7 >= threshold for count in num_right), bounds[0]), bounds[1])
    expected = sorted(range(len(num_right)), key=lambda index: -num_right[index])[:number]
    expected += [] if always is None or always in expected else [always]
    rules = ScoringRules({}, *bounds, 0.9, 0.1)
    assert most_accurate(np.array(num_right), 7, threshold, rules, always).tolist() == expected


def test_weight_of_accuracy() -> None:
    assert accuracy_weight(0.9, 0.9, None) == 0.9
    assert accuracy_weight(0.9, 0.9, 0.95) == 0.9
    assert accuracy_weight(0.9, 0.9, 0.5) == 0.9 + (0.9 - 0.5)
