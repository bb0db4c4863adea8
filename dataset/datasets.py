"""From a dataset's name to its pixels: found or downloaded, decoded once, kept as one array on disk, memory-mapped."""

import contextlib
import http.client
import io
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

import global_configure
from configures.base import Config
from dataset.class_folders import SIDE, decode, find_class_folders
from utils.checked_text import load_json, save_json
from utils.errors import UserError, reason
from utils.files import damaged, load_array, save_array

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
DIGITS = tuple("0123456789")
DIGITS_TEST_SHARE = 5  # one of so many of scikit-learn's digits is for testing
TRAIN_SHARE = 0.8  # of the training set; the rest is the validation set


@dataclass(frozen=True)
class Images:
    """Images and labels of one part of a dataset."""

    pixels: np.ndarray  # (n, 32, 32, 3) uint8, RGB
    labels: np.ndarray  # (n,) int64

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: np.ndarray) -> "Images":
        """The images at the given places, in that order."""
        return Images(self.pixels[index], self.labels[index])

    def first(self, count: int) -> "Images":
        """The first `count` images; 0 = all. A split is shuffled, so they are a random sample of it."""
        return Images(self.pixels[:count], self.labels[:count]) if count else self


def fingerprint(images: Images) -> int:
    """A checksum (CRC-32) of images and labels."""
    return zlib.crc32(images.labels.tobytes(), zlib.crc32(np.ascontiguousarray(images.pixels)))


@dataclass(frozen=True)
class Dataset:
    """A dataset as its source gives it."""

    classes: tuple[str, ...]
    train: Images
    test: Images


@dataclass(frozen=True)
class Split:
    """A dataset as the pipeline uses it: labels count from 0 in the order of `classes`."""

    classes: tuple[str, ...]
    train: Images
    valid: Images
    test: Images


def load_split(config: Config) -> Split:
    """The strong model's classes, split. Raises UserError where the dataset does not have them."""
    dataset = load_dataset(config.image_source)
    classes = config.classes or dataset.classes
    if len(classes) != config.num_classes:
        raise UserError(
            f"dataset {config.image_source}: expected {config.num_classes} classes (num_classes in "
            f"configures/{config.name}.py), found {len(classes)}: {', '.join(classes)}"
        )
    return split(classes, choose_classes(dataset, classes, config.image_source))


def split(classes: tuple[str, ...], parts: tuple[Images, Images]) -> Split:
    """Shuffle the training set once and cut it 80 % / 20 % into train and valid, with the published seed."""
    train, test = parts
    order = np.random.default_rng(global_configure.split_seed).permutation(len(train))
    cut = int(len(train) * TRAIN_SHARE)
    return Split(classes, train.take(order[:cut]), train.take(order[cut:]), test)


def choose_classes(dataset: Dataset, classes: tuple[str, ...], name: str) -> tuple[Images, Images]:
    """The training and test images of some classes, labelled in their order. Raises UserError for an unknown class."""
    unknown = [wanted for wanted in classes if wanted not in dataset.classes]
    if unknown:
        raise UserError(f"dataset {name} has no class {', '.join(unknown)}: found {', '.join(dataset.classes)}")
    if classes == dataset.classes:
        return dataset.train, dataset.test
    new_label = np.full(len(dataset.classes), -1)
    new_label[[dataset.classes.index(wanted) for wanted in classes]] = range(len(classes))

    def chosen(images: Images) -> Images:
        labels = new_label[images.labels]
        return Images(images.pixels[labels >= 0], labels[labels >= 0])

    return chosen(dataset.train), chosen(dataset.test)


def load_dataset(name: str) -> Dataset:
    """A dataset by its name, decoded on first use.

    digits comes with scikit-learn. Others come from torchvision's own files in `dataset_dir`, else from a tree
    `{train,test}/CLASS/IMAGE` in `dataset_dir/NAME` or `NAME.zip`, else, if torchvision knows them, from a download.
    Raises UserError where there is none of these.
    """
    folder = Path(global_configure.root_dir) / "data" / "decoded_dataset" / name
    dataset_dir = Path(global_configure.dataset_dir)
    if not name.replace("_", "").replace("-", "").isalnum():
        raise UserError(f"dataset name {name!r}: expected letters, digits, _ and -")
    if name == "digits":
        return _decoded_once(folder, "scikit-learn", _read_digits)
    if name in TORCHVISION_READERS and (official := _read_official(name, dataset_dir, folder, download=False)):
        return official
    tree = find_class_folders(dataset_dir, name)
    if tree is not None:
        return _decoded_once(
            folder, tree.fingerprint, lambda: (tree.classes, decode(tree, "train"), decode(tree, "test"))
        )
    if (folder / "description.json").exists():  # decoded earlier, its source moved away since
        return _open_decoded(folder)
    if name in TORCHVISION_READERS and (official := _read_official(name, dataset_dir, folder, download=True)):
        return official
    ways = (
        f"put {dataset_dir / name}.zip or the folder {dataset_dir / name}/ there, with {{train,test}}/CLASS/IMAGE in it"
    )
    if name in TORCHVISION_READERS:
        ways = f"(1) go online and try again; (2) put torchvision's own files into {dataset_dir}; (3) {ways}"
    raise UserError(f"dataset {name} is not there: {ways}")


Decoded = tuple[tuple[str, ...], tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def _decoded_once(folder: Path, fingerprint: str, read: Callable[[], Decoded]) -> Dataset:
    """The dataset from `folder`, after `read` and writing it there where its source has changed since."""
    description = folder / "description.json"
    found = _described_fingerprint(description)
    if found == fingerprint:
        return _open_decoded(folder)
    classes, train, test = read()
    # Its presence says that all arrays are whole, so it goes before them; but not where another process, started at
    # the same time, has just written it with the same arrays.
    if found is not None and _described_fingerprint(description) == found:
        description.unlink(missing_ok=True)
    for part, (pixels, labels) in (("train", train), ("test", test)):
        save_array(folder / f"{part}_images.npy", pixels)
        save_array(folder / f"{part}_labels.npy", labels)
    save_json(description, {"fingerprint": fingerprint, "classes": classes})
    return _open_decoded(folder)


def _described_fingerprint(description: Path) -> str | None:
    """The fingerprint in a decoded dataset's description; "" where it is damaged, None where there is none."""
    if not description.exists():
        return None
    try:
        content = load_json(description, "")
    except UserError:
        return ""
    return str(content["fingerprint"]) if content.keys() == {"fingerprint", "classes"} else ""


def _open_decoded(folder: Path) -> Dataset:
    again = f"any stage, after removing {folder}"
    description = folder / "description.json"
    try:
        classes = tuple(map(str, load_json(description, again)["classes"]))
    except (KeyError, TypeError):
        raise damaged(description, again, "expected the classes of a decoded dataset") from None
    parts = []
    for part in ("train", "test"):
        labels = load_array(folder / f"{part}_labels.npy", dtype=np.int64, shape=(None,), made_by=again)
        path, shape = folder / f"{part}_images.npy", (len(labels), SIDE, SIDE, 3)
        parts.append(Images(load_array(path, dtype=np.uint8, shape=shape, made_by=again, memory_map=True), labels))
        if not set(labels.tolist()) <= set(range(len(classes))):
            raise damaged(description, again, f"{len(classes)} classes, and labels up to {labels.max()}")
    return Dataset(classes, *parts)


def _read_digits() -> Decoded:
    """scikit-learn's 1,797 digits, 8x8 in 17 grey levels, enlarged to 32x32 RGB; one in five is for testing."""
    from sklearn.datasets import load_digits  # half a second that only this dataset needs

    digits = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    large = [Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC) for image in grey]
    pixels = np.repeat(np.stack([np.asarray(image) for image in large])[..., None], 3, axis=-1)
    labels = digits.target.astype(np.int64)
    order = np.random.default_rng(global_configure.split_seed).permutation(len(labels))
    test, train = np.split(order, [len(labels) // DIGITS_TEST_SHARE])
    return DIGITS, (pixels[train], labels[train]), (pixels[test], labels[test])


def _read_cifar(kind: str, dataset_dir: Path, download: bool) -> Decoded:
    import torchvision  # as long to import as torch itself

    reader = getattr(torchvision.datasets, kind)
    train, test = (reader(dataset_dir, train=part, download=download) for part in (True, False))
    return tuple(train.classes), *((part.data, np.array(part.targets, np.int64)) for part in (train, test))


def _read_svhn(dataset_dir: Path, download: bool) -> Decoded:
    import torchvision

    parts = (torchvision.datasets.SVHN(dataset_dir, part, download=download) for part in ("train", "test"))
    arrays = [(part.data.transpose(0, 2, 3, 1), part.labels.astype(np.int64)) for part in parts]
    return DIGITS, arrays[0], arrays[1]


# torchvision unpickles CIFAR's files only after comparing their MD5 with the published one.
TORCHVISION_READERS: dict[str, Callable[[Path, bool], Decoded]] = {
    "cifar10": lambda folder, download: _read_cifar("CIFAR10", folder, download),
    "cifar100": lambda folder, download: _read_cifar("CIFAR100", folder, download),
    "svhn": _read_svhn,
}
OFFICIAL_FILES = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python", "svhn": "train_32x32.mat"}


def _read_official(name: str, dataset_dir: Path, folder: Path, *, download: bool) -> Dataset | None:
    """The dataset by torchvision's own reader, or None where its files are not there and cannot be downloaded."""
    if not download and not (dataset_dir / OFFICIAL_FILES[name]).exists():
        return None
    try:
        if download:
            _check_room(dataset_dir)
            print(f"dataset {name} is not in {dataset_dir}: downloading it", flush=True)
        with contextlib.redirect_stdout(io.StringIO()):
            return _decoded_once(
                folder, f"torchvision {name}", lambda: TORCHVISION_READERS[name](dataset_dir, download)
            )
    except (OSError, RuntimeError, EOFError, tarfile.TarError, http.client.HTTPException) as error:
        if download:
            return None
        raise UserError(
            f"torchvision cannot read {dataset_dir / OFFICIAL_FILES[name]}: {reason(error)}; "
            "remove it, and it is downloaded again"
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
