"""The weak models' images: which, how many, and on which side of the strong model's split."""

import dataclasses

import numpy as np
import pytest

from configures.base import load
from dataset.splits import load_split
from patching.data import load_patch_data, of_class
from utils.errors import UserError


def as_set(images) -> set[bytes]:
    return {image.tobytes() for image in images.pixels}


@pytest.fixture
def config():
    return load("simcnn_x0_25", "digits_5", ["weak_train_images=0", "weak_target_images=0"])


def test_weak_classes_come_first_and_the_target_class_keeps_the_strong_models_split(config):
    strong = load_split(config)
    data = load_patch_data(config)
    first = data.split_for(1)
    for target_class in (0, 3):
        split = data.split_for(target_class)
        assert split.classes == ("6", "7", "8", "9", str(target_class))
        for part in ("train", "valid", "test"):
            images, theirs = getattr(split, part), of_class(getattr(strong, part), target_class)
            own = of_class(images, 4)
            np.testing.assert_array_equal(own.pixels, theirs.pixels)
            np.testing.assert_array_equal(images.labels[-len(own) :], 4)
            assert set(images.labels) == {0, 1, 2, 3, 4}
            shared = len(getattr(data.weak, part))
            np.testing.assert_array_equal(images.pixels[:shared], getattr(first, part).pixels[:shared])
    assert len(as_set(split.train) & as_set(split.valid)) <= 1  # scikit-learn's digits hold hardly any twins


def test_subsets_count_per_class_and_are_drawn_the_same_each_time(config):
    config = dataclasses.replace(config, weak_train_images=50, weak_test_images=10)
    split, again = load_patch_data(config).split_for(3), load_patch_data(config).split_for(3)
    counts = np.bincount(split.train.labels) + np.bincount(split.valid.labels)
    assert counts.tolist() == [50] * 5
    assert np.bincount(split.test.labels).tolist() == [10] * 5
    assert (split.train.labels == 4).sum() == 40
    np.testing.assert_array_equal(split.train.pixels, again.train.pixels)
    everything = load_patch_data(dataclasses.replace(config, weak_train_images=0)).split_for(3)
    assert as_set(split.valid) <= as_set(everything.valid) | as_set(everything.train)


def test_few_training_images_of_the_target_class_alone(config):
    few = dataclasses.replace(config, weak_target_images=7)
    split, all_of_it = load_patch_data(few).split_for(3), load_patch_data(config).split_for(3)
    assert (split.train.labels == 4).sum() == 7
    for part in ("valid", "test"):
        np.testing.assert_array_equal(getattr(split, part).pixels, getattr(all_of_it, part).pixels)
    others = all_of_it.train.labels < 4
    np.testing.assert_array_equal(split.train.pixels[:-7], all_of_it.train.pixels[others])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weak_train_images": 100_000}, "expected 100000 images .*weak_train_images"),
        ({"weak_classes": ("6", "3")}, "weak_classes: expected classes of digits that the strong model does not know"),
        ({"weak_classes": ("6", "eleven")}, "digits has no class eleven"),
        ({"weak_classes": ()}, "no patching experiment"),
    ],
)
def test_settings_that_cannot_be(config, changes, message):
    with pytest.raises(UserError, match=message):
        load_patch_data(dataclasses.replace(config, **changes)).split_for(0)
