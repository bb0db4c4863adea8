"""The order in which a network was given the images of a published dataset, told by what they show.

Such a dataset is split by the places of its images. The same images stand elsewhere in a folder than in torchvision's
files, and so would be split otherwise; a network that comes with this order is given its own split of both.
"""

from dataclasses import dataclass

import numpy as np

import global_configure
from dataset.hash_split import hash_of


def hashes_of(pixels: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """A hash of each image with its label: (n, side, side, 3) uint8 and (n,) int64 to (n,) uint64."""
    seed = global_configure.split_seed
    pairs = zip(pixels, labels, strict=True)
    return np.array([hash_of(image.tobytes() + label.tobytes(), seed) for image, label in pairs], np.uint64)


@dataclass(frozen=True)
class ImageOrder:
    """The images of a split.

    Attributes:
        hashes: (n,) uint64, of all of them, part by part in their order.
        counts: how many there are for training, for validation and for testing.
    """

    hashes: np.ndarray
    counts: tuple[int, int, int]

    def places(self, train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Where the images of each part stand: two among those of `train`, the last among those of `test`.

        Args:
            train, test: (n,) uint64, the hashes of a dataset's images in its own order.

        Returns None where they are not the same images.
        """
        num_train, num_valid, _ = self.counts
        of_train, of_test = np.split(self.hashes, [num_train + num_valid])
        places, places_of_test = places_of(of_train, train), places_of(of_test, test)
        if places is None or places_of_test is None:
            return None
        return places[:num_train], places[num_train:], places_of_test


def places_of(wanted: np.ndarray, found: np.ndarray) -> np.ndarray | None:
    """The places (n,) int64 for which `found[places]` is `wanted`, each once; None where there are none."""
    by_value, as_wanted = np.argsort(found, kind="stable"), np.argsort(wanted, kind="stable")
    if not np.array_equal(found[by_value], wanted[as_wanted]):
        return None
    places = np.empty(len(wanted), np.int64)
    places[as_wanted] = by_value
    return places
