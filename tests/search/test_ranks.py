"""Levels decide on every image as the outputs do, ties and both zeros included."""

import itertools

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from search.genetic.ranks import output_levels


@given(
    num_classes=st.integers(2, 4), population=st.integers(1, 5), num_images=st.integers(0, 6), seed=st.integers(0, 999)
)
def test_levels_beat_each_other_as_outputs_do(num_classes: int, population: int, num_images: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    outputs = random.choice([-1.0, -0.0, 0.0, 2.0], (num_classes, population, num_images)).astype(np.float32)
    labels = random.integers(num_classes, size=num_images)
    levels = output_levels(list(outputs), labels)
    for label in range(num_classes):
        own = np.flatnonzero(labels == label)
        assert levels[label].shape == (num_classes, population, len(own))
        assert levels[label].dtype == np.uint8
        assert (levels[label][label] >= 1).all()
        assert (levels[label] <= population).all()
        for place, image in enumerate(own):
            at, drawn = levels[label][:, :, place], outputs[:, :, image]
            for rival, c, chromosome in itertools.product(range(population), range(num_classes), range(population)):
                if c != label:
                    own_output, other_output = drawn[label, rival], drawn[c, chromosome]
                    wins = own_output > other_output or (own_output == other_output and label < c)
                    assert (at[label, rival] > at[c, chromosome]) == wins


@pytest.mark.parametrize(("population", "kind"), [(255, np.uint8), (256, np.int32)])
def test_the_largest_level_fits(population: int, kind: type) -> None:
    outputs = [np.arange(population, dtype=np.float32)[:, None], np.full((population, 1), 1e6, np.float32)]
    (levels, none) = output_levels(outputs, np.array([0]))
    assert levels.dtype == kind
    assert levels[0, :, 0].tolist() == list(range(1, population + 1))
    assert (levels[1] == population).all()
    assert none.shape == (2, population, 0)
