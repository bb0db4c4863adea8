"""Published datasets by their own readers: scikit-learn's digits; CIFAR and SVHN by torchvision, with a download."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

import global_configure
from dataset.image_files import SIDE, resize_array

DIGITS = tuple("0123456789")
DIGITS_TEST_SHARE = 5  # one of so many of scikit-learn's digits is for testing

# The classes, and of the training and of the test part the pixels (n, side, side, 3) uint8 and the labels (n,) int64.
Arrays = tuple[tuple[str, ...], list[tuple[np.ndarray, np.ndarray]]]


def read_digits(side: int = SIDE) -> Arrays:
    """scikit-learn's 1,797 digits, 8x8 in 17 grey levels, enlarged to RGB; one in five is for testing."""
    from sklearn.datasets import load_digits  # half a second that only this dataset needs

    digits = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    large = [Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC) for image in grey]
    pixels = np.repeat(np.stack([np.asarray(image) for image in large])[..., None], 3, axis=-1)
    labels = digits.target.astype(np.int64)
    order = np.random.default_rng(global_configure.split_seed).permutation(len(labels))
    test, train = np.split(order, [len(labels) // DIGITS_TEST_SHARE])
    return DIGITS, [(pixels[part], labels[part]) for part in (train, test)]


def resized(arrays: Arrays, side: int) -> Arrays:
    """The same images with another number of pixels a side."""
    classes, parts = arrays
    return classes, [(np.stack([resize_array(image, side) for image in pixels]), labels) for pixels, labels in parts]


def _read_cifar(kind: str, dataset_dir: Path, download: bool) -> Arrays:
    import torchvision  # as long to import as torch itself

    reader = getattr(torchvision.datasets, kind)
    with warnings.catch_warnings():
        # torchvision unpacks an archive, whose checksum is right, without the filter that Python 3.12 and 3.13 want.
        warnings.filterwarnings("ignore", "Python 3.14 will, by default, filter extracted tar", DeprecationWarning)
        train, test = (reader(dataset_dir, train=part, download=download) for part in (True, False))
    return tuple(train.classes), [(part.data, np.array(part.targets, np.int64)) for part in (train, test)]


def _read_svhn(dataset_dir: Path, download: bool) -> Arrays:
    import torchvision

    parts = (torchvision.datasets.SVHN(dataset_dir, part, download=download) for part in ("train", "test"))
    return DIGITS, [(part.data.transpose(0, 2, 3, 1), part.labels.astype(np.int64)) for part in parts]


# torchvision unpickles CIFAR's files only after comparing their MD5 with the published one.
TORCHVISION_READERS: dict[str, Callable[[Path, bool], Arrays]] = {
    "cifar10": lambda folder, download: _read_cifar("CIFAR10", folder, download),
    "cifar100": lambda folder, download: _read_cifar("CIFAR100", folder, download),
    "svhn": _read_svhn,
}
OFFICIAL_FILES = {
    "cifar10": ("cifar-10-batches-py", "cifar-10-python.tar.gz"),
    "cifar100": ("cifar-100-python", "cifar-100-python.tar.gz"),
    "svhn": ("train_32x32.mat", "test_32x32.mat"),
}
