"""What a weak model learns from: classes of its own and, as the last one, the strong model's target class."""

import dataclasses
from dataclasses import dataclass

import numpy as np

import global_configure
from configures.base import Config
from dataset.datasets import load_source
from dataset.image_hashes import ImageOrder
from dataset.images import Images, Split, choose_classes
from dataset.splits import TRAIN_SHARE, load_split, split
from utils.errors import UserError
from utils.seeds import generator


@dataclass(frozen=True)
class PatchData:
    """The weak classes' images, which all weak models of a configuration share, and the strong model's."""

    weak: Split  # the weak classes alone, subsets drawn
    strong: Split  # all that the strong model knows
    train_images: int  # of the target class, as `weak_train_images`
    test_images: int
    target_images: int = 0  # that the weak model is trained on, as `weak_target_images`

    def split_for(self, target_class: int) -> Split:
        """The weak model's classes, images and split; the target class is the last class.

        In every part the weak classes' images come first, so that these rows are the same for all target classes.
        The target class keeps the strong model's split: its training images are among those that the strong model was
        trained on, its validation images are not. A calibration that is fitted on the validation part so sees what
        the module outputs for images that are new to it.
        """
        label = len(self.weak.classes)
        name = self.strong.classes[target_class]
        num_train = int(self.train_images * TRAIN_SHARE)
        num_valid = self.train_images - num_train
        wanted = {"train": self.target_images or num_train, "valid": num_valid, "test": self.test_images}
        parts = {}
        for part, count in wanted.items():
            images: Images = getattr(self.strong, part)
            found = np.flatnonzero(images.labels == target_class)
            found = draw(found, count, f"target class {name}, {part}", target_class)
            weak: Images = getattr(self.weak, part)
            pixels = np.concatenate([weak.pixels, images.pixels[found]])
            labels = np.concatenate([weak.labels, np.full(len(found), label)])
            parts[part] = dataclasses.replace(weak, pixels=pixels, labels=labels)
        return Split((*self.weak.classes, name), **parts)


def load_patch_data(config: Config, order: ImageOrder | None = None) -> PatchData:
    """The images of all weak models of a configuration; the strong model's in an order that it came with.

    Raises UserError if the configuration has no patching experiment, or its images are not there.
    """
    if not config.weak_classes or not config.weak_model:
        raise UserError(
            f"configures/{config.name}.py has no patching experiment: expected weak_model and weak_classes in it, "
            "as in configures/simcnn_x0_25_digits_5.py"
        )
    strong = load_split(config, order, say_copies=False)
    source = config.weak_image_source
    if source == config.image_source and (shared := set(config.weak_classes) & set(strong.classes)):
        raise UserError(
            f"setting weak_classes: expected classes of {source} that the strong model does not know, "
            f"given {', '.join(sorted(shared))}"
        )
    chosen = choose_classes(load_source(config, source), config.weak_classes)
    train = draw_per_class(chosen.train, config.weak_train_images, f"{source}, train")
    test = draw_per_class(chosen.test, config.weak_test_images, f"{source}, test")
    weak = split(dataclasses.replace(chosen, train=train, test=test))
    return PatchData(weak, strong, config.weak_train_images, config.weak_test_images, config.weak_target_images)


def of_class(images: Images, target_class: int) -> Images:
    """The images of one class, in their order."""
    return images.take(np.flatnonzero(images.labels == target_class))


def draw_per_class(images: Images, count: int, name: str) -> Images:
    """`count` images of each class (0 = all), in the order of `images`."""
    if count == 0:
        return images
    labels = np.unique(images.labels)
    chosen = [draw(np.flatnonzero(images.labels == label), count, f"{name}, class {label}", label) for label in labels]
    return images.take(np.sort(np.concatenate(chosen)))


def draw(places: np.ndarray, count: int, name: str, label: int) -> np.ndarray:
    """`count` of the places (0 = all) without replacement, sorted.

    The draw depends on the split's seed and the class alone, so every run and machine draws the same images. Raises
    UserError if there are fewer.
    """
    if count == 0:
        return places
    if len(places) < count:
        raise UserError(
            f"{name}: expected {count} images (settings weak_train_images, weak_target_images, weak_test_images), "
            f"found {len(places)}"
        )
    return np.sort(generator(global_configure.split_seed, "weak images", int(label)).choice(places, count, False))
