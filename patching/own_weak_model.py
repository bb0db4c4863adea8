"""A weak model that was not made here: its classes and the strong model's, and its answers to images.

It is a network with a checkpoint, or its logits alone. Its classes are known by their names, as the images' are.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from dataset.images import Images, normalise
from dataset.target_classes import class_number
from models.evaluation import predict
from models.graph import NetworkRefused
from models.graph.agreement import check_repeats
from models.graph.evaluating import OneAnswer, evaluating
from utils.errors import UserError, reason
from utils.files import read_array

COMPARED = 8  # images that a network is asked about several times
TORCH_KNOWS = (np.float16, np.float32, np.float64)  # of this machine's byte order


@dataclass(frozen=True)
class Classes:
    """Which classes the weak model knows, which are patched, and what the strong model calls them."""

    names: tuple[str, ...]  # the weak model's, then those that are added
    weak_classes: int  # how many it knows
    strong_class: dict[int, int]  # of the classes that are patched, or may be -> the strong model's number

    @property
    def added(self) -> tuple[str, ...]:
        """The names of the classes that the weak model does not know."""
        return self.names[self.weak_classes :]


def match_classes(
    images_have: Sequence[str],
    weak_knows: Sequence[str],
    strong_knows: Sequence[str],
    targets: Sequence[str],
    renamed: dict[str, str],
) -> Classes:
    """The classes of a patch.

    Args:
        images_have: the classes of the images.
        weak_knows: the weak model's, in the order of its logits.
        strong_knows: the strong model's.
        targets: names or numbers, which count first the weak model's classes, then the images' others; `auto` is each
            of the weak model's classes that the strong model knows, too.
        renamed: the strong model's name of a class, if it is another one.

    Raises UserError if they do not match.
    """
    weak_knows = tuple(unicodedata.normalize("NFC", name) for name in weak_knows)
    if absent := [name for name in weak_knows if name not in images_have]:
        raise UserError(
            f"the weak model's class {absent[0]} has no images: expected classes of {', '.join(images_have)}; name "
            "the weak model's classes, in the order of its logits, with --weak_classes"
        )
    if len(set(weak_knows)) < len(weak_knows):
        raise UserError(f"--weak_classes {','.join(weak_knows)}: expected every class once")
    all_names = (*weak_knows, *(name for name in images_have if name not in weak_knows))
    for new, old in renamed.items():
        for name, known, whose in ((new, all_names, "images have"), (old, strong_knows, "strong model has")):
            if name not in known:
                raise UserError(f"--class_map {new}={old}: the {whose} no class {name}, but {', '.join(known)}")

    def number_in_strong(name: str) -> int | None:
        called = renamed.get(name, name)
        return strong_knows.index(called) if called in strong_knows else None

    shared = [number for number, name in enumerate(weak_knows) if number_in_strong(name) is not None]
    if "auto" in targets:
        chosen = sorted({*shared, *(class_number(text, all_names) for text in targets if text != "auto")})
        if not chosen:
            raise UserError(_no_match(", ".join(weak_knows), strong_knows))
    else:
        chosen = sorted({class_number(text, all_names) for text in targets})
    strong_number: dict[str, int] = {}
    for name in (all_names[number] for number in chosen):
        found = number_in_strong(name)
        if found is None:
            raise UserError(_no_match(name, strong_knows))
        strong_number[name] = found
    names = (*weak_knows, *(all_names[number] for number in chosen if number >= len(weak_knows)))
    return Classes(names, len(weak_knows), {names.index(name): found for name, found in strong_number.items()})


def _no_match(name: str, strong_knows: Sequence[str]) -> str:
    return (
        f"the strong model has no class {name}: expected names of {', '.join(strong_knows)}; if it has other "
        "names for them, give --class_map NEW=OLD"
    )


def parse_names(text: str, known: Sequence[str]) -> tuple[str, ...]:
    """Names separated by commas; a known one may have commas of its own."""
    parts, names = unicodedata.normalize("NFC", text).split(","), list[str]()
    while parts:
        ends = (end for end in range(len(parts), 0, -1) if ",".join(parts[:end]) in known)
        end = next(ends, 1)
        names.append(",".join(parts[:end]))
        del parts[:end]
    return tuple(names)


def parse_class_map(text: str) -> dict[str, str]:
    """`hound=dog,kitten=cat` -> new name to the strong model's. Raises UserError for other texts."""
    pairs = [pair.split("=") for pair in text.split(",") if pair]
    if not all(len(pair) == 2 and all(pair) for pair in pairs):
        raise UserError(f"--class_map {text}: expected NEW=OLD,NEW=OLD")
    return {unicodedata.normalize("NFC", new): unicodedata.normalize("NFC", old) for new, old in pairs}


def with_labels_of(images: Images, images_have: Sequence[str], names: Sequence[str]) -> tuple[Images, np.ndarray]:
    """The images of the named classes, labelled in the names' order, and which of all images they are (n,) int64."""
    label = np.array([names.index(name) if name in names else -1 for name in images_have])
    labels = label[images.labels]
    places = np.flatnonzero(labels >= 0)
    return replace(images.take(places), labels=labels[places]), places


def logits_of_network(network: nn.Module, images: Images, classes: int, device: torch.device) -> np.ndarray:
    """The logits (images, classes) float32 of a network, in evaluation mode; the network is left as it was.

    Args:
        network: images (n, channels, side, side) -> logits (n, classes), alone or in a tuple, list or dict.
        images: pixels (n, side, side, 3) and how they are normalised.
        classes: how many logits it gives.
        device: where it is run.

    Raises UserError if it has another number of logits, does not run, gives NaN, or answers an image differently
    from run to run or by the images next to it.
    """
    some = images.first(COMPARED)
    try:
        pixels = torch.tensor(some.pixels, device=device)
        with evaluating(network, device):
            check_repeats(network, normalise(pixels, images.normalisation), classes)
        logits = predict(OneAnswer(network, classes), images, device).numpy()
    except NetworkRefused as error:
        raise UserError(f"weak model: {error}") from None
    except UserError:
        raise
    except Exception as error:  # whatever somebody's network raises
        found = f"the weak model does not run on images of {images.pixels.shape[1]} pixels: {reason(error)}"
        raise UserError(f"{found}; give --weak_side") from None
    if logits.shape != (len(images), classes):
        given = logits.shape[1:]
        raise UserError(f"the weak model gives outputs {given}: expected {classes} logits, one for each class")
    if not np.isfinite(logits).all():
        raise UserError("the weak model gives NaN or infinity on these images")
    return logits


def load_weak_logits(
    folder: Path,
    part: str,
    images: Images,
    images_have: Sequence[str],
    classes: int,
    file_order: np.ndarray | None = None,
) -> np.ndarray:
    """(images, classes) float of all images of a part, from `PART_logits.npy` and `PART_labels.npy` in a folder.

    Args:
        folder, part: where they are; `valid` or `test`.
        images: the same images, in the same order, or in that of their files.
        images_have: the names of their labels.
        classes: that the weak model knows.
        file_order: (images,) the place of each image among the files; None if the files have no other order.

    Raises UserError if they are not of these images, or of another number of classes.
    """
    logits_file, labels_file = (folder / f"{part}_{what}.npy" for what in ("logits", "labels"))
    logits, labels = _load(logits_file), _load(labels_file)
    if logits.ndim != 2 or logits.dtype.kind != "f":
        raise UserError(f"{logits_file}: expected real numbers (images, classes), given {_form(logits)}")
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise UserError(f"{labels_file}: expected whole numbers (images,), given {_form(labels)}")
    if not len(logits) == len(labels) == len(images):
        raise UserError(
            f"{folder}: expected logits and labels of {len(images)} {part} images, as the images are, given "
            f"{len(logits)} and {len(labels)}"
        )
    if logits.shape[1] != classes:
        raise UserError(
            f"{logits_file}: expected logits of {classes} classes, given {logits.shape[1]}; name the weak model's "
            "classes, in the order of its logits, with --weak_classes"
        )
    if labels.min() < 0 or labels.max() >= len(images_have):
        raise UserError(
            f"{labels_file}: expected labels from 0 to {len(images_have) - 1} ({images_have[0]} to "
            f"{images_have[-1]}), given {labels.min()} to {labels.max()}"
        )
    if not np.isfinite(logits).all():
        bad = np.flatnonzero(~np.isfinite(logits).all(1))
        raise UserError(f"{logits_file}: {len(bad)} images have NaN or infinity, the first is {bad[0]}")
    is_other = file_order is not None and not np.array_equal(labels, images.labels)
    if is_other and np.array_equal(labels[file_order], images.labels):
        logits, labels = logits[file_order], labels[file_order]
    if len(other := np.flatnonzero(labels != images.labels)):
        place = other[0]
        raise UserError(
            f"{labels_file}: image {place} has label {labels[place]}, but is of class "
            f"{images.labels[place]} ({images_have[images.labels[place]]}): expected the order of the images"
        )
    return logits if logits.dtype in TORCH_KNOWS else logits.astype(np.float64)


def _load(path: Path) -> np.ndarray:
    """A user's `.npy` file, which has no checksum of ours."""
    if not path.exists():
        raise UserError(f"there is no file {path}; save it with numpy.save")
    try:
        if not path.is_file():
            raise ValueError("it is no file")  # a pipe would be waited for
        with path.open("rb") as file:
            return read_array(file, path.stat().st_size)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no plain array: {reason(error)}; save it with numpy.save") from None


def _form(array: np.ndarray) -> str:
    return f"{array.dtype} of shape {array.shape}"
