"""Images with their labels: of a part, of a dataset, of a split; and as input of a network, whole batches at once."""

import zlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dataset.pixels import PixelsOnDisk, is_large, on_device, taken
from utils.errors import UserError

CROP_PADDING = 4  # pixels
CROP_AREA = (0.25, 1.0)  # of the image's, of a resized crop
CROP_RATIO = 4 / 3  # of its longer side to its shorter one, at most
Crop = Literal["shifted", "resized"]


class Normalisation(NamedTuple):
    """How a network is given colours between 0 and 1: less the mean, divided by the standard deviation."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Images:
    """Images and labels of one part of a dataset, and how a network is given them."""

    # (n, side, side, 3) uint8, RGB; float32 with any channels where they are normalised. Too many for memory are
    # PixelsOnDisk, which are indexed alike.
    pixels: np.ndarray
    labels: np.ndarray  # (n,) int64
    normalisation: Normalisation | None  # None: they are normalised

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: np.ndarray | slice) -> "Images":
        """The images at the given places, in that order."""
        return replace(self, pixels=taken(self.pixels, index), labels=self.labels[index])

    def first(self, count: int) -> "Images":
        """The first `count` images; 0 = all. A split is shuffled, so they are a random sample of it."""
        return self.take(slice(count)) if count else self

    @cached_property
    def fingerprint(self) -> int:
        """A checksum (CRC-32) of images and labels, in their order, and of how a network is given them.

        It is computed once, because images never change.
        """
        pixels = self.pixels
        of_pixels = (
            pixels.checksum if isinstance(pixels, PixelsOnDisk) else zlib.crc32(np.ascontiguousarray(pixels).data)
        )
        found = zlib.crc32(self.labels.tobytes(), of_pixels)
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
        return replace(images, labels=labels).take(labels >= 0)

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
    """Pixels (n, side, side, 3) uint8 and labels (n,) int64 as tensors on the device.

    Pixels that are too many for memory are PixelsOnDevice, which are indexed alike: a batch is read when it is needed.
    """
    return on_device(images.pixels, device), torch.tensor(images.labels, device=device)


@dataclass(frozen=True)
class PreparedImages:
    """Images as a network is given them, by the batch: (n, channels, side, side), of which a slice is a tensor."""

    pixels: Tensor
    normalisation: Normalisation | None
    dtype: torch.dtype

    @property
    def device(self) -> torch.device:
        """Where they are prepared."""
        return self.pixels.device

    @property
    def itemsize(self) -> int:
        """The bytes of a value."""
        return self.dtype.itemsize

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, batch: slice) -> Tensor:
        return normalise(self.pixels[batch], self.normalisation, self.dtype)


def prepared(images: Images, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor | PreparedImages:
    """Images as a network is given them, on a device: at once, or by the batch where they are too many for memory."""
    found = PreparedImages(to_device(images, device)[0], images.normalisation, dtype)
    return found if is_large(found.itemsize * int(np.prod(found.pixels.shape))) else found[:]


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


def augment(pixels: Tensor, *, mirror: bool, generator: torch.Generator, crop: Crop = "shifted") -> Tensor:
    """A random crop of each image and, with `mirror`, a flip of half of them.

    Args:
        pixels: (n, side, side, 3) uint8.
        mirror: whether to flip.
        generator: on the CPU, so that every device draws the same.
        crop: `shifted`: as large as the image, padded by 4 black pixels. `resized`: a quarter of its area or more,
            resized to the whole (bilinear; Szegedy et al., "Going Deeper with Convolutions", CVPR 2015, section 6).

    Returns (n, side, side, 3) uint8.
    """
    return (_resized_crops if crop == "resized" else _shifted)(pixels, mirror, generator)


def _shifted(pixels: Tensor, mirror: bool, generator: torch.Generator) -> Tensor:
    n, height, width, _ = pixels.shape
    shift = torch.randint(0, 2 * CROP_PADDING + 1, (2, n, 1), generator=generator)
    rows, columns = shift[0] + torch.arange(height), shift[1] + torch.arange(width)
    if mirror:
        flipped = torch.rand(n, 1, generator=generator) < 0.5
        columns = torch.where(flipped, columns.flip(1), columns)
    padding = (0, 0, CROP_PADDING, CROP_PADDING, CROP_PADDING, CROP_PADDING)
    padded = F.pad(pixels, padding)
    image = torch.arange(n, device=pixels.device)[:, None, None]
    return padded[image, rows.to(pixels.device)[:, :, None], columns.to(pixels.device)[:, None, :]]


def _resized_crops(pixels: Tensor, mirror: bool, generator: torch.Generator) -> Tensor:
    n, height, width, channels = pixels.shape
    area, ratio, left, top, flip = torch.rand(5, n, generator=generator)
    area = CROP_AREA[0] + (CROP_AREA[1] - CROP_AREA[0]) * area
    stretch = (CROP_RATIO ** (2 * ratio - 1)).sqrt()
    wide, high = (area.sqrt() * stretch).clamp(max=1), (area.sqrt() / stretch).clamp(max=1)  # shares of the image
    # A crop's pixel at x, from -1 to 1, is the image's at scale * x + middle.
    middle = [(2 * place - 1) * (1 - share) for place, share in ((left, wide), (top, high))]
    if mirror:
        wide = torch.where(flip < 0.5, -wide, wide)
    zeros = torch.zeros(n)
    rows = torch.stack([torch.stack([wide, zeros, middle[0]], 1), torch.stack([zeros, high, middle[1]], 1)], 1)
    grid = F.affine_grid(rows.to(pixels.device), [n, channels, height, width], align_corners=False)
    images = pixels.permute(0, 3, 1, 2).float()
    cropped = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return cropped.round().to(torch.uint8).permute(0, 2, 3, 1)
