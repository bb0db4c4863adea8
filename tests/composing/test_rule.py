"""The rule that makes outputs comparable: what it does not depend on, and that a few images do no harm."""

import numpy as np
import pytest
import torch
from conftest import refusal_of
from hypothesis import given, settings
from hypothesis import strategies as st

from composing.controls import MOST_STACKED, Whole, largest_softmax, mean_softmax, restricted, stacked
from composing.rule import LinearRule, fitted, standardised


def said(images_of_class: int, seed: int = 0, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Outputs that know their classes well, on one scale, and labels."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), images_of_class)
    return 3.0 * np.eye(classes)[labels] + random.normal(size=(len(labels), classes)), labels


@settings(max_examples=10)
@given(
    factors=st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=2),
    shifts=st.lists(st.floats(-100, 100), min_size=2, max_size=2),
)
def test_units_of_a_source_do_not_matter(factors, shifts):
    outputs, labels = said(20)
    sources = [0, 1, 0, 1]
    of_outputs = np.array(factors)[sources], np.array(shifts)[sources]
    other = (outputs + of_outputs[1]) * of_outputs[0]
    for make in (lambda values: fitted(values, labels, sources), lambda values: standardised(values, sources, labels)):
        expected, found = make(outputs).scores(outputs), make(other).scores(other)
        np.testing.assert_allclose(found, expected, atol=1e-2)  # outputs are float32


def test_offsets_between_sources_are_found_and_ten_images_a_class_do_no_harm():
    test_outputs, test_labels = said(500, seed=9)
    shift = np.array([0.0, 8.0, 0.0, 8.0])
    plain = (test_outputs.argmax(1) == test_labels).mean()
    assert ((test_outputs + shift).argmax(1) == test_labels).mean() < 0.7
    for images_of_class in (10, 200):
        outputs, labels = said(images_of_class)
        rule = fitted(outputs + shift, labels, [0, 1, 0, 1])
        assert (rule.scores(test_outputs + shift).argmax(1) == test_labels).mean() > plain - 0.01
        # Of one source a fit on ten images a class may hardly change what is comparable already.
        alone = fitted(outputs, labels, [0] * 4)
        assert (alone.scores(test_outputs).argmax(1) == test_labels).mean() > plain - 0.01


def test_an_outputs_own_offset_is_found_where_there_are_images():
    outputs, labels = said(500)
    shift = np.array([0.0, 2.0, 0.0, -2.0])
    rule = fitted(outputs + shift, labels, [0] * 4)
    right, best = ((values.argmax(1) == labels).mean() for values in (rule.scores(outputs + shift), outputs))
    assert ((outputs + shift).argmax(1) == labels).mean() < best - 0.03
    assert right > best - 0.01
    # The softmax is calibrated: the mean probability of the answers is their accuracy.
    assert abs(torch.softmax(torch.tensor(rule.scores(outputs + shift)), 1).amax(1).mean() - right) < 0.02


def test_a_constant_output_and_a_rule_of_its_own_values():
    outputs, labels = said(20)
    outputs[:, 2] = 5.0
    rule = fitted(outputs, labels, range(4))
    assert np.isfinite(rule.scores(outputs)).all() and (rule.weight[:, 2] == 0).all()
    again = LinearRule(**rule.to_json())
    assert np.array_equal(again.scores(outputs), rule.scores(outputs))
    with pytest.raises(ValueError, match="for each output"):
        LinearRule([0.0], [[1.0, 2.0]], [0.0])


def test_a_source_of_one_class_is_standardised_on_all_images():
    """On the images of its own class alone its mean would be that of its highest values."""
    outputs = np.array([[2.0, 0.0, 9.0], [0.0, 2.0, 1.0], [0.0, 0.0, 9.0], [0.0, 2.0, 3.0]])
    labels = np.array([0, 1, 2, 1])
    rule = standardised(outputs, [0, 0, 1], labels)
    np.testing.assert_allclose(rule.centre, [4 / 3 * 0.75, 1.0, 5.5], rtol=1e-6)
    assert (rule.scores(outputs).argmax(1) == [0, 1, 2, 1]).mean() > 0.7


def test_what_cannot_be_fitted():
    outputs, labels = said(5)
    assert "none of class 3" in refusal_of(lambda: fitted(outputs[labels < 3], labels[labels < 3], [0] * 4))
    outputs[0, 0] = np.nan
    assert "NaN" in refusal_of(lambda: fitted(outputs, labels, [0] * 4))


def test_controls_by_hand():
    one = Whole(np.log([[0.7, 0.2, 0.1], [0.1, 0.2, 0.7]]), (0, 1), (0, 1))  # it knows a third class
    two = Whole(np.log([[0.4, 0.6], [0.3, 0.7]]), (1, 0), (0, 1))
    assert restricted(one).tolist() == [0, 1]
    assert restricted(two).tolist() == [0, 0]
    assert largest_softmax([one, two], 2).tolist() == [0, 0]
    assert mean_softmax([one, two]).tolist() == [0, 0]
    other = Whole(two.logits, (2, 3), (0, 1))
    assert largest_softmax([one, other], 4).tolist() == [0, 3]


def test_stacking_sees_all_classes_of_images_in_regular_order():
    labels = np.arange(2 * MOST_STACKED) % 10  # of every other image some classes would be missing
    answers = stacked(np.eye(10)[labels], labels, np.eye(10))
    assert answers.tolist() == list(range(10))


def test_stacking_undoes_a_permutation():
    outputs, labels = said(40)
    test_outputs, test_labels = said(200, seed=3)
    answers = stacked(outputs[:, ::-1], labels, test_outputs[:, ::-1])
    assert (answers == test_labels).mean() > (test_outputs.argmax(1) == test_labels).mean() - 0.02
