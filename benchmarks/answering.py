"""A task that takes as long as it is told and answers as much as it is told, to measure what an engine costs."""

import time

import numpy as np


def answer(seconds: float, num_bytes: int) -> np.ndarray:
    """Bytes (num_bytes,), after some seconds."""
    time.sleep(seconds)
    return np.zeros(num_bytes, np.uint8)
