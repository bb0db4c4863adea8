"""The modules of a generation in chunks for workers: large ones first, small ones last, by what each is to cost.

Guided self-scheduling (Polychronopoulos and Kuck, IEEE Transactions on Computers 36(12), 1987): a chunk is a share of
what is left. Few chunks keep in common what modules share; small ones at the end let all workers finish together.
"""

import numpy as np

LEAST_SECONDS = 0.2  # of a chunk: many times what a task costs beside its work


def guided_chunks(seconds: np.ndarray, workers: int) -> list[slice]:
    """Consecutive chunks of modules that cost `seconds` (modules,) each: a 1 / (2 workers) of what is left, or more."""
    ends, chunks, start = np.cumsum(seconds), [], 0
    while start < len(seconds):
        done = ends[start - 1] if start else 0.0
        share = max((ends[-1] - done) / (2 * max(1, workers)), LEAST_SECONDS)
        end = max(start + 1, int(np.searchsorted(ends, done + share, "right")))
        chunks.append(slice(start, end))
        start = end
    return chunks


class ModuleCosts:
    """What a module of each class costs: seconds for each unit that it keeps, as measured in the last chunks."""

    def __init__(self, num_classes: int, seconds_per_unit: float) -> None:
        self._per_unit = np.full(num_classes, seconds_per_unit)
        self._measured, self._expected = np.zeros(num_classes), np.zeros(num_classes)

    def of(self, unit_masks: np.ndarray, target_classes: np.ndarray) -> np.ndarray:
        """Seconds (modules,) that masks (modules, U) of these classes (modules,) are to take."""
        return self._per_unit[target_classes] * unit_masks.sum(1)

    def measured(self, unit_masks: np.ndarray, target_classes: np.ndarray, seconds: float) -> None:
        """Take note of what a chunk took."""
        expected = self.of(unit_masks, target_classes)
        np.add.at(self._expected, target_classes, expected)
        np.add.at(self._measured, target_classes, expected * (seconds / expected.sum()))

    def learn(self) -> None:
        """Count on what was measured since the last time."""
        known = self._expected > 0
        self._per_unit[known] *= self._measured[known] / self._expected[known]
        self._measured[:], self._expected[:] = 0, 0
