"""Images with their labels: of one part of a dataset, of a dataset, and of a dataset that is split."""

import zlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from utils.errors import UserError


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
    def _crc32(self) -> int:
        found = zlib.crc32(self.labels.tobytes(), zlib.crc32(np.ascontiguousarray(self.pixels)))
        # The usual normalisation leaves the number what it was before there were others.
        return found if self.normalisation == IMAGENET else zlib.crc32(repr(self.normalisation).encode(), found)


def fingerprint(images: Images) -> int:
    """A checksum (CRC-32) of images and labels, in their order, and of how a network is given them.

    It is computed once, since nobody writes into images.
    """
    return images._crc32


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
    return {part: fingerprint(getattr(split, part)) for part in ("train", "valid", "test")}


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
