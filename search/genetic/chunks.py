"""The modules of a generation in chunks for workers: large ones first, small ones last, by what each is to cost.

Guided self-scheduling (Polychronopoulos and Kuck, IEEE Transactions on Computers 36(12), 1987): a chunk is a share of
what is left. Few chunks keep in common what modules share; small ones at the end let all workers finish together.
"""

import numpy as np

FEW_MODULES = 2  # a worker: below, the images are cut, too
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


def image_blocks(seconds: np.ndarray, workers: int) -> int:
    """How many blocks to cut the images into: 1, unless modules (modules,) are long and too few for so many workers."""
    wanted = -(-FEW_MODULES * workers // max(1, len(seconds)))
    return int(np.clip(seconds.sum() / max(1e-9, LEAST_SECONDS * len(seconds)), 1, max(1, wanted)))


def block_chunks(seconds: np.ndarray, workers: int, blocks: int) -> list[tuple[int, slice]]:
    """Chunks of modules that cost `seconds` (modules,) on all images, each with the number of its block of images."""
    chunks, count = [], len(seconds)
    for chunk in guided_chunks(np.tile(seconds / blocks, blocks), workers):
        for block in range(chunk.start // count, (chunk.stop - 1) // count + 1):
            first = block * count
            chunks.append((block, slice(max(chunk.start - first, 0), min(chunk.stop - first, count))))
    return chunks


class ModuleCosts:
    """What a module of each class costs: seconds for each unit that it keeps, as measured in the last chunks."""

    def __init__(self, num_classes: int, seconds_per_unit: float) -> None:
        self._per_unit = np.full(num_classes, seconds_per_unit)
        self._measured, self._expected = np.zeros(num_classes), np.zeros(num_classes)

    def of(self, unit_masks: np.ndarray, target_classes: np.ndarray) -> np.ndarray:
        """Seconds (modules,) that masks (modules, U) of these classes (modules,) are to take."""
        seconds: np.ndarray = self._per_unit[target_classes] * unit_masks.sum(1)
        return seconds

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
