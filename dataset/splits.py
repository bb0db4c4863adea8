"""Which images of a dataset are for training, for validation and for testing, in which order."""

from collections.abc import Sequence

import numpy as np

import global_configure
from configures.base import Config
from dataset.datasets import PUBLISHED, load_dataset, load_source
from dataset.image_files import Resize
from dataset.image_hashes import ImageOrder, hashes_of, held_out
from dataset.images import Dataset, Images, Normalisation, Split, choose_classes
from utils.errors import UserError
from utils.progress import say

TRAIN_SHARE = 0.8  # of the training set; the rest is the validation set


def load_split(config: Config, order: ImageOrder | None = None, *, say_copies: bool = True) -> Split:
    """The strong model's classes, split; see `split`.

    Args:
        config: of the strong model.
        order: in which the images of a published dataset are, where the strong model came with one.
        say_copies: whether a line says how many images are in two parts.

    Raises:
        UserError: the dataset does not have the classes, or too few images.
    """
    dataset = load_source(config, config.image_source)
    classes = config.classes or dataset.classes
    if len(classes) != config.num_classes:
        raise UserError(
            f"dataset {config.image_source}: expected {config.num_classes} classes (setting num_classes of "
            f"{config.name}), found {len(classes)}: {', '.join(classes)}"
        )
    found = split(choose_classes(dataset, classes), order)
    if say_copies and dataset.name not in PUBLISHED and (line := copies_between(found)):
        say(f"dataset {dataset.name}: {line}")
    return found


def copies_between(parts: Split) -> str:
    """How many images are in two parts of a split, whatever their labels, in one line; empty where none is."""
    train, valid, test = (hashes_of(images, with_labels=False) for images in (parts.train, parts.valid, parts.test))
    counted = (
        (int(np.isin(test, train).sum()), len(test), "test", "training"),
        (int(np.isin(test, valid).sum()), len(test), "test", "validation"),
        (int(np.isin(valid, train).sum()), len(valid), "validation", "training"),
    )
    found = [f"{n:,} of {total:,} {part} images are copies of {other} images" for n, total, part, other in counted if n]
    return f"{', '.join(found)}: accuracy on them says nothing of new images" if found else ""


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
        train, valid = (images.take(_by_hash(images)) for images in (train, valid))
    if dataset.name not in PUBLISHED:
        _check_split(dataset, train, valid)
    return Split(dataset.classes, train, valid, test)


def load_evaluation_parts(
    name: str, forms: Sequence[tuple[int, Resize, Normalisation]], order: ImageOrder | None = None
) -> tuple[tuple[str, ...], list[dict[str, Images]]]:
    """A dataset's classes, and per form the same validation and test images in the same order.

    The validation images are those of `split` in the first form, in that order. Of a dataset without a training part,
    which has no split, they are in the order of their files, as the test images are. Raises UserError as
    `load_dataset`.

    Args:
        name: of the dataset, of which nobody needs a training part.
        forms: side in pixels, how images come to it, and how a network is given colours.
        order: of the split in the first form.
    """
    datasets = [load_dataset(name, *form) for form in forms]
    held = [dataset.valid for dataset in datasets if dataset.valid is not None]
    if held:
        places = _own_validation(datasets[0], held[0])
    else:
        held = [dataset.train for dataset in datasets]
        _, places, _ = _split_places(datasets[0], order)
    parts = [
        {"valid": images.take(places), "test": dataset.test} for dataset, images in zip(datasets, held, strict=True)
    ]
    return datasets[0].classes, parts


def own_validation_order(name: str, form: tuple[int, Resize, Normalisation]) -> np.ndarray | None:
    """From the order of the files to that of `load_evaluation_parts`, for a dataset that has a validation part.

    Args:
        name: of the dataset.
        form: the first of the forms.

    Returns:
        (n,) int64, for each of the validation images its place among the files; None where the dataset has none.
    """
    dataset = load_dataset(name, *form)
    return None if dataset.valid is None else _own_validation(dataset, dataset.valid)


def _own_validation(dataset: Dataset, valid: Images) -> np.ndarray:
    is_split = len(dataset.train) and dataset.name not in PUBLISHED
    return _by_hash(valid) if is_split else np.arange(len(valid))


def _by_hash(images: Images) -> np.ndarray:
    return np.argsort(hashes_of(images, with_labels=False), kind="stable")


def image_order_of(split: Split) -> ImageOrder:
    """The order of its images, to be kept with a network that is given away."""
    hashes = [hashes_of(images, with_labels=True) for images in (split.train, split.valid, split.test)]
    num_train, num_valid, num_test = map(len, hashes)
    return ImageOrder(np.concatenate(hashes), (num_train, num_valid, num_test))


def _split_places(dataset: Dataset, order: ImageOrder | None) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """The places of the training images that stay, of those that are for validation, and of the test images.

    All in the split's order; None where the test images stay in theirs.
    """
    if dataset.name in PUBLISHED:
        if order is not None:
            known = order.places(*(hashes_of(images, with_labels=True) for images in (dataset.train, dataset.test)))
            if known is not None:
                return known
        shuffled = np.random.default_rng(global_configure.split_seed).permutation(len(dataset.train))
        cut = int(len(dataset.train) * TRAIN_SHARE)
        return shuffled[:cut], shuffled[cut:], None
    hashes = hashes_of(dataset.train, with_labels=False)
    by_hash = np.argsort(hashes, kind="stable")
    chosen = held_out(hashes, dataset.train.labels)[by_hash]
    return by_hash[~chosen], by_hash[chosen], None


def is_among(images: Images, others: Images) -> np.ndarray:
    """Which of some images are among others, whatever their labels: (n,) bool."""
    return np.isin(hashes_of(images, with_labels=False), hashes_of(others, with_labels=False))


def _check_split(dataset: Dataset, train: Images, valid: Images) -> None:
    counts = [np.bincount(images.labels, minlength=len(dataset.classes)) for images in (train, valid)]
    small = [name for name, *both in zip(dataset.classes, *counts, strict=True) if not all(both)]
    if small:
        raise UserError(
            f"dataset {dataset.name}: too few images to train on and to validate with: expected at least 2 different "
            f"training images of a class, and better 50; add some to {', '.join(small)}"
        )
