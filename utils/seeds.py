"""Random generators, one per purpose, so that no draw depends on earlier draws for other purposes."""

import zlib

import numpy as np


def generator(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
    """The generator of one purpose, for example `generator(seed, "next generation", target_class, generation)`.

    Give a purpose the same count of numbers everywhere: NumPy takes a missing last number for a 0.
    """
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), *numbers])


def torch_seed(seed: int, purpose: str, *numbers: int) -> int:
    """A seed for torch's generators, from the same generator."""
    return int(generator(seed, purpose, *numbers).integers(2**63 - 1))
