"""From a dataset's name to its pixels: found or downloaded, decoded once, kept as one array on disk, memory-mapped."""

import contextlib
import http.client
import io
import math
import os
import shutil
import tarfile
import tempfile
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

import global_configure
from configures.base import Config
from dataset.class_folders import ClassFolders, describe, find_class_folders, listed
from dataset.file_trees import open_tree
from dataset.image_files import FORMATS, SIDE, DecodedImage, Resize, decode_image, grey_to_rgb
from dataset.image_hashes import hash_of
from dataset.images import Dataset, Images, Normalisation
from dataset.pixels import PixelsOnDisk, is_large, read_images
from dataset.published import OFFICIAL_FILES, TORCHVISION_READERS, Arrays, read_digits, resized
from utils.artifacts import load_json, save_json
from utils.errors import UserError, reason
from utils.files import check_writable, damaged, load_array, remove_leftovers, save_array, stored_digest
from utils.given_places import check_room
from utils.progress import progress, say

PUBLISHED = ("digits", *TORCHVISION_READERS)  # the datasets whose split is the published one
PARTS_OF_PUBLISHED = ["train", "test"]
FACTS_OF_TREES = {"parts", "grey_bits"}  # in a tree's description: which parts there are, and `Decoded.grey_bits`
DECODED_AHEAD = 512  # images that may wait to be put in their place
ABANDONED = 3600.0  # seconds after which a file that no process finished is removed
LEAST_BITS_OF_COLOUR = 15  # of 16; Pillow keeps the upper 8, of which fewer would be left


def load_source(config: Config, name: str) -> Dataset:
    """A dataset as a configuration gives it to networks. Raises UserError as `load_dataset`."""
    return load_dataset(name, config.image_side, config.resize, Normalisation(config.mean, config.std))


def load_dataset(name: str, side: int, resize: Resize, normalisation: Normalisation) -> Dataset:
    """A dataset by its name, decoded on first use.

    digits comes with scikit-learn. Others come from torchvision's own files in `dataset_dir` or `dataset_dir/NAME`,
    else from a tree `{train,test}/CLASS/IMAGE` in `dataset_dir/NAME` or `NAME.zip`, else, if torchvision knows them,
    from a download.

    Args:
        name: of the dataset.
        side: of the images, in pixels.
        resize: how images of other sizes get that side.
        normalisation: how a network is given the images.

    Raises:
        UserError: there is no such dataset, or it cannot be read.
    """
    classes, parts = _open_decoded(_decoded_folder(name, side, resize), side)
    images = {part: Images(*arrays, normalisation) for part, arrays in parts.items()}
    images.setdefault("train", images["test"].take(np.arange(0)))
    return Dataset(name, classes, **images)


def _decoded_folder(name: str, side: int, resize: Resize) -> Path:
    """The folder with the dataset's decoded images, which are as new as their source. Raises UserError."""
    _check_name(name)
    # No dataset's name has an @ in it.
    form = name if (side, resize) == (SIDE, "stretch") else f"{name}@{side}_{resize}"
    folder = Path(global_configure.root_dir) / "data" / "decoded_dataset" / form
    dataset_dir = Path(global_configure.dataset_dir)
    if name == "digits":
        _decode_once(folder, "scikit-learn", lambda: _decoded(read_digits(side)))
        return folder
    if name in TORCHVISION_READERS and _decode_official(name, dataset_dir, folder, side, download=False):
        return folder
    tree = find_class_folders(dataset_dir, name)
    if tree is not None:
        _decode_once(folder, tree.fingerprint, lambda: _decode_tree(name, tree, folder, side, resize))
        return folder
    if (folder / "description.json").exists():  # decoded earlier, its source moved away since
        return folder
    if name in TORCHVISION_READERS and _decode_official(name, dataset_dir, folder, side, download=True):
        return folder
    ways = (
        f"put {dataset_dir / name}.zip or the folder {dataset_dir / name}/ there, with {{train,test}}/CLASS/IMAGE in it"
    )
    if name in TORCHVISION_READERS:
        ways = f"(1) go online and try again; (2) put torchvision's own files into {dataset_dir}; (3) {ways}"
    raise UserError(f"dataset {name} is not there: {ways}")


def outline(name: str, side: int = SIDE, resize: Resize = "stretch") -> tuple[tuple[str, ...], int]:
    """A dataset's classes, and how many training images it has. Images of a tree are counted, not decoded.

    Raises UserError as `load_dataset`.
    """
    _check_name(name)
    tree = None if name in PUBLISHED else find_class_folders(Path(global_configure.dataset_dir), name)
    if tree is not None:
        return tree.classes, len(tree.images.get("train", ()))
    classes, parts = _open_decoded(_decoded_folder(name, side, resize), side)
    return classes, len(parts["train"][1]) if "train" in parts else 0


def _check_name(name: str) -> None:
    if not name.replace("_", "").replace("-", "").isalnum():
        raise UserError(f"dataset name {name!r}: expected letters, digits, _ and -")


@dataclass(frozen=True)
class Decoded:
    """What is kept of a dataset: per part the pixels (n, side, side, 3) uint8 RGB and the labels (n,) int64."""

    classes: tuple[str, ...]
    parts: dict[str, tuple[np.ndarray, np.ndarray]]
    # Of a tree: what the largest value of all grey images of 16 bits needs; their values were scaled from it to 8.
    grey_bits: int | None = None


def _decoded(arrays: Arrays) -> Decoded:
    classes, parts = arrays
    return Decoded(classes, dict(zip(PARTS_OF_PUBLISHED, parts, strict=True)))


def _decode_tree(name: str, tree: ClassFolders, folder: Path, side: int, resize: Resize) -> Decoded:
    """The images of a tree; prints what is passed over, and how grey images of 16 bits are scaled."""
    decoded = decode(tree, side, resize, folder)
    if tree.passed_over:
        print(f"{name}: passed over in {tree.path}: {describe(tree.passed_over)}", flush=True)
    if decoded.grey_bits and decoded.grey_bits > 8:
        used = f"use {decoded.grey_bits}, so they are divided by {2 ** (decoded.grey_bits - 8)}"
        print(f"{name}: the values of its grey images of 16 bits {used}", flush=True)
    return decoded


def decode(tree: ClassFolders, side: int = SIDE, resize: Resize = "stretch", folder: Path | None = None) -> Decoded:
    """All images of a tree. Raises UserError naming those that are broken, too large, or without a stated range.

    A part whose pixels are too many for memory is decoded into a file without a name in the `folder`.
    """
    parts: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    # Places of the grey images of 16 bits. The first two channels hold the bytes of their values until all are known.
    deep: dict[str, list[int]] = {part: [] for part in tree.images}
    grey_bits = 8
    colour_bits: set[int] = set()
    broken: list[str] = []
    with open_tree(tree.path) as read, warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.simplefilter("ignore")  # Pillow's remarks on images that it reads all the same
        for part, images in tree.images.items():
            names = [name for name, _ in images]
            pixels = _room_for((len(images), side, side, 3), folder)
            starts = range(0, len(names), DECODED_AHEAD)
            decoded = (
                image
                for start in starts
                for image in pool.map(
                    lambda name: _decode_named(name, read, side, resize), names[start : start + DECODED_AHEAD]
                )
            )
            counted = progress(decoded, f"{tree.path.name} {part}, images", len(names))
            for number, image in zip(range(len(names)), counted, strict=True):
                if isinstance(image, str):
                    broken.append(image)
                elif image.is_deep_grey:
                    pixels[number, ..., :2] = image.pixels[..., None].view(np.uint8)
                    deep[part].append(number)
                    grey_bits = max(grey_bits, image.bits or 0)
                else:
                    pixels[number] = image.pixels
                    colour_bits |= set() if image.bits is None else {image.bits}
            parts[part] = pixels, np.array([label for _, label in images], np.int64)
    if broken:
        what, them = ("image", "it") if len(broken) == 1 else (f"{len(broken):,} images:", "them")
        formats = ", ".join(FORMATS)
        raise UserError(
            f"{tree.path}: cannot read {what} {listed(broken, '; ')}; repair or remove {them} (read are {formats})"
        )
    if colour_bits and max(colour_bits) < LEAST_BITS_OF_COLOUR:
        raise UserError(
            f"{tree.path}: colour images of 16 bits hold only {max(colour_bits)} bits, and would be nearly black: "
            "expected values up to 65535; scale them, or save them with 8 bits"
        )
    for part, numbers in deep.items():
        pixels, _ = parts[part]
        for number in numbers:
            grey = pixels[number, ..., :2].copy().view(np.uint16)[..., 0]
            pixels[number] = grey_to_rgb(grey, grey_bits)
    return Decoded(tree.classes, parts, grey_bits)


def _room_for(shape: tuple[int, ...], folder: Path | None) -> np.ndarray:
    """An array of bytes to fill: in memory, or, of a large one, on the disk of a folder."""
    if folder is None or not is_large(math.prod(shape)):
        return np.empty(shape, np.uint8)
    check_writable(folder)
    check_room(folder, 2 * math.prod(shape), f"images of {shape[1]} pixels a side are many bytes")  # and once more
    folder.mkdir(parents=True, exist_ok=True)
    return np.memmap(tempfile.TemporaryFile(dir=folder), np.uint8, "w+", shape=shape)


def _decode_named(
    name: str, read: Callable[[str], bytes], side: int = SIDE, resize: Resize = "stretch"
) -> DecodedImage | str:
    """An image, or its name with the reason why it cannot be read."""
    try:
        return decode_image(read(name), side, resize)
    except Exception as error:  # Pillow's decoders raise many kinds of errors for a broken file
        return f"{name}: {reason(error)}"


def _decode_once(folder: Path, fingerprint: str, read: Callable[[], Decoded]) -> None:
    """Write what `read` gives into `folder`, where its source has changed since that was done last."""
    description = folder / "description.json"
    remove_leftovers(folder / "*", age=ABANDONED)  # no lock: several processes may decode at once
    if _described_fingerprint(description) == fingerprint:
        return
    decoded = read()
    now = _described_fingerprint(description)
    if now == fingerprint:  # another process, started at the same time, was faster
        return
    if now is not None:  # its presence says that all arrays are whole, so it goes before them
        description.unlink(missing_ok=True)
    for part, (pixels, labels) in decoded.parts.items():
        save_array(folder / f"{part}_images.npy", pixels)
        save_array(folder / f"{part}_labels.npy", labels)
    is_tree = decoded.grey_bits is not None
    facts = {"parts": list(decoded.parts), "grey_bits": decoded.grey_bits} if is_tree else {}
    save_json(description, {"fingerprint": fingerprint, "classes": decoded.classes, **facts})


def _described_fingerprint(description: Path) -> str | None:
    """The fingerprint in a decoded dataset's description; "" where it is damaged, None where there is none."""
    if not description.exists():
        return None
    try:
        content = load_json(description, "")
    except UserError:
        return ""
    known = content.keys() - FACTS_OF_TREES == {"fingerprint", "classes"}
    return str(content["fingerprint"]) if known else ""


def _open_decoded(folder: Path, side: int) -> tuple[tuple[str, ...], dict[str, tuple[np.ndarray, np.ndarray]]]:
    """The classes, and per part the pixels, memory-mapped, and the labels."""
    again = f"any stage, after removing {folder}"
    description = folder / "description.json"
    content = load_json(description, again)
    try:
        classes = tuple(map(str, content["classes"]))
    except (KeyError, TypeError):
        raise damaged(description, again, "expected the classes of a decoded dataset") from None
    there = content.get("parts", PARTS_OF_PUBLISHED)
    if there not in (PARTS_OF_PUBLISHED, ["train", "valid", "test"], ["valid", "test"]):
        raise damaged(description, again, "expected the parts train and test, or train, valid and test, or two of them")
    parts = {}
    for part in there:
        labels = load_array(folder / f"{part}_labels.npy", dtype=np.int64, shape=(None,), made_by=again)
        parts[part] = _open_pixels(folder, part, (len(labels), side, side, 3), again), labels
        if not set(labels.tolist()) <= set(range(len(classes))):
            raise damaged(description, again, f"{len(classes)} classes, and labels up to {labels.max()}")
    return classes, parts


def _open_pixels(folder: Path, part: str, shape: tuple[int, ...], made_by: str) -> np.ndarray:
    """The pixels of a part, memory-mapped; where they are too many for memory, with what tells each image.

    What reads all of them is done once, and again where the file's size or time of change is another one.
    """
    path, stamp_file = folder / f"{part}_images.npy", folder / f"{part}_compared.json"
    stamp: dict[str, int] = {}
    digest = b""
    with contextlib.suppress(OSError), path.open("rb") as file:  # `load_array` says why
        status = os.fstat(file.fileno())
        stamp = {"bytes": status.st_size, "changed_ns": status.st_mtime_ns, "split_seed": global_configure.split_seed}
        digest = stored_digest(file)  # before it is mapped: if another file replaces it in between, neither is read
    known = False
    with contextlib.suppress(UserError):
        known = load_json(stamp_file, made_by) == stamp
    pixels = load_array(path, dtype=np.uint8, shape=shape, made_by=made_by, memory_map=True, is_compared=known)
    if not isinstance(pixels, np.memmap):
        return pixels
    on_disk, digests = is_large(pixels.nbytes), None
    digests_file = folder / f"{part}_digests.npy"
    with contextlib.suppress(UserError):
        if on_disk and known:
            digests = load_array(digests_file, dtype=np.uint64, shape=(len(pixels), 2), made_by=made_by)
    if on_disk and digests is None:
        digests = _digests_of(pixels, digest)
        with contextlib.suppress(UserError):  # on a disk that is read only, all is computed each time
            save_array(digests_file, digests)
    if not known:
        with contextlib.suppress(UserError):
            save_json(stamp_file, stamp)
    if digests is None:
        return pixels
    of_each = digests[:, 0].astype(np.uint32), digests[:, 1].copy()
    return cast(np.ndarray, PixelsOnDisk(pixels, digest, np.arange(len(pixels)), *of_each))


def _digests_of(pixels: np.memmap, digest: bytes) -> np.ndarray:
    """Of each image its CRC-32 and its hash, (n, 2) uint64."""
    digests = np.empty((len(pixels), 2), np.uint64)
    for number in progress(range(len(pixels)), "checksums of images"):
        (image,) = read_images(pixels, digest, np.array([number]))
        digests[number] = zlib.crc32(image), hash_of(image.tobytes(), global_configure.split_seed)
    return digests


def _decode_official(name: str, dataset_dir: Path, folder: Path, side: int, *, download: bool) -> bool:
    """Decode by torchvision's own reader; False where its files are not there and cannot be downloaded.

    They lie in `dataset_dir`, or in a folder of the dataset's name below it.
    """
    places = [place / file for place in (dataset_dir, dataset_dir / name) for file in OFFICIAL_FILES[name]]
    there = next((place for place in places if place.exists()), None)
    if there is None and not download:
        return False
    source = there.parent if there else dataset_dir
    is_packed = there is not None and there.suffix == ".gz"  # torchvision unpacks it where it is whole
    try:
        if download:
            _check_room(dataset_dir)
            say(f"dataset {name} is not in {dataset_dir}: downloading it")
        with contextlib.redirect_stdout(io.StringIO()):
            _decode_once(
                folder,
                f"torchvision {name}",
                lambda: _decoded(resized(TORCHVISION_READERS[name](source, download or is_packed), side)),
            )
        return True
    except (OSError, RuntimeError, EOFError, tarfile.TarError, http.client.HTTPException) as error:
        if download:
            return False
        if is_packed:
            problem = f"is not whole, and cannot be downloaded again: {reason(error)}"
            raise UserError(f"{there} {problem}; go online and try again, or put a whole one there") from None
        raise UserError(
            f"torchvision cannot read {there}: {reason(error)}; remove it, and it is downloaded again"
        ) from None


def _check_room(dataset_dir: Path) -> None:
    try:
        dataset_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write {dataset_dir}: {reason(error)}; set another dataset_dir in global_configure.py"
        ) from None
    if not os.access(dataset_dir, os.W_OK) or shutil.disk_usage(dataset_dir).free < 2**30:
        raise UserError(f"{dataset_dir}: expected a writable folder with 1 GiB free to download to")
