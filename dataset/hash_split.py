"""Which images are held out: a property of each image, so that adding images moves none of the others."""

from hashlib import blake2b

import numpy as np

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

    Adding images never holds out one that was not, but for a class all of whose hashes lay in the lowest fifth.

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
