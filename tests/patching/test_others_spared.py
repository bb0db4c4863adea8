"""Lowering target classes' scores: the least that does it, against trying every one that changes an answer."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from patching.from_arrays import SLACK, least_lowering


@given(seed=st.integers(0, 1000), num_targets=st.integers(1, 3), right=st.integers(0, 40))
def test_the_least_lowering_leaves_enough_right_answers(seed, num_targets, right):
    random = np.random.default_rng(seed)
    targets, labels = list(random.permutation(4)[:num_targets]), random.integers(4, size=30)
    scores = random.normal(size=(30, 4)) + (labels[:, None] == np.arange(4))

    def right_after(lowering: float) -> int:
        answers = (scores - lowering * np.isin(np.arange(4), targets)).argmax(1)
        return int((answers == labels)[~np.isin(labels, targets)].sum())

    lowering = least_lowering(scores, labels, targets, right)
    assert lowering >= 0 and right_after(lowering) >= min(right, right_after(1e6))
    if lowering > 0:
        assert right_after(lowering - 2 * SLACK) < min(right, right_after(1e6))
