"""AUC against scikit-learn's, with ties; which modules are uninformative."""

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
from hypothesis import given
from sklearn.metrics import roc_auc_score

from modules.own_class import auc_by_class, uninformative

few_values = st.integers(-2, 2).map(float)  # so that there are ties


@given(st.data(), st.integers(2, 5), st.integers(1, 30))
def test_auc_is_that_of_scikit_learn(data: st.DataObject, classes: int, images: int) -> None:
    logits = data.draw(hnp.arrays(np.float32, (images, classes), elements=few_values))
    labels = data.draw(hnp.arrays(np.int64, images, elements=st.integers(0, classes - 1)))
    for target_class, found in enumerate(auc_by_class(logits, labels)):
        is_own = labels == target_class
        if is_own.all() or not is_own.any():
            assert np.isnan(found)
        else:
            assert abs(found - roc_auc_score(is_own, logits[:, target_class])) < 1e-12


def test_a_module_that_always_says_the_same_is_uninformative() -> None:
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 20)
    strong = random.normal(size=(60, 3)) + 4 * (labels[:, None] == np.arange(3))
    modules = strong.copy()
    modules[:, 1] = 1
    of_modules, of_strong = auc_by_class(modules, labels), auc_by_class(strong, labels)
    assert of_modules[1] == 0.5
    assert uninformative(of_modules, of_strong) == [1]
    assert uninformative(of_strong, of_strong) == []
