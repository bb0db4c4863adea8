"""Splits are told apart by what a user would call other images."""

import dataclasses

import numpy as np
import pytest
from conftest import random_images

from dataset.images import Images, Split, differences, record_of, split_fingerprint

SPLIT = Split(("cat", "dog"), *(random_images(n, 2, seed=n) for n in (20, 5, 7)))


def with_part(part: str, images: Images) -> Split:
    return dataclasses.replace(SPLIT, **{part: images})


def test_a_record_has_counts_and_checksums() -> None:
    record = record_of(SPLIT)
    assert record.classes == ("cat", "dog")
    assert record.images == {"train": 20, "valid": 5, "test": 7}
    assert record.images_crc32 == split_fingerprint(SPLIT)
    again = Split(SPLIT.classes, *(random_images(n, 2, seed=n) for n in (20, 5, 7)))
    assert differences(record, record_of(again)) == ""


@pytest.mark.parametrize("part", ["train", "valid", "test"])
def test_any_change_of_a_part_is_named(part: str) -> None:
    there: Images = getattr(SPLIT, part)
    count, pixels = len(there), there.pixels.copy()
    pixels[-1, 31, 31, 2] ^= 1
    same_count = f"{part}: expected the same {count} images, given others"
    for images, said in (
        (there.first(count - 1), f"{part}: expected {count} images, given {count - 1}"),
        (dataclasses.replace(there, pixels=pixels), same_count),
        (dataclasses.replace(there, labels=1 - there.labels), same_count),
        (there.take(np.arange(count)[::-1]), same_count),
    ):
        assert differences(record_of(SPLIT), record_of(with_part(part, images))) == said


def test_other_classes_are_named() -> None:
    swapped = dataclasses.replace(SPLIT, classes=("dog", "cat"))
    assert differences(record_of(SPLIT), record_of(swapped)) == "classes: expected cat, dog, given dog, cat"


def test_all_differences_are_named() -> None:
    other = Split(("cat", "cow"), SPLIT.train.first(3), SPLIT.valid, SPLIT.test.first(1))
    assert len(differences(record_of(SPLIT), record_of(other)).split("; ")) == 3
