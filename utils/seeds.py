"""Random generators that depend on what they are for, and on nothing that ran before."""

import zlib

import numpy as np


def generator(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
    """The generator of one purpose, for example `generator(seed, "next generation", target_class, generation)`.

    A purpose always comes with as many numbers: NumPy takes a missing last number for a 0.
    """
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), *numbers])


def torch_seed(seed: int, purpose: str, *numbers: int) -> int:
    """A seed for torch's generators, by the same rule."""
    return int(generator(seed, purpose, *numbers).integers(2**63 - 1))
