"""Images with their labels: of a part, of a dataset, of a split; and as input of a network, whole batches at once."""

import zlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from utils.errors import UserError

CROP_PADDING = 4  # pixels


class Normalisation(NamedTuple):
    """How a network is given colours between 0 and 1: less the mean, divided by the standard deviation."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Images:
    """Images and labels of one part of a dataset, and how a network is given them."""

    pixels: np.ndarray  # (n, side, side, 3) uint8, RGB; float32 with any channels where they are normalised
    labels: np.ndarray  # (n,) int64
    normalisation: Normalisation | None  # None: they are normalised

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: np.ndarray) -> "Images":
        """The images at the given places, in that order."""
        return replace(self, pixels=self.pixels[index], labels=self.labels[index])

    def first(self, count: int) -> "Images":
        """The first `count` images; 0 = all. A split is shuffled, so they are a random sample of it."""
        return replace(self, pixels=self.pixels[:count], labels=self.labels[:count]) if count else self

    @cached_property
    def fingerprint(self) -> int:
        """A checksum (CRC-32) of images and labels, in their order, and of how a network is given them.

        It is computed once, because images never change.
        """
        found = zlib.crc32(self.labels.tobytes(), zlib.crc32(np.ascontiguousarray(self.pixels).data))
        # The usual normalisation leaves the number what it was before there were others.
        return found if self.normalisation == IMAGENET else zlib.crc32(repr(self.normalisation).encode(), found)


@dataclass(frozen=True)
class Dataset:
    """A dataset as its source gives it."""

    name: str
    classes: tuple[str, ...]
    train: Images  # none where it is there to validate and test alone
    test: Images
    valid: Images | None = None  # None: a share of `train`


@dataclass(frozen=True)
class Split:
    """A dataset as the pipeline uses it: labels count from 0 in the order of `classes`."""

    classes: tuple[str, ...]
    train: Images
    valid: Images
    test: Images


def split_fingerprint(split: Split) -> dict[str, int]:
    """The checksum of each part, by its name.

    To be recorded with what was made from a split, and to be compared where that is used: images that were added,
    removed or changed since show as another number of the part that they are in.
    """
    return {part: getattr(split, part).fingerprint for part in ("train", "valid", "test")}


def choose_classes(dataset: Dataset, classes: tuple[str, ...]) -> Dataset:
    """The dataset with some of its classes, labelled in their order. Raises UserError for an unknown class."""
    unknown = [wanted for wanted in classes if wanted not in dataset.classes]
    if unknown:
        raise UserError(f"dataset {dataset.name} has no class {', '.join(unknown)}: found {', '.join(dataset.classes)}")
    if classes == dataset.classes:
        return dataset
    new_label = np.full(len(dataset.classes), -1)
    new_label[[dataset.classes.index(wanted) for wanted in classes]] = range(len(classes))

    def chosen(images: Images) -> Images:
        labels = new_label[images.labels]
        return replace(images, pixels=images.pixels[labels >= 0], labels=labels[labels >= 0])

    valid = chosen(dataset.valid) if dataset.valid else None
    return Dataset(dataset.name, classes, chosen(dataset.train), chosen(dataset.test), valid)


@dataclass(frozen=True)
class SplitRecord:
    """The record of a split, stored next to a network that was trained on it."""

    classes: tuple[str, ...]
    images: dict[str, int]  # of each part: train, valid, test
    images_crc32: dict[str, int]


def record_of(split: Split) -> SplitRecord:
    """What tells this split from others."""
    checksums = split_fingerprint(split)
    return SplitRecord(split.classes, {part: len(getattr(split, part)) for part in checksums}, checksums)


def differences(expected: SplitRecord, given: SplitRecord) -> str:
    """What differs, for an error message; empty where nothing does."""
    found = []
    if given.classes != expected.classes:
        found.append(f"classes: expected {', '.join(expected.classes)}, given {', '.join(given.classes)}")
    for part, count in given.images.items():
        if count != expected.images.get(part):
            found.append(f"{part}: expected {expected.images.get(part, 'no')} images, given {count}")
        elif given.images_crc32[part] != expected.images_crc32.get(part):
            found.append(f"{part}: expected the same {count} images, given others")
    return "; ".join(found)


def to_device(images: Images, device: torch.device) -> tuple[Tensor, Tensor]:
    """Pixels (n, side, side, 3) uint8 and labels (n,) int64 as tensors on the device."""
    return torch.tensor(images.pixels, device=device), torch.tensor(images.labels, device=device)


def normalise(pixels: Tensor, normalisation: Normalisation | None, dtype: torch.dtype = torch.float32) -> Tensor:
    """The input that a network expects, in the channels-last layout that convolutions prefer.

    Args:
        pixels: (n, side, side, 3) uint8; without a normalisation (n, side, side, channels) float.
        normalisation: of the images that the network was trained on; None = the pixels are normalised. It has no
            default: another one gives wrong answers without an error.
        dtype: of the result.

    Returns:
        (n, channels, side, side) in `dtype`.
    """
    if normalisation is None:
        return pixels.to(dtype).permute(0, 3, 1, 2)
    mean, std = (torch.tensor(values, device=pixels.device) * 255 for values in normalisation)
    return ((pixels.float() - mean) / std).to(dtype).permute(0, 3, 1, 2)


def augment(pixels: Tensor, *, mirror: bool, generator: torch.Generator) -> Tensor:
    """A random crop, as large, of each image padded by 4 black pixels and, with `mirror`, a flip of half of them.

    Args:
        pixels: (n, side, side, 3) uint8.
        mirror: whether to flip.
        generator: on the CPU, so that every device draws the same.
    """
    n, height, width, _ = pixels.shape
    shift = torch.randint(0, 2 * CROP_PADDING + 1, (2, n, 1), generator=generator)
    rows, columns = shift[0] + torch.arange(height), shift[1] + torch.arange(width)
    if mirror:
        flipped = torch.rand(n, 1, generator=generator) < 0.5
        columns = torch.where(flipped, columns.flip(1), columns)
    padding = (0, 0, CROP_PADDING, CROP_PADDING, CROP_PADDING, CROP_PADDING)
    padded = torch.nn.functional.pad(pixels, padding)
    image = torch.arange(n, device=pixels.device)[:, None, None]
    return padded[image, rows.to(pixels.device)[:, :, None], columns.to(pixels.device)[:, None, :]]
