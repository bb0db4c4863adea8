"""Which images of a dataset are for training, for validation and for testing, in which order."""

from collections.abc import Sequence

import numpy as np

import global_configure
from configures.base import Config
from dataset.datasets import PUBLISHED, load_dataset, load_source
from dataset.hash_split import hash_of, held_out
from dataset.image_files import Resize
from dataset.image_order import ImageOrder, hashes_of
from dataset.labelled_images import Dataset, Images, Normalisation, Split, choose_classes
from utils.errors import UserError

TRAIN_SHARE = 0.8  # of the training set; the rest is the validation set


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
    datasets = [load_dataset(name, *form) for form in forms]
    if datasets[0].valid is None:
        _, places, _ = _split_places(datasets[0], order)
        valid = [dataset.train.take(places) for dataset in datasets]
    else:
        valid = [dataset.valid for dataset in datasets]
    parts = [{"valid": held, "test": dataset.test} for dataset, held in zip(datasets, valid, strict=True)]
    return datasets[0].classes, parts


def image_order_of(split: Split) -> ImageOrder:
    """The order of its images, to be kept with a network that is given away."""
    hashes = [hashes_of(images.pixels, images.labels) for images in (split.train, split.valid, split.test)]
    num_train, num_valid, num_test = map(len, hashes)
    return ImageOrder(np.concatenate(hashes), (num_train, num_valid, num_test))


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


def is_among(images: Images, others: Images) -> np.ndarray:
    """Which of some images are among others, whatever their labels: (n,) bool."""
    return np.isin(_hashes(images), _hashes(others))


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
