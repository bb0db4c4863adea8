"""Images told by what they show: which are held out, and in which order a network was given them.

That an image is held out is a property of its own, so that adding images moves none of the others. A published dataset
is split by the places of its images. The same images stand elsewhere in a folder than in torchvision's files, and so
would be split otherwise; a network that comes with its order is given its own split of both.
"""

from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

import global_configure
from dataset.images import Images
from dataset.pixels import PixelsOnDisk

SHARE = 0.2  # of the images are held out
SURELY_FEW = 1e-3  # the chance that so few of some images are held out that were never split
_BOUND = np.uint64(int(SHARE * 2**64))


def hash_of(content: bytes, seed: int) -> int:
    """A hash of 64 bits; equal contents have equal ones, and another seed gives others."""
    return int.from_bytes(blake2b(content, digest_size=8, key=str(seed).encode()).digest(), "big")


def hash_again(hashes: np.ndarray) -> np.ndarray:
    """Other hashes of the same contents, (n,) uint64, equal where these are: to hold out a part of what was not."""
    return np.array([hash_of(int(each).to_bytes(8, "big"), 0) for each in hashes], np.uint64)


def was_held_out(hashes: np.ndarray) -> bool:
    """Whether so few of the contents lie in the lowest fifth that they must have been held out from these before."""
    from scipy.stats import binom  # a second that the strong model's split does not need

    different = np.unique(hashes)
    return bool(binom.cdf((different < _BOUND).sum(), len(different), SHARE) < SURELY_FEW)


def held_out(hashes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Which images are held out, (n,) bool: of every class about one in five.

    An image is held out where its hash is in the lowest fifth of all numbers of 64 bits. Of a class that has none
    there, the image of the lowest hash is; of a class that has no other, the one of the highest is not. Images with
    equal hashes always go together. A class whose images all have one hash stays on one side.

    Adding images never holds out one that was not, but for a class all of whose hashes lay in the lowest fifth. One
    that is held out because its class had none there may go back when another image is in the lowest fifth.

    Args:
        hashes: (n,) uint64.
        labels: (n,) int64.
    """
    chosen = hashes < _BOUND
    for label in np.unique(labels):
        if not chosen[labels == label].any():
            chosen |= hashes == hashes[labels == label].min()
    for label in np.unique(labels):
        if chosen[labels == label].all():
            chosen &= hashes != hashes[labels == label].max()
    return chosen


def hashes_of(images: Images, *, with_labels: bool) -> np.ndarray:
    """A hash (n,) uint64 of each image, and of its label where that counts."""
    if isinstance(images.pixels, PixelsOnDisk) and not with_labels:
        return images.pixels.hashes[images.pixels.places]
    labels = (label.tobytes() if with_labels else b"" for label in images.labels)
    seed, pixels = global_configure.split_seed, images.pixels
    return np.array([hash_of(pixels[at].tobytes() + label, seed) for at, label in enumerate(labels)], np.uint64)


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
