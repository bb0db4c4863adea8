"""Logits in another order of classes, and networks that know nothing, are noticed; weak models are not."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor, nn

from dataset.images import IMAGENET, Images, Normalisation
from patching.own_weak_model import Classes
from patching.weak_model_check import check_weak_model, fitting_order, knows_nothing, other_form
from utils.errors import UserError


def labels_of(classes: int, of_each: int) -> np.ndarray:
    return np.random.default_rng(0).permutation(np.repeat(np.arange(classes), of_each))


def weak_logits(labels: np.ndarray, classes: int, bad: tuple[int, ...] = (), seed: int = 0) -> np.ndarray:
    """Of a model that knows its classes, but for some that it hardly ever answers."""
    logits = np.random.default_rng(seed).normal(size=(len(labels), classes))
    strength = np.where(np.isin(np.arange(classes), bad), 1.0, 3.0)
    return logits + strength * (labels[:, None] == np.arange(classes)) - 5.0 * np.isin(np.arange(classes), bad)


KERAS = [0, 9, 1, 2, 3, 4, 5, 6, 7, 8]  # 1, 10, 2, 3, ...: the folders' names in the order of text


@pytest.mark.parametrize("bad", [(), (3,), (3, 8)])
@pytest.mark.parametrize("outputs", [KERAS, list(np.random.default_rng(1).permutation(10)), [1, 0, *range(2, 10)]])
def test_another_order_is_found_exactly(bad: tuple[int, ...], outputs: list[int]) -> None:
    """Output j is that of class outputs[j]."""
    labels = labels_of(10, 60)
    logits = weak_logits(labels, 10, bad)
    order = fitting_order(logits[:, outputs], labels)
    assert order is not None and np.array_equal(logits[:, outputs][:, order], logits)
    assert fitting_order(logits, labels) is None


@given(
    classes=st.integers(2, 12),
    of_each=st.integers(1, 40),
    targets=st.integers(1, 11),
    scale=st.floats(1e-4, 1e4),
    seed=st.integers(0, 2**32 - 1),
)
def test_weak_models_are_not_complained_about(
    classes: int, of_each: int, targets: int, scale: float, seed: int
) -> None:
    """However few the images, however many classes it is bad at, and whatever the scale of its logits."""
    labels, bad = labels_of(classes, of_each), tuple(range(min(targets, classes - 1)))
    logits = scale * (weak_logits(labels, classes, bad, seed) + np.arange(len(labels))[:, None])
    assert fitting_order(logits, labels) is None
    assert not knows_nothing(logits, labels, bad)


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("of_each", [20, 100])
def test_a_model_that_always_answers_the_same_knows_nothing(classes: int, of_each: int) -> None:
    labels = labels_of(classes, of_each)
    logits = 0.01 * np.random.default_rng(0).normal(size=(len(labels), classes)) - np.arange(classes)
    assert knows_nothing(logits, labels, [0])
    assert knows_nothing(logits, labels, list(range(classes)))


def test_three_images_do_not_show_that_a_model_knows_nothing() -> None:
    assert not knows_nothing(np.eye(3)[[1, 2, 0]], np.arange(3), [0])


def test_the_message_names_the_option_that_fits() -> None:
    names = tuple("abcdefghij")
    labels = np.concatenate([labels_of(10, 60), np.full(30, 10)])  # and images of a class that it does not know
    logits = weak_logits(labels, 10)[:, KERAS]
    classes = Classes((*names, "added"), 10, {3: 0, 10: 1})
    with pytest.raises(UserError) as refused:
        check_weak_model(logits, labels, classes, anyway=False)
    assert "give --weak_classes a,j,b,c,d,e,f,g,h,i; --anyway patches it as it is" in str(refused.value)
    right = int((logits[:600].argmax(1) == labels[:600]).sum())
    assert f"is right on {right} of 600 validation images, and on 5" in str(refused.value)
    check_weak_model(logits, labels, classes, anyway=True)
    renamed = Classes(("a", "j", "b", "c", "d", "e", "f", "g", "h", "i", "added"), 10, {3: 0, 10: 1})
    in_their_order = np.array([renamed.names.index(name) for name in classes.names])[labels]
    check_weak_model(logits, in_their_order, renamed, anyway=False)


def test_classes_that_a_model_knows_nothing_of_are_named_as_a_guess() -> None:
    labels = labels_of(10, 60)
    logits = weak_logits(labels, 10)
    logits[:, [3, 8]] = np.random.default_rng(3).normal(size=(600, 2)) - 5
    with pytest.raises(UserError, match=r"\(a guess for d, i, which it hardly knows\)"):
        check_weak_model(logits[:, KERAS], labels, Classes(tuple("abcdefghij"), 10, {3: 0}), anyway=False)


FROM_0_TO_1 = Normalisation((0.0,) * 3, (1.0,) * 3)
COLOURS = np.array([[200, 0, 0], [200, 0, 60], [0, 0, 200]], np.float32)


@pytest.mark.parametrize(
    ("trained_with", "step", "expected"),
    [
        (IMAGENET, 1, ""),
        (FROM_0_TO_1, 1, "with colours from 0 to 1 on 150: give --weak_mean 0.0,0.0,0.0 --weak_"),
        (IMAGENET, -1, "with colours red and blue exchanged on 150: give a FILE.py:FUNCTION that exchanges them"),
    ],
)
def test_images_in_another_form_than_a_weak_network_was_trained_with(trained_with, step, expected):
    """A network that tells three colours apart."""
    mean, std = map(np.array, trained_with)
    known = torch.tensor(((COLOURS / 255 - mean) / std)[:, ::step].copy(), dtype=torch.float32)

    class Nearest(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return -torch.cdist(images.mean((2, 3)), known)

    labels = np.repeat(np.arange(3), 50)
    pixels = np.broadcast_to(COLOURS[labels][:, None, None], (150, 4, 4, 3)).astype(np.uint8)
    line = other_form(Nearest(), Images(pixels, labels, IMAGENET), torch.device("cpu"))
    assert expected in line and bool(line) is bool(expected) and "\n" not in line
