"""A split's images are found again by what they show, wherever they stand."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import global_configure
from configures.base import load
from dataset.datasets import load_dataset
from dataset.image_hashes import places_of
from dataset.images import IMAGENET, Split, split_fingerprint
from dataset.splits import image_order_of, load_split
from utils.files import save_array

CONFIG = load("simcnn_x0_25", "digits_5")


@given(st.lists(st.integers(0, 5)), st.randoms())
def test_places(values: list[int], random: object) -> None:
    wanted = np.array(values, np.uint64)
    found = wanted[np.array(random.sample(range(len(values)), len(values)), int)]
    places = places_of(wanted, found)
    assert np.array_equal(found[places], wanted) and len(set(places.tolist())) == len(values)


@pytest.mark.parametrize("found", [[1, 2], [1, 2, 2, 3], [1, 2, 3, 4], []])
def test_other_images_have_no_places(found: list[int]) -> None:
    assert places_of(np.array([1, 1, 2, 3], np.uint64), np.array(found, np.uint64)) is None


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Split:
    """The split of the digits, which stand in another order from here on."""
    monkeypatch.setattr(global_configure, "root_dir", tmp_path)
    split, dataset, generator = (
        load_split(CONFIG),
        load_dataset("digits", 32, "stretch", IMAGENET),
        np.random.default_rng(0),
    )
    for part in ("train", "test"):
        images = getattr(dataset, part)
        places = generator.permutation(len(images))
        for name, array in (("images", images.pixels), ("labels", images.labels)):
            save_array(tmp_path / "data" / "decoded_dataset" / "digits" / f"{part}_{name}.npy", array[places])
    return split


def test_another_order_is_the_same_split(elsewhere: Split) -> None:
    order = image_order_of(elsewhere)
    assert split_fingerprint(load_split(CONFIG)) != split_fingerprint(elsewhere)
    assert split_fingerprint(load_split(CONFIG, order)) == split_fingerprint(elsewhere)


def test_other_images_are_split_as_ever(elsewhere: Split) -> None:
    """So that they are compared with the record, and refused in its words."""
    images = elsewhere.test
    changed = Split(elsewhere.classes, elsewhere.train, elsewhere.valid, images.take(np.arange(len(images) - 1)))
    plain = split_fingerprint(load_split(CONFIG))
    assert split_fingerprint(load_split(CONFIG, image_order_of(changed))) == plain
