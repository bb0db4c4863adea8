"""Pixels to network input, as tensors and on the device: normalising and augmenting whole batches at once."""

import torch
from torch import Tensor

from dataset.labelled_images import Images, Normalisation

CROP_PADDING = 4  # pixels


def to_device(images: Images, device: torch.device) -> tuple[Tensor, Tensor]:
    """Pixels (n, side, side, 3) uint8 and labels (n,) int64 as tensors on the device."""
    return torch.tensor(images.pixels, device=device), torch.tensor(images.labels, device=device)


def normalise(pixels: Tensor, normalisation: Normalisation | None, dtype: torch.dtype = torch.float32) -> Tensor:
    """The input that a network expects, in the channels-last layout that convolutions prefer.

    Args:
        pixels: (n, side, side, 3) uint8; without a normalisation (n, side, side, channels) float.
        normalisation: of the images that the network was trained on; None = the pixels are normalised. It has no
            default: another one gives wrong answers without an error.
        dtype: of the result.

    Returns:
        (n, channels, side, side) in `dtype`.
    """
    if normalisation is None:
        return pixels.to(dtype).permute(0, 3, 1, 2)
    mean, std = (torch.tensor(values, device=pixels.device) * 255 for values in normalisation)
    return ((pixels.float() - mean) / std).to(dtype).permute(0, 3, 1, 2)


def augment(pixels: Tensor, *, mirror: bool, generator: torch.Generator) -> Tensor:
    """A random crop, as large, of each image padded by 4 black pixels and, with `mirror`, a flip of half of them.

    Args:
        pixels: (n, side, side, 3) uint8.
        mirror: whether to flip.
        generator: on the CPU, so that every device draws the same.
    """
    n, height, width, _ = pixels.shape
    shift = torch.randint(0, 2 * CROP_PADDING + 1, (2, n, 1), generator=generator)
    rows, columns = shift[0] + torch.arange(height), shift[1] + torch.arange(width)
    if mirror:
        flipped = torch.rand(n, 1, generator=generator) < 0.5
        columns = torch.where(flipped, columns.flip(1), columns)
    padding = (0, 0, CROP_PADDING, CROP_PADDING, CROP_PADDING, CROP_PADDING)
    padded = torch.nn.functional.pad(pixels, padding)
    image = torch.arange(n, device=pixels.device)[:, None, None]
    return padded[image, rows.to(pixels.device)[:, :, None], columns.to(pixels.device)[:, None, :]]
