"""The images of each step of a search: a function of the step's number, and so the same in every process."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dataset.images import Crop, Normalisation, augment, normalise
from utils.seeds import torch_seed


@dataclass(frozen=True)
class StepBatches:
    """Training images, from which each step draws its own, from all classes alike.

    Attributes:
        pixels, labels: (n, side, side, 3) uint8 and (n,) int64 training images, on the device.
        batch_size: images of a step, if that many exist.
        mirror: whether the augmentation includes flips.
        crop: the kind of its crops.
        seed: of the search.
        dtype: the precision of the search.
        normalisation: of the images; None = they are normalised, and not augmented, because padding is black pixels.
    """

    pixels: Tensor
    labels: Tensor
    batch_size: int
    mirror: bool
    crop: Crop
    seed: int
    dtype: torch.dtype
    normalisation: Normalisation | None

    def of_step(self, step: int) -> tuple[Tensor, Tensor]:
        """A step's images (batch, 3, side, side), augmented and normalised, and their labels (batch,)."""
        generator = torch.Generator().manual_seed(torch_seed(self.seed, "mask batch", step))
        chosen = torch.randperm(len(self.labels), generator=generator)[: self.batch_size].to(self.pixels.device)
        images = self.pixels[chosen]
        if self.normalisation is not None:
            images = augment(images, mirror=self.mirror, generator=generator, crop=self.crop)
        return normalise(images, self.normalisation, self.dtype), self.labels[chosen]

    def signs_of_step(self, step: int, shape: Sequence[int]) -> Tensor:
        """-1 and 1 at random, of a shape, for the logits of a step."""
        generator = torch.Generator().manual_seed(torch_seed(self.seed, "signs", step))
        signs = torch.randint(2, tuple(shape), generator=generator) * 2 - 1
        return signs.to(self.pixels.device)
