"""Which images are held out: a property of each image, so that adding images moves none of the others."""

from hashlib import blake2b

import numpy as np

SHARE = 0.2  # of the images are held out


def hash_of(content: bytes, seed: int) -> int:
    """A hash of 64 bits; equal contents have equal ones, and another seed gives others."""
    return int.from_bytes(blake2b(content, digest_size=8, key=str(seed).encode()).digest(), "big")


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
    chosen = hashes < np.uint64(int(SHARE * 2**64))
    for label in np.unique(labels):
        if not chosen[labels == label].any():
            chosen |= hashes == hashes[labels == label].min()
    for label in np.unique(labels):
        if chosen[labels == label].all():
            chosen &= hashes != hashes[labels == label].max()
    return chosen
