"""Images from a tree `{train,test}/CLASS/IMAGE`, in a folder or a zip file: any data set that a user brings.

Nothing is unpacked. Names that lead out of the tree and images that are absurdly large are refused, so that a data set
from a stranger can be tried.
"""

import hashlib
import io
import os
import warnings
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image
from tqdm import tqdm

from utils.errors import UserError

SIDE = 32  # pixels
PARTS = ("train", "test")
MAX_PIXELS = 64 * 1024 * 1024  # of one image
# What Pillow may take a file for: not EPS, for which it starts Ghostscript.
IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MAX_FILE_BYTES = 256 * 1024 * 1024  # of one image file


@dataclass(frozen=True)
class ClassFolders:
    """A tree of images: the classes, and per part one (name, label) per image, in the order of the names."""

    path: Path
    classes: tuple[str, ...]
    images: dict[str, list[tuple[str, int]]]
    fingerprint: str  # changes when an image is added, removed or changed


def find_class_folders(dataset_dir: Path, name: str) -> ClassFolders | None:
    """The tree `name/` or `name.zip` in `dataset_dir`, or None. Raises UserError where its classes do not fit."""
    folder, archive = dataset_dir / name, dataset_dir / f"{name}.zip"
    if folder.is_dir():
        path, entries = folder, _folder_entries(folder)
    elif archive.is_file():
        path, entries = archive, _archive_entries(archive)
    else:
        return None
    found: dict[str, dict[str, list[str]]] = {part: {} for part in PARTS}
    digest = hashlib.sha256()
    for name_in_tree, is_image, stamp in sorted(entries):
        parts = PurePosixPath(name_in_tree).parts
        if parts[0] not in PARTS or any(part.startswith((".", "__")) for part in parts):
            continue
        if is_image and len(parts) == 3:
            found[parts[0]].setdefault(parts[1], []).append(name_in_tree)
            digest.update(f"{name_in_tree}\0{stamp}\n".encode(errors="surrogateescape"))
        elif not is_image and len(parts) == 2:
            found[parts[0]].setdefault(parts[1], [])
    classes = _check_classes(path, found)
    label = {name: number for number, name in enumerate(classes)}
    images = {part: [(n, label[c]) for c in classes for n in found[part][c]] for part in PARTS}
    return ClassFolders(path, classes, images, digest.hexdigest())


def _folder_entries(folder: Path) -> Iterator[tuple[str, bool, str]]:
    inside = folder.resolve()
    for current, folders, names in os.walk(folder):  # does not follow links to folders
        for name in [*folders, *names]:
            path = Path(current, name)
            if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(inside):
                raise UserError(f"{path} is a link out of {folder}: expected images and folders; copy its target there")
            if not path.is_dir() and not path.is_file():  # a pipe would be waited for without end
                raise UserError(f"{path} is not a file: expected images and folders; remove it")
        relative = Path(current).relative_to(folder)
        yield from ((str(PurePosixPath(relative, name)), False, "") for name in folders)
        for name in names:
            status = Path(current, name).stat()
            yield str(PurePosixPath(relative, name)), True, f"{status.st_size} {status.st_mtime_ns}"


def _archive_entries(archive: Path) -> Iterator[tuple[str, bool, str]]:
    try:
        with zipfile.ZipFile(archive) as opened:
            infos = opened.infolist()
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as error:
        raise UserError(f"{archive} is not a zip file that opens: {error}; make it again") from None
    for info in infos:
        path = PurePosixPath(info.filename)
        if path.is_absolute() or ".." in path.parts or "\\" in info.filename:
            raise UserError(
                f"{archive}: the name {info.filename!r} leads out of it: expected {{train,test}}/CLASS/IMAGE"
            )
        if path.parts:
            yield info.filename.rstrip("/"), not info.is_dir(), f"{info.file_size} {info.CRC}"


def _check_classes(path: Path, found: dict[str, dict[str, list[str]]]) -> tuple[str, ...]:
    names = set(found["train"]) | set(found["test"])
    if not names:
        raise UserError(f"{path}: expected images as {{train,test}}/CLASS/IMAGE, found none")
    for part in PARTS:
        for name in sorted(names):
            if not found[part].get(name):
                state = "is empty" if name in found[part] else "is missing"
                raise UserError(
                    f"{path}: class {part}/{name} {state}: expected the same classes, with images, in train and test"
                )
    if all(name.isdecimal() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def decode(tree: ClassFolders, part: str) -> tuple[np.ndarray, np.ndarray]:
    """All images of a part as (n, 32, 32, 3) uint8 RGB and their labels (n,) int64.

    Raises UserError naming the first image that is broken or too large.
    """
    names, labels = zip(*tree.images[part], strict=True)
    archive = None if tree.path.is_dir() else zipfile.ZipFile(tree.path)

    def read(name: str) -> bytes:
        if archive is None:
            path = tree.path / name
            _check_size(path.stat().st_size)
            return path.read_bytes()
        _check_size(archive.getinfo(name).file_size)
        return archive.read(name)

    pixels = np.empty((len(names), SIDE, SIDE, 3), np.uint8)
    try:
        with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
            warnings.simplefilter("ignore")  # Pillow's remarks on images that it reads all the same
            decoded = pool.map(lambda name: _decode_named(tree.path, name, read), names)
            progress = tqdm(decoded, f"{tree.path.name} {part}", len(names), unit="images", disable=None, leave=False)
            for number, image in enumerate(progress):
                pixels[number] = image
    finally:
        if archive is not None:
            archive.close()
    return pixels, np.array(labels, np.int64)


def _decode_named(path: Path, name: str, read: Callable[[str], bytes]) -> np.ndarray:
    try:
        return decode_image(read(name))
    except Exception as error:  # Pillow's decoders raise many kinds of errors for a broken file
        raise UserError(f"{path}: cannot read image {name}: {error}; mend or remove it") from None


def _check_size(num_bytes: int) -> None:
    if num_bytes > MAX_FILE_BYTES:
        raise ValueError(f"{num_bytes} bytes, expected at most {MAX_FILE_BYTES}")


def decode_image(content: bytes) -> np.ndarray:
    """One encoded image as (32, 32, 3) uint8: grey becomes RGB, another size is resized (bilinear).

    Transparency is left out. Grey of 16 bits loses its lower 8; Pillow's own conversion would clip it to white.
    Raises ValueError or one of Pillow's errors for content that is no image or announces too many pixels.
    """
    image = Image.open(io.BytesIO(content), formats=IMAGE_FORMATS)
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels, expected at most {MAX_PIXELS} in all")
    if image.mode.startswith("I"):
        grey = np.asarray(image)
        if grey.min() < 0 or grey.max() > 0xFFFF:
            raise ValueError(f"grey values from {grey.min()} to {grey.max()}, expected 8 or 16 bits")
        image = Image.fromarray((grey >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("floating-point values, expected 8 or 16 bits")
    image = image.convert("RGB")
    if image.size != (SIDE, SIDE):
        image = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return np.asarray(image)
