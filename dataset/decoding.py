"""All images of a tree as arrays, read by as many threads as there are cores."""

import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from dataset.class_folders import ClassFolders, listed
from dataset.file_trees import open_tree
from dataset.image_files import FORMATS, SIDE, DecodedImage, Resize, decode_image, grey_to_rgb
from utils.errors import UserError, reason
from utils.progress import progress

LEAST_BITS_OF_COLOUR = 15  # of 16; Pillow keeps the upper 8, of which fewer would be left


@dataclass(frozen=True)
class DecodedTree:
    """The pixels (n, side, side, 3) uint8 RGB and labels (n,) int64 of every part."""

    parts: dict[str, tuple[np.ndarray, np.ndarray]]
    grey_bits: int  # that the largest value of all grey images of 16 bits needs; their values were scaled from it to 8


def decode(tree: ClassFolders, side: int = SIDE, resize: Resize = "stretch") -> DecodedTree:
    """All images of a tree. Raises UserError naming those that are broken, too large, or without a stated range."""
    parts: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    deep: list[tuple[np.ndarray, DecodedImage]] = []  # grey images of 16 bits, and where their pixels belong
    colour_bits: set[int] = set()
    broken: list[str] = []
    with open_tree(tree.path) as read, warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.simplefilter("ignore")  # Pillow's remarks on images that it reads all the same
        for part, images in tree.images.items():
            names = [name for name, _ in images]
            pixels = np.empty((len(images), side, side, 3), np.uint8)
            decoded = pool.map(lambda name: _decode_named(name, read, side, resize), names)
            counted = progress(decoded, f"{tree.path.name} {part}, images", len(names))
            for place, image in zip(pixels, counted, strict=True):
                if isinstance(image, str):
                    broken.append(image)
                elif image.is_deep_grey:
                    deep.append((place, image))
                else:
                    place[:] = image.pixels
                    colour_bits |= {image.bits} - {None}
            parts[part] = pixels, np.array([label for _, label in images], np.int64)
    if broken:
        what, them = ("image", "it") if len(broken) == 1 else (f"{len(broken):,} images:", "them")
        names, formats = listed(broken, "; "), ", ".join(FORMATS)
        raise UserError(f"{tree.path}: cannot read {what} {names}; mend or remove {them} (read are {formats})")
    if colour_bits and max(colour_bits) < LEAST_BITS_OF_COLOUR:
        raise UserError(
            f"{tree.path}: colour images of 16 bits hold only {max(colour_bits)} bits, and would be nearly black: "
            "expected values up to 65535; scale them, or save them with 8 bits"
        )
    grey_bits = max([8, *(image.bits for _, image in deep)])
    for place, image in deep:
        place[:] = grey_to_rgb(image.pixels, grey_bits)
    return DecodedTree(parts, grey_bits)


def _decode_named(
    name: str, read: Callable[[str], bytes], side: int = SIDE, resize: Resize = "stretch"
) -> DecodedImage | str:
    """An image, or its name with the reason why it cannot be read."""
    try:
        return decode_image(read(name), side, resize)
    except Exception as error:  # Pillow's decoders raise many kinds of errors for a broken file
        return f"{name}: {reason(error)}"
