"""A test part for images that have none."""

import zipfile
from pathlib import Path
from typing import BinaryIO

import numpy as np

import global_configure
from dataset.class_folders import find_classes
from dataset.file_trees import open_tree
from dataset.hash_split import hash_of, held_out
from utils.errors import UserError, reason
from utils.files import write_whole
from utils.progress import progress


def split_images(source: Path, target: Path) -> dict[str, tuple[int, int]]:
    """Write a zip file {train,test}/CLASS/IMAGE of the images CLASS/IMAGE in a folder or a zip file.

    One in five images of each class is for testing; which, depends on its content alone (`held_out`). Returns how many
    of each class are for training and for testing. Raises UserError where a file cannot be read, or a class has fewer
    than two different images.
    """
    found = find_classes(source)
    classes = list(found)
    images = [(label, name, in_class) for label, names in enumerate(found.values()) for name, in_class in names.items()]
    labels = np.array([label for label, _, _ in images])
    with open_tree(source) as read:

        def content(name: str) -> bytes:
            try:
                return read(name)
            except (OSError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile) as error:
                raise UserError(f"{source}: cannot read {name}: {reason(error)}; mend or remove it") from None

        seed = global_configure.split_seed
        hashes = [hash_of(content(name), seed) for _, name, _ in progress(images, f"hashing {source.name}, images")]
        is_test = held_out(np.array(hashes, np.uint64), labels)
        counts = {
            name: (int((labels == label)[~is_test].sum()), int((labels == label)[is_test].sum()))
            for label, name in enumerate(classes)
        }
        if small := [name for name, both in counts.items() if not all(both)]:
            wanted = "expected at least 2 different images of a class, and better 50"
            raise UserError(f"{source}: {wanted}; add some to {', '.join(small)}")

        def write(file: BinaryIO) -> None:
            with zipfile.ZipFile(file, "w") as archive:
                copied = progress(images, f"copying {source.name}, images")
                for (label, name, in_class), test in zip(copied, is_test, strict=True):
                    part = "test" if test else "train"
                    archive.writestr(f"{part}/{classes[label]}/{in_class}", content(name))

        write_whole(target, write)
    return counts
