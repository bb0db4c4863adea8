"""A test part for images that have none."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

import global_configure
from dataset.class_folders import PARTS, find_classes, listed
from dataset.file_trees import open_tree
from dataset.image_hashes import hash_again, hash_of, held_out, was_held_out
from utils.errors import UserError, reason
from utils.files import write_whole
from utils.progress import progress


def split_images(source: Path, target: Path, *, with_valid: bool = False) -> dict[str, dict[str, int]]:
    """Write a zip file PART/CLASS/IMAGE of the images CLASS/IMAGE in a folder or a zip file.

    One in five images of each class is for testing; which, depends on its content alone (`held_out`). Images from which
    some were held out before, such as the training images that this function wrote, are split by other hashes.

    Args:
        source: the images; they stay as they are.
        target: the zip file.
        with_valid: whether one in five of the others is for validation.

    Returns:
        Per class how many images each part has.

    Raises:
        UserError: a file cannot be read, or a class has fewer different images than there are parts.
    """
    found = find_classes(source)
    images = [(label, name, in_class) for label, names in enumerate(found.values()) for name, in_class in names.items()]
    labels = np.array([label for label, _, _ in images])
    with open_tree(source) as read:

        def content(name: str) -> bytes:
            try:
                return read(name)
            except (OSError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile) as error:
                raise UserError(f"{source}: cannot read {name}: {reason(error)}; repair or remove it") from None

        seed = global_configure.split_seed
        hashes = [hash_of(content(name), seed) for _, name, _ in progress(images, f"hashing {source.name}, images")]
        part_of = _parts(np.array(hashes, np.uint64), labels, ("test", "valid") if with_valid else ("test",))
        parts = [part for part in PARTS if part in part_of]
        counts = {
            name: {part: int((part_of[labels == label] == part).sum()) for part in parts}
            for label, name in enumerate(found)
        }
        if small := [name for name, of_parts in counts.items() if not all(of_parts.values())]:
            wanted = f"expected at least {2 + with_valid} different images of a class, and better 50"
            raise UserError(f"{source}: {wanted}; add some to {listed(small)}")

        def write(file: BinaryIO) -> None:
            with zipfile.ZipFile(file, "w") as archive:
                copied = progress(images, f"copying {source.name}, images")
                classes = list(found)
                for (label, name, in_class), part in zip(copied, part_of, strict=True):
                    archive.writestr(f"{part}/{classes[label]}/{in_class}", content(name))

        write_whole(target, write)
    return counts


def _parts(hashes: np.ndarray, labels: np.ndarray, held: Sequence[str]) -> np.ndarray:
    """The part (n,) of each image: `train`, or one of those that are held out one after the other."""
    part_of = np.full(len(hashes), "train")
    for part in held:
        left = part_of == "train"
        while was_held_out(hashes[left]):
            hashes = hash_again(hashes)
        part_of[np.flatnonzero(left)[held_out(hashes[left], labels[left])]] = part
        hashes = hash_again(hashes)
    return part_of
