"""Which images a step of the search takes: a function of its number, so that anybody can tell, also later."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from dataset.images import augment, normalise
from dataset.labelled_images import Normalisation
from utils.seeds import torch_seed


@dataclass(frozen=True)
class StepBatches:
    """What steps take their images and labels from, on the device.

    Attributes:
        pixels, labels: (n, side, side, 3) uint8 and (n,) int64 training images.
        choose: the places of so many images of these labels, on the CPU, by a generator: see `Goal.choose`.
        batch_size, mirror, seed, dtype, normalisation: see `batch_of_step`.
    """

    pixels: Tensor
    labels: Tensor
    choose: Callable[[Tensor, int, torch.Generator], Tensor]
    batch_size: int
    mirror: bool
    seed: int
    dtype: torch.dtype
    normalisation: Normalisation | None

    def of_step(self, step: int) -> tuple[Tensor, Tensor]:
        """A step's images (batch, 3, side, side), augmented and normalised, and their labels (batch,)."""
        images, chosen = batch_of_step(
            self.pixels,
            step,
            choose=partial(self.choose, self.labels),
            batch_size=self.batch_size,
            mirror=self.mirror,
            seed=self.seed,
            dtype=self.dtype,
            normalisation=self.normalisation,
        )
        return images, self.labels[chosen]


def batch_of_step(
    pixels: Tensor,
    step: int,
    *,
    choose: Callable[[int, torch.Generator], Tensor],
    batch_size: int,
    mirror: bool,
    seed: int,
    dtype: torch.dtype,
    normalisation: Normalisation | None,
) -> tuple[Tensor, Tensor]:
    """A step's images (batch, 3, side, side), augmented and normalised, and their places (batch,) among the `pixels`.

    Args:
        pixels: (n, side, side, 3) uint8 training images.
        step: its number.
        choose: the places of so many images, on the CPU, by a generator.
        batch_size: images of a step, where there are so many.
        mirror: whether flips are part of the augmentation.
        seed: of the search.
        dtype: the precision of the search.
        normalisation: of the images; None = they are normalised, and taken as they are: the padding is black pixels.
    """
    generator = torch.Generator().manual_seed(torch_seed(seed, "mask batch", step))
    size = min(batch_size, len(pixels))
    chosen = choose(size, generator).to(pixels.device)
    images = pixels[chosen]
    if normalisation is not None:
        images = augment(images, mirror=mirror, generator=generator)
    return normalise(images, normalisation, dtype), chosen


def any_of(count: int, size: int, generator: torch.Generator) -> Tensor:
    """The places (size,) of so many of `count` images, all alike."""
    return torch.randperm(count, generator=generator)[:size]
