"""A strong model and its modules, small enough to be published: weights in half precision, and what the modules keep.

A folder of four files. `network.json` and `strong_model.json` are as they stand next to a strong model; `report.json`
is the record of the modules as they are published, not of those that they were made of. `arrays.npz` has the strong
model's state_dict as `weights/NAME`, real numbers in float16; and of the modules `kernels` (classes, K) bool, True =
kept, `gains` (classes, K) float32 and `logit_maps` (classes, 2) float32: see `modules.module.Tuning`. Its `images`,
(n,) uint64, are the hashes of an `ImageOrder`: of the images that the strong model was trained on, and kept from.
"""

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dataset.images import SplitRecord
from models.files import NetworkSettings
from modules.module import Tuning
from modules.module_set import SetRecord
from utils.artifacts import RecordFile
from utils.errors import UserError, reason
from utils.files import check_archive, check_writable, damaged, missing, read_array, unreadable, write_whole

TOP = Path(__file__).resolve().parent.parent / "published"
MADE_BY = "python experiments/results/publish_model.py"
WEIGHTS = "weights/"


@dataclass(frozen=True)
class PublishedModel:
    """A strong model and its modules."""

    weights: dict[str, Tensor]  # the strong model's state_dict, float32
    masks: np.ndarray  # (classes, K) bool, True = kept
    tuning: Tuning
    network: NetworkSettings
    trained_on: SplitRecord
    images: np.ndarray  # (n,) uint64, the hashes of those images in their order
    report: SetRecord


def in_half_precision(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state_dict, float32, as it comes back from float16.

    Raises UserError where a weight is too large for that.
    """
    halved = {name: torch.from_numpy(_float32(_float16(value))) for name, value in weights.items()}
    lost = [name for name, value in halved.items() if not value.isfinite().all()]
    if lost:
        raise UserError(f"{', '.join(lost)}: expected weights up to 65,504, the largest that half precision can hold")
    return halved


def _float16(value: Tensor) -> np.ndarray:
    return (value.half() if value.is_floating_point() else value).cpu().numpy()


def _float32(value: np.ndarray) -> np.ndarray:
    return value.astype(np.float32) if value.dtype.kind == "f" else value


def check_can_publish(folder: Path, model_folder: Path) -> None:
    """Raises UserError, before any work, for a folder in which files are that are no published model's."""
    names = ("arrays.npz", *(file.path.name for file in _records(folder)))
    found = [name for name in names if (folder / name).exists()]
    if found and not _is_published(folder, model_folder):
        raise UserError(
            f"--folder: {folder / found[0]} is there, and is not part of a published model: give another folder, or "
            "move it away"
        )
    check_writable(folder)


def _is_published(folder: Path, model_folder: Path) -> bool:
    if folder.resolve() == model_folder.resolve():
        return False
    try:
        load_published(folder)
    except UserError:
        return False
    return True


def save_published(folder: Path, model: PublishedModel) -> None:
    """Write the files of a published model, each whole."""
    arrays = {f"{WEIGHTS}{name}": _float16(value) for name, value in model.weights.items()}
    modules = {"kernels": model.masks, "gains": model.tuning.gains, "logit_maps": model.tuning.logit_maps}
    images = {"images": model.images}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:  # as np.savez, which before NumPy 2.1 can not be kept from pickling
        for name, array in {**arrays, **modules, **images}.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
    write_whole(folder / "arrays.npz", lambda file: file.write(buffer.getvalue()))
    for file, part in zip(_records(folder), (model.network, model.trained_on, model.report), strict=True):
        file.save(part)


def load_published(folder: Path) -> PublishedModel:
    """A published model. Raises UserError where it is missing or damaged; nothing in it is executed."""
    parts, path = [file.load() for file in _records(folder)], folder / "arrays.npz"
    try:
        with zipfile.ZipFile(path) as archive:
            check_archive(archive, path.stat().st_size)
            arrays = {
                info.filename.removesuffix(".npy"): _float32(read_array(archive.open(info), info.file_size))
                for info in archive.infolist()
            }
        masks, gains, logit_maps, images = (arrays.pop(n) for n in ("kernels", "gains", "logit_maps", "images"))
        _check_modules(masks, gains, logit_maps)
        _check_images(images, parts[1])
        weights = {name.removeprefix(WEIGHTS): torch.from_numpy(value) for name, value in arrays.items()}
    except FileNotFoundError:
        raise missing(path, MADE_BY) from None
    except OSError as error:
        raise unreadable(path, error) from None
    except Exception as error:  # whatever a damaged or hostile file makes zipfile and NumPy raise
        raise damaged(path, MADE_BY, f"not a published model: {reason(error)}") from None
    network, trained_on, report = parts
    return PublishedModel(weights, masks, Tuning(gains, logit_maps), network, trained_on, images, report)


def _records(folder: Path) -> tuple[RecordFile[NetworkSettings], RecordFile[SplitRecord], RecordFile[SetRecord]]:
    return (
        RecordFile(folder / "network.json", MADE_BY, NetworkSettings),
        RecordFile(folder / "strong_model.json", MADE_BY, SplitRecord),
        RecordFile(folder / "report.json", MADE_BY, SetRecord),
    )


def _check_modules(masks: np.ndarray, gains: np.ndarray, logit_maps: np.ndarray) -> None:
    """Raises ValueError for arrays that are not those of modules."""
    kinds = [str(array.dtype) for array in (masks, gains, logit_maps)]
    shapes_fit = masks.ndim == 2 and gains.shape == masks.shape and logit_maps.shape == (len(masks), 2)
    if kinds != ["bool", "float32", "float32"] or not shapes_fit:
        raise ValueError("expected kernels, gains and logit_maps of the same modules")
    if not (np.isfinite(gains).all() and (gains > 0).all() and np.isfinite(logit_maps).all()):
        raise ValueError("expected gains above 0, and finite logit maps")


def _check_images(images: np.ndarray, trained_on: SplitRecord) -> None:
    """Raises ValueError for hashes that are not those of the recorded images."""
    if str(images.dtype) != "uint64" or images.shape != (sum(trained_on.images.values()),):
        raise ValueError("expected images, the hashes of those that strong_model.json counts")
