"""Chance, the order of classes, and the form of images, told from a network's answers."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

from dataset.images import IMAGENET, Images, Normalisation
from models.input_forms import (
    USUAL,
    can_tell_from_chance,
    class_order,
    explain,
    is_near_chance,
    other_class_order,
)

CPU = torch.device("cpu")
AS_TEXT = np.array(sorted(range(1, 11), key=str)) - 1  # classes 1 to 10, sorted as Keras sorts names: 1, 10, 2 ...
OUTPUT_OF = np.argsort(AS_TEXT)


def labels_of(*counts: int) -> np.ndarray:
    return np.repeat(np.arange(len(counts)), counts)


@pytest.mark.parametrize(
    ("right", "counts", "is_near"),
    [
        (100, (67, 33), False),
        (75, (75, 25), True),
        (100, (75, 25), False),
        (990, (990, 10), True),
        (1000, (990, 10), False),
        (60, (50, 50), True),
        (74, (50, 50), False),
        (5200, (5000, 5000), True),
        (61, (40,) * 10, True),
        (160, (40,) * 10, False),
        (100, (1,) * 1000, False),
        (3, (1,) * 1000, True),
        (1, (1, 1), True),
        (2, (1, 1), False),
        (50, (50,), False),
    ],
)
def test_near_chance_for_any_classes(right: int, counts: tuple[int, ...], is_near: bool) -> None:
    assert is_near_chance(right, labels_of(*counts)) == is_near


def test_a_constant_answer_is_chance_and_rare_classes_are_knowledge() -> None:
    labels = labels_of(900, 60, 40)
    assert is_near_chance(900, labels, np.zeros(1000, np.int64))
    knows_the_rare = np.where(labels == 0, np.arange(1000) % 3, labels)  # right on 400 of 1,000
    right = int((knows_the_rare == labels).sum())
    assert right < 900 and not is_near_chance(right, labels, knows_the_rare)
    assert is_near_chance(right, labels)  # as far as the count alone tells


def test_few_images_do_not_tell() -> None:
    assert not can_tell_from_chance(labels_of(1, 1))
    assert not can_tell_from_chance(labels_of(3, 3)) and can_tell_from_chance(labels_of(4, 4))
    assert not can_tell_from_chance(labels_of(99, 1)) and can_tell_from_chance(labels_of(990, 10))
    assert not can_tell_from_chance(labels_of(500))


@settings(max_examples=30)
@given(st.lists(st.integers(1, 60), min_size=2, max_size=12), st.integers(0, 2**32 - 1))
def test_answers_that_know_nothing_are_near_chance(counts: list[int], seed: int) -> None:
    """A false alarm is as rare as it says; the answers are drawn with shares of their own."""
    random, labels = np.random.default_rng(seed), labels_of(*counts)
    shares = random.dirichlet(np.ones(len(counts)))
    near = 0
    for _ in range(20):
        predicted = random.choice(len(counts), len(labels), p=shares)
        near += is_near_chance(int((predicted == labels).sum()), labels, predicted)
    assert near >= 16


def logits_of(predicted: np.ndarray, classes: int) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor(predicted), classes).float()


@given(st.permutations(range(8)), st.floats(0.75, 1), st.integers(0, 2**32 - 1))
def test_another_order_is_found_and_no_other(order: list[int], accuracy: float, seed: int) -> None:
    """`order[c]` is the output of class c; the errors are of any class."""
    random, labels = np.random.default_rng(seed), labels_of(*[40] * 8)
    known = random.random(len(labels)) < accuracy
    predicted = np.where(known, np.array(order)[labels], random.integers(8, size=len(labels)))
    found = other_class_order(logits_of(predicted, 8), labels)
    best, right = class_order(logits_of(predicted, 8), labels)
    assert best.tolist() == order and right == int((np.array(order)[labels] == predicted).sum())
    assert (list(range(8)) if found is None else found[0].tolist()) == order


@given(st.integers(2, 30), st.integers(4, 60), st.integers(0, 2**32 - 1))
def test_no_order_in_answers_that_know_nothing(classes: int, of_each: int, seed: int) -> None:
    """The best order of many classes and few images is right on several times as many images by chance alone."""
    predicted = np.random.default_rng(seed).integers(classes, size=classes * of_each)
    assert other_class_order(logits_of(predicted, classes), labels_of(*[of_each] * classes)) is None


@given(st.data(), st.integers(3, 10))
def test_no_order_in_a_network_that_is_bad_at_classes(data: st.DataObject, classes: int) -> None:
    """Some classes are taken for others that the network knows well: the answers of these are not free."""
    bad = data.draw(st.sets(st.integers(0, classes - 1), min_size=1, max_size=classes // 2))
    good = [number for number in range(classes) if number not in bad]
    taken_for = {label: data.draw(st.sampled_from(good)) if label in bad else label for label in range(classes)}
    labels = labels_of(*[40] * classes)
    predicted = np.array([taken_for[label] for label in labels])
    assert other_class_order(logits_of(predicted, classes), labels) is None


def test_a_class_whose_output_another_takes_over_stays() -> None:
    """Class 1 is always called 0, and class 0 half of the time: exchanging them would be right on more images."""
    labels = labels_of(120, 120, 120)
    predicted = np.concatenate([np.repeat([0, 2], 60), np.full(120, 0), np.full(120, 2)])
    assert class_order(logits_of(predicted, 3), labels)[1] == 240 > (predicted == labels).sum()
    assert other_class_order(logits_of(predicted, 3), labels) is None


@pytest.mark.parametrize("seed", range(5))
def test_no_order_in_a_network_that_is_not_trained(seed: int) -> None:
    """Ten classes that random weights tell apart a little: the best order is significantly better, and of no use."""
    random, labels = np.random.default_rng(seed), labels_of(*[60] * 10)
    logits = (random.normal(size=(10, 32))[labels] + random.normal(size=(600, 32))) @ random.normal(size=(32, 10))
    assert class_order(logits, labels)[1] > 150
    assert other_class_order(logits, labels) is None


class Grey(nn.Module):
    """Tells images of one grey each by it, in the form that it was made for; output i is class `classes[i]`."""

    def __init__(self, normalisation: Normalisation, classes: np.ndarray) -> None:
        super().__init__()
        greys = torch.tensor(25.0 * classes + 10) / 255
        self.register_buffer("greys", (greys - normalisation.mean[1]) / normalisation.std[1])

    def forward(self, x: Tensor) -> Tensor:
        return -((x[:, 1].mean((1, 2))[:, None] - self.greys) ** 2)


def grey_images(wrong: float) -> Images:
    """400 images of ten classes, a share of which are labelled at random."""
    random, truth = np.random.default_rng(0), labels_of(*[40] * 10)
    pixels = np.broadcast_to((25 * truth + 10)[:, None, None, None], (400, 4, 4, 3)).astype(np.uint8)
    labels = np.where(random.random(400) < wrong, random.integers(10, size=400), truth)
    return Images(pixels, labels, IMAGENET)


@pytest.mark.parametrize("words", USUAL)
@pytest.mark.parametrize("order", [np.arange(10), AS_TEXT], ids=["in order", "as text"])
def test_form_and_order_are_found_together(words: str, order: np.ndarray) -> None:
    images = grey_images(wrong=0.25)
    was, best = explain(Grey(USUAL[words], order), images, CPU)
    assert best.trial.words == ("as they are" if words == "ImageNet's" else words) and not best.trial.is_reversed
    assert (best.order is None) == (order[1] == 1)
    assert best.order is None or np.array_equal(best.order, OUTPUT_OF)
    assert best.is_right.sum() > 280
    assert (best is was) == (words == "ImageNet's" and order[1] == 1)


def test_a_form_that_is_right_by_chance_is_no_explanation() -> None:
    """Always the same class, in each form another one, of which one is more frequent."""

    class BySign(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            positive = (x.mean((1, 2, 3)) > 0).float()
            return torch.stack([positive, 1 - positive], 1)

    labels = labels_of(300, 100)
    images = Images(np.full((400, 4, 4, 3), 100, np.uint8), labels, IMAGENET)
    was, best = explain(BySign(), images, CPU)
    assert was is best and was.is_right.sum() == 100


def test_forms_in_which_a_network_overflows_are_passed_over() -> None:
    class Exponential(Grey):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 0 * x.mean((1, 2, 3), keepdim=True).flatten(1).abs().mul(10).exp()

    was, best = explain(Exponential(IMAGENET, np.arange(10)), grey_images(wrong=0.0), CPU)
    assert was is best and was.is_right.all()


def test_exchanged_colours_are_found() -> None:
    """No order of the classes explains them: two of the three are one colour the other way round."""
    colours = torch.tensor([[200.0, 0, 0], [200, 0, 60], [0, 0, 200]])

    class Nearest(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            mean, std = map(torch.tensor, IMAGENET)
            blue_first = ((colours / 255 - mean) / std).flip(1)
            return -torch.cdist(x.mean((2, 3)), blue_first)

    labels = labels_of(50, 50, 50)
    pixels = np.broadcast_to(colours.numpy()[labels][:, None, None], (150, 4, 4, 3)).astype(np.uint8)
    was, best = explain(Nearest(), Images(pixels, labels, IMAGENET), CPU)
    assert was.is_right.sum() == 0
    assert best.trial.is_reversed and best.trial.settings == () and best.order is None and best.is_right.all()
