"""Whole batches are normalised and augmented as single images would be; splits of other images are told apart."""

import dataclasses

import numpy as np
import pytest
import torch
from conftest import random_images

from dataset.images import (
    IMAGENET,
    Images,
    Split,
    augment,
    differences,
    normalise,
    record_of,
    split_fingerprint,
    to_device,
)


def pixels_of(n: int, seed: int = 0) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8))


def test_normalise_is_that_of_the_published_mean_and_std() -> None:
    pixels = pixels_of(3)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = ((pixels.numpy() / 255.0 - mean) / std).transpose(0, 3, 1, 2)
    found = normalise(pixels, IMAGENET)
    assert (found.shape, found.dtype) == ((3, 3, 32, 32), torch.float32)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert normalise(pixels, IMAGENET, torch.bfloat16).dtype == torch.bfloat16


def candidates(image: np.ndarray, mirror: bool) -> dict[tuple[int, int, bool], bytes]:
    """Every image that augmentation may make of one: 9 x 9 crops of the padded image, mirrored or not."""
    padded = np.zeros((40, 40, 3), np.uint8)
    padded[4:36, 4:36] = image
    crops = {}
    for top in range(9):
        for left in range(9):
            crop = padded[top : top + 32, left : left + 32]
            crops[top, left, False] = crop.tobytes()
            if mirror:
                crops[top, left, True] = crop[:, ::-1].tobytes()
    return crops


def drawn(mirror: bool, n: int = 600) -> list[tuple[int, int, bool]]:
    """Which crop each image became."""
    pixels = pixels_of(n)
    augmented = augment(pixels, mirror=mirror, generator=torch.Generator().manual_seed(3))
    assert (augmented.shape, augmented.dtype) == (pixels.shape, torch.uint8)
    found = []
    for before, after in zip(pixels.numpy(), augmented.numpy(), strict=True):
        (match,) = [key for key, crop in candidates(before, True).items() if crop == after.tobytes()]
        found.append(match)
    return found


def test_augment_draws_every_crop_and_mirrors_half() -> None:
    found = drawn(mirror=True)
    for axis in (0, 1):
        counts = np.bincount([match[axis] for match in found], minlength=9)
        # 600 draws from 9: mean 67, standard deviation 7.7; five of them are allowed.
        assert len(counts) == 9
        assert abs(counts - 600 / 9).max() < 39
    assert abs(sum(match[2] for match in found) - 300) < 62  # five standard deviations of 12.2
    assert len({(top, left) for top, left, _ in found}) > 70  # rows and columns are drawn apart: 81 are possible


def test_augment_without_mirror_never_mirrors() -> None:
    assert not any(match[2] for match in drawn(mirror=False, n=100))


def test_augment_is_that_of_its_generator() -> None:
    pixels = pixels_of(20)
    first, again, other = (
        augment(pixels, mirror=True, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_to_device_copies() -> None:
    images = random_images(5, 3)
    pixels, labels = to_device(images, torch.device("cpu"))
    pixels.zero_()
    labels.zero_()
    assert images.pixels.any()
    assert (labels.dtype, pixels.dtype) == (torch.int64, torch.uint8)


# What tells splits apart
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
