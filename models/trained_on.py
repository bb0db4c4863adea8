"""The images that the strong model was trained on, or imported with: recorded and compared with later ones."""

from configures.base import Config
from dataset.image_order import ImageOrder
from dataset.labelled_images import Split
from dataset.split_record import differences, record_of
from dataset.splits import load_split
from models import files as model_files
from utils.artifacts import Artifacts
from utils.errors import UserError


def load_strong_split(config: Config, artifacts: Artifacts) -> Split:
    """The strong model's classes and images, as `load_split`. Raises UserError for others than it was trained on."""
    split = load_split(config, image_order(artifacts), say_copies=False)
    check_trained_on(split, artifacts)
    return split


def image_order(artifacts: Artifacts) -> ImageOrder | None:
    """The order of the strong model's images, where it came with one; None where it was trained here, or imported.

    Raises UserError where the files are damaged.
    """
    file, record = model_files.image_order(artifacts), model_files.trained_on(artifacts).load_if_there()
    if record is None or not file.exists():
        return None
    counts = tuple(record.images.get(part, 0) for part in ("train", "valid", "test"))
    return ImageOrder(file.load(sum(counts)), counts)


def check_trained_on(split: Split, artifacts: Artifacts) -> None:
    """Raises UserError where the strong model is known to be trained on other images."""
    file = model_files.trained_on(artifacts)
    expected = file.load_if_there()
    if expected is not None and (different := differences(expected, record_of(split))):
        raise UserError(
            f"the images are not those that the strong model was trained on, or imported with ({different}; they are "
            f"recorded in {file.path}): bring those back, or train on these with: {file.made_by} --fresh"
        )
