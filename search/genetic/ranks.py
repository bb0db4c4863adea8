"""Outputs as small integers that decide the same: on an image, how many modules of the label's class one matches.

An ensemble is right on an image if its module of the label's class has the largest output. So all that counts of
another class's output is its place among those of the label's class, a number from 0 to the population's size.
"""

from collections.abc import Sequence

import numpy as np
import torch


def output_levels(outputs: Sequence[np.ndarray], labels: np.ndarray) -> list[np.ndarray]:
    """Per class c the levels (classes, population, own) on the images of class c, in their order.

    A module of c beats a module of another class there, as argmax over the classes has it (equal outputs go to the
    lower class), if and only if its level is greater; so it beats several where it is above the largest of their
    levels. Levels of c's own modules are 1 at the least. Unsigned bytes for a population of up to 255, else int32.

    Args:
        outputs: per class (population, n) float32.
        labels: (n,) the images' classes.
    """
    num_classes, population = len(outputs), len(outputs[0])
    kind = np.uint8 if population <= np.iinfo(np.uint8).max else np.int32
    levels = []
    for label in range(num_classes):
        own = np.flatnonzero(labels == label)
        rows = torch.from_numpy(np.concatenate([chosen[:, own].T for chosen in outputs], axis=1))
        rivals = rows[:, label * population : (label + 1) * population].sort(dim=1).values  # (own, population)
        # A lower class beats a module of c with the same output already, a higher class does not.
        lower, higher = rows.split(((label + 1) * population, (num_classes - label - 1) * population), dim=1)
        matched = [
            torch.searchsorted(rivals, part.contiguous(), right=matches_equal, out_int32=True)
            for part, matches_equal in ((lower, True), (higher, False))
        ]
        by_image = torch.cat(matched, dim=1).numpy().astype(kind)  # (own, classes x population)
        levels.append(np.ascontiguousarray(by_image.T).reshape(num_classes, population, len(own)))
    return levels
