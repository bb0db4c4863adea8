"""From a dataset's name to its pixels: found or downloaded, decoded once, kept as one array on disk, memory-mapped."""

import contextlib
import http.client
import io
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import global_configure
from configures.base import Config
from dataset.class_folders import ClassFolders, describe, find_class_folders
from dataset.decoding import decode
from dataset.hash_split import hash_of, held_out
from dataset.image_files import SIDE, Resize
from dataset.image_order import ImageOrder, hashes_of
from dataset.published import OFFICIAL_FILES, TORCHVISION_READERS, Arrays, read_digits, resized
from utils.checked_text import load_json, save_json
from utils.errors import UserError, reason
from utils.files import damaged, load_array, save_array
from utils.progress import say

TRAIN_SHARE = 0.8  # of the training set; the rest is the validation set
PUBLISHED = ("digits", *TORCHVISION_READERS)  # the datasets whose split is the published one


class Normalisation(NamedTuple):
    """How a network is given colours between 0 and 1: less the mean, divided by the standard deviation."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Images:
    """Images and labels of one part of a dataset, and how a network is given them."""

    pixels: np.ndarray  # (n, side, side, 3) uint8, RGB
    labels: np.ndarray  # (n,) int64
    normalisation: Normalisation = IMAGENET

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: np.ndarray) -> "Images":
        """The images at the given places, in that order."""
        return replace(self, pixels=self.pixels[index], labels=self.labels[index])

    def first(self, count: int) -> "Images":
        """The first `count` images; 0 = all. A split is shuffled, so they are a random sample of it."""
        return replace(self, pixels=self.pixels[:count], labels=self.labels[:count]) if count else self

    @cached_property
    def _crc32(self) -> int:
        found = zlib.crc32(self.labels.tobytes(), zlib.crc32(np.ascontiguousarray(self.pixels)))
        # The usual normalisation leaves the number what it was before there were others.
        return found if self.normalisation == IMAGENET else zlib.crc32(repr(self.normalisation).encode(), found)


def fingerprint(images: Images) -> int:
    """A checksum (CRC-32) of images and labels, in their order, and of how a network is given them.

    It is computed once, since nobody writes into images.
    """
    return images._crc32


@dataclass(frozen=True)
class Dataset:
    """A dataset as its source gives it."""

    name: str
    classes: tuple[str, ...]
    train: Images  # none where it is there to validate and test alone
    test: Images
    valid: Images | None = None  # None: a share of `train`


@dataclass(frozen=True)
class Split:
    """A dataset as the pipeline uses it: labels count from 0 in the order of `classes`."""

    classes: tuple[str, ...]
    train: Images
    valid: Images
    test: Images


def split_fingerprint(split: Split) -> dict[str, int]:
    """The checksum of each part, by its name.

    To be recorded with what was made from a split, and to be compared where that is used: images that were added,
    removed or changed since show as another number of the part that they are in.
    """
    return {part: fingerprint(getattr(split, part)) for part in ("train", "valid", "test")}


def image_order_of(split: Split) -> ImageOrder:
    """The order of its images, to be kept with a network that is given away."""
    hashes = [hashes_of(images.pixels, images.labels) for images in (split.train, split.valid, split.test)]
    num_train, num_valid, num_test = map(len, hashes)
    return ImageOrder(np.concatenate(hashes), (num_train, num_valid, num_test))


def load_split(config: Config, order: ImageOrder | None = None) -> Split:
    """The strong model's classes, split, in an order that it came with; see `split`.

    Raises UserError where the dataset does not have them, or too few images.
    """
    dataset = load_source(config, config.image_source)
    classes = config.classes or dataset.classes
    if len(classes) != config.num_classes:
        raise UserError(
            f"dataset {config.image_source}: expected {config.num_classes} classes (setting num_classes of "
            f"{config.name}), found {len(classes)}: {', '.join(classes)}"
        )
    return split(choose_classes(dataset, classes), order)


def has_own_validation(config: Config) -> bool:
    """Whether the dataset says itself which images are for validation."""
    return load_source(config, config.image_source).valid is not None


def load_source(config: Config, name: str) -> Dataset:
    """A dataset as a configuration gives it to networks. Raises UserError as `load_dataset`."""
    dataset = load_dataset(name, config.image_side, config.resize)
    normalisation = Normalisation(config.mean, config.std)
    parts = {part: getattr(dataset, part) for part in ("train", "test", "valid")}
    return replace(
        dataset,
        **{part: images and replace(images, normalisation=normalisation) for part, images in parts.items()},
    )


def split(dataset: Dataset, order: ImageOrder | None = None) -> Split:
    """The dataset with a validation part: the one that it has, or one in five of its training images.

    Of a published dataset the training images are shuffled with the published seed and cut; or parts and order are
    those of `order`, where these are its images. Of others every image decides by itself (`held_out`), so that adding
    images moves none, and the images are sorted by their hash, which is a shuffling, too. Raises UserError where a
    class of those has no image in a part.
    """
    train, valid, test = dataset.train, dataset.valid, dataset.test
    if not len(train):
        raise UserError(
            f"dataset {dataset.name}: expected images as {{train,test}}/CLASS/IMAGE, found valid, test; add train, or "
            "give one of them its name"
        )
    if valid is None:
        of_train, held, of_test = _split_places(dataset, order)
        train, valid, test = train.take(of_train), train.take(held), test if of_test is None else test.take(of_test)
    elif dataset.name not in PUBLISHED:
        train, valid = (images.take(np.argsort(_hashes(images), kind="stable")) for images in (train, valid))
    if dataset.name not in PUBLISHED:
        _check_split(dataset, train, valid)
    return Split(dataset.classes, train, valid, test)


def _split_places(dataset: Dataset, order: ImageOrder | None) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """The places of the training images that stay, of those that are for validation, and of the test images.

    All in the split's order; None where the test images stay in theirs.
    """
    if dataset.name in PUBLISHED:
        if order is not None:
            known = order.places(*(hashes_of(images.pixels, images.labels) for images in (dataset.train, dataset.test)))
            if known is not None:
                return known
        shuffled = np.random.default_rng(global_configure.split_seed).permutation(len(dataset.train))
        cut = int(len(dataset.train) * TRAIN_SHARE)
        return shuffled[:cut], shuffled[cut:], None
    hashes = _hashes(dataset.train)
    by_hash = np.argsort(hashes, kind="stable")
    chosen = held_out(hashes, dataset.train.labels)[by_hash]
    return by_hash[~chosen], by_hash[chosen], None


def load_evaluation_parts(
    name: str, forms: Sequence[tuple[int, Resize, Normalisation]], order: ImageOrder | None = None
) -> tuple[tuple[str, ...], list[dict[str, Images]]]:
    """A dataset's classes, and per form the same validation and test images in the same order.

    Images of a dataset that has a validation part stand in the order of their files. Where it has none, the validation
    part is that of `split` in the first form. Raises UserError as `load_dataset`.

    Args:
        name: of the dataset, of which nobody needs a training part.
        forms: side in pixels, how images come to it, and how a network is given colours.
        order: of the split in the first form.
    """
    datasets = [load_dataset(name, side, resize) for side, resize, _ in forms]
    if datasets[0].valid is None:
        _, places, _ = _split_places(datasets[0], order)
        valid = [dataset.train.take(places) for dataset in datasets]
    else:
        valid = [dataset.valid for dataset in datasets]
    parts = [
        {part: replace(images, normalisation=form[2]) for part, images in (("valid", held), ("test", dataset.test))}
        for dataset, held, form in zip(datasets, valid, forms, strict=True)
    ]
    return datasets[0].classes, parts


def _hashes(images: Images) -> np.ndarray:
    seed = global_configure.split_seed
    return np.array([hash_of(image.tobytes(), seed) for image in images.pixels], np.uint64)


def _check_split(dataset: Dataset, train: Images, valid: Images) -> None:
    counts = [np.bincount(images.labels, minlength=len(dataset.classes)) for images in (train, valid)]
    small = [name for name, *both in zip(dataset.classes, *counts, strict=True) if not all(both)]
    if small:
        raise UserError(
            f"dataset {dataset.name}: too few images to train on and to validate with: expected at least 2 different "
            f"training images of a class, and better 50; add some to {', '.join(small)}"
        )


def choose_classes(dataset: Dataset, classes: tuple[str, ...]) -> Dataset:
    """The dataset with some of its classes, labelled in their order. Raises UserError for an unknown class."""
    unknown = [wanted for wanted in classes if wanted not in dataset.classes]
    if unknown:
        raise UserError(f"dataset {dataset.name} has no class {', '.join(unknown)}: found {', '.join(dataset.classes)}")
    if classes == dataset.classes:
        return dataset
    new_label = np.full(len(dataset.classes), -1)
    new_label[[dataset.classes.index(wanted) for wanted in classes]] = range(len(classes))

    def chosen(images: Images) -> Images:
        labels = new_label[images.labels]
        return replace(images, pixels=images.pixels[labels >= 0], labels=labels[labels >= 0])

    valid = chosen(dataset.valid) if dataset.valid else None
    return Dataset(dataset.name, classes, chosen(dataset.train), chosen(dataset.test), valid)


def load_dataset(name: str, side: int = SIDE, resize: Resize = "stretch") -> Dataset:
    """A dataset by its name, decoded on first use, with images of `side` pixels.

    digits comes with scikit-learn. Others come from torchvision's own files in `dataset_dir` or `dataset_dir/NAME`,
    else from a tree `{train,test}/CLASS/IMAGE` in `dataset_dir/NAME` or `NAME.zip`, else, if torchvision knows them,
    from a download. Raises UserError where there is none of these.
    """
    _check_name(name)
    # No dataset's name has an @ in it.
    form = name if (side, resize) == (SIDE, "stretch") else f"{name}@{side}_{resize}"
    folder = Path(global_configure.root_dir) / "data" / "decoded_dataset" / form
    dataset_dir = Path(global_configure.dataset_dir)
    if name == "digits":
        return _decoded_once(folder, name, "scikit-learn", side, lambda: _decoded(read_digits(side)))
    if name in TORCHVISION_READERS and (official := _read_official(name, dataset_dir, folder, side, download=False)):
        return official
    tree = find_class_folders(dataset_dir, name)
    if tree is not None:
        return _decoded_once(folder, name, tree.fingerprint, side, lambda: _decode_tree(name, tree, side, resize))
    if (folder / "description.json").exists():  # decoded earlier, its source moved away since
        return _open_decoded(folder, name, side)
    if name in TORCHVISION_READERS and (official := _read_official(name, dataset_dir, folder, side, download=True)):
        return official
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
    dataset = load_dataset(name, side, resize)
    return dataset.classes, len(dataset.train)


def _check_name(name: str) -> None:
    if not name.replace("_", "").replace("-", "").isalnum():
        raise UserError(f"dataset name {name!r}: expected letters, digits, _ and -")


@dataclass(frozen=True)
class Decoded:
    """What is kept of a dataset: its arrays, and beside its classes what else stands in its description."""

    classes: tuple[str, ...]
    parts: dict[str, tuple[np.ndarray, np.ndarray]]
    facts: dict[str, Any] = field(default_factory=dict)


PARTS_OF_PUBLISHED = ["train", "test"]
FACTS_OF_TREES = {"parts", "grey_bits"}  # which parts there are, and what `DecodedTree` says


def _decoded(arrays: Arrays) -> Decoded:
    classes, *parts = arrays
    return Decoded(classes, dict(zip(PARTS_OF_PUBLISHED, parts, strict=True)))


def _decode_tree(name: str, tree: ClassFolders, side: int, resize: Resize) -> Decoded:
    """The images of a tree; prints what is passed over, and how grey images of 16 bits are scaled."""
    decoded = decode(tree, side, resize)
    if tree.passed_over:
        print(f"{name}: passed over in {tree.path}: {describe(tree.passed_over)}", flush=True)
    if decoded.grey_bits > 8:
        used = f"use {decoded.grey_bits}, so they are divided by {2 ** (decoded.grey_bits - 8)}"
        print(f"{name}: the values of its grey images of 16 bits {used}", flush=True)
    return Decoded(tree.classes, decoded.parts, {"parts": list(decoded.parts), "grey_bits": decoded.grey_bits})


def _decoded_once(folder: Path, name: str, fingerprint: str, side: int, read: Callable[[], Decoded]) -> Dataset:
    """The dataset from `folder`, after `read` and writing it there where its source has changed since."""
    description = folder / "description.json"
    found = _described_fingerprint(description)
    if found == fingerprint:
        return _open_decoded(folder, name, side)
    decoded = read()
    # Its presence says that all arrays are whole, so it goes before them; but not where another process, started at
    # the same time, has just written it with the same arrays.
    if found is not None and _described_fingerprint(description) == found:
        description.unlink(missing_ok=True)
    for part, (pixels, labels) in decoded.parts.items():
        save_array(folder / f"{part}_images.npy", pixels)
        save_array(folder / f"{part}_labels.npy", labels)
    save_json(description, {"fingerprint": fingerprint, "classes": decoded.classes, **decoded.facts})
    return _open_decoded(folder, name, side)


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


def _open_decoded(folder: Path, name: str, side: int) -> Dataset:
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
        path, shape = folder / f"{part}_images.npy", (len(labels), side, side, 3)
        parts[part] = Images(load_array(path, dtype=np.uint8, shape=shape, made_by=again, memory_map=True), labels)
        if not set(labels.tolist()) <= set(range(len(classes))):
            raise damaged(description, again, f"{len(classes)} classes, and labels up to {labels.max()}")
    if "train" not in parts:
        parts["train"] = parts["test"].take(np.arange(0))
    return Dataset(name, classes, **parts)


def _read_official(name: str, dataset_dir: Path, folder: Path, side: int, *, download: bool) -> Dataset | None:
    """The dataset by torchvision's own reader, or None where its files are not there and cannot be downloaded.

    They lie in `dataset_dir`, or in a folder of the dataset's name below it.
    """
    places = [place / file for place in (dataset_dir, dataset_dir / name) for file in OFFICIAL_FILES[name]]
    there = next((place for place in places if place.exists()), None)
    if there is None and not download:
        return None
    source = there.parent if there else dataset_dir
    is_packed = there is not None and there.suffix == ".gz"  # torchvision unpacks it where it is whole
    try:
        if download:
            _check_room(dataset_dir)
            say(f"dataset {name} is not in {dataset_dir}: downloading it")
        with contextlib.redirect_stdout(io.StringIO()):
            return _decoded_once(
                folder,
                name,
                f"torchvision {name}",
                side,
                lambda: _decoded(resized(TORCHVISION_READERS[name](source, download or is_packed), side)),
            )
    except (OSError, RuntimeError, EOFError, tarfile.TarError, http.client.HTTPException) as error:
        if download:
            return None
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
