"""A strong model and its modules, small enough to be published: weights in half precision.

A folder of four files. `network.json` and `strong_model.json` are as they stand next to a strong model; `report.json`
is the record of the modules as they are published, not of those that they were made of. `arrays.npz` has the strong
model's state_dict as `weights/NAME`, and of the modules `kernels` (classes, K) bool, True = kept, and the values of
their state_dicts as `modules/NAME`, flat: those of the first module, then of the second, and so on. Real numbers are
float16, running statistics of batch norms float32. Its `images`, (n,) uint64, are the hashes of an `ImageOrder`: of the
images that the strong model was trained on, and kept from.
"""

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dataset.images import SplitRecord
from models.files import NetworkSettings
from models.graph import Graph, GraphNetwork
from modules.module import extract_modules
from modules.module_set import SetRecord
from utils.artifacts import RecordFile
from utils.errors import UserError, reason
from utils.files import check_archive, check_writable, damaged, missing, read_array, unreadable, write_whole

TOP = Path(__file__).resolve().parent.parent / "published"
MADE_BY = "python experiments/results/publish_model.py"
WEIGHTS, MODULES = "weights/", "modules/"


@dataclass(frozen=True)
class PublishedModel:
    """A strong model and its modules."""

    weights: dict[str, Tensor]  # the strong model's state_dict, float32
    masks: np.ndarray  # (classes, K) bool, True = kept
    module_weights: dict[str, Tensor]  # the modules' `joined` state_dicts, float32
    network: NetworkSettings
    trained_on: SplitRecord
    images: np.ndarray  # (n,) uint64, the hashes of those images in their order
    report: SetRecord

    def modules(self, graph: Graph) -> list[GraphNetwork]:
        """The modules, in the order of their classes, on the graph's device.

        Raises ValueError if masks or weights fit no modules of the graph.
        """
        states = [module.state_dict() for module in extract_modules(graph, self.masks)]
        try:
            pieces = {
                name: iter(values.split([state[name].numel() for state in states if name in state]))
                for name, values in self.module_weights.items()
            }
            weights = [{name: next(pieces[name]).view_as(like) for name, like in each.items()} for each in states]
        except (KeyError, RuntimeError) as error:
            raise ValueError(f"expected the weights of the modules that kernels say: {reason(error)}") from None
        return extract_modules(graph, self.masks, weights=weights)


def joined(modules: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The values of modules' state_dicts by name, flat: those of the first module, then of the second, and so on."""
    names = dict.fromkeys(name for module in modules for name in module)
    return {name: torch.cat([module[name].flatten() for module in modules if name in module]) for name in names}


def in_half_precision(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state_dict, float32, as it comes back from a published model: float16, but for running statistics.

    Raises UserError if a weight is too large for that.
    """
    halved = {name: torch.from_numpy(_float32(_stored(name, value))) for name, value in weights.items()}
    lost = [name for name, value in halved.items() if not value.isfinite().all()]
    if lost:
        raise UserError(f"{', '.join(lost)}: expected weights up to 65,504, the largest that half precision can hold")
    return halved


def _stored(name: str, value: Tensor) -> np.ndarray:
    is_statistic = name.rpartition(".")[2].startswith("running_")
    return (value.half() if value.is_floating_point() and not is_statistic else value).cpu().numpy()


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
    parts = {WEIGHTS: model.weights, MODULES: model.module_weights}
    arrays = {f"{part}{name}": _stored(name, value) for part, state in parts.items() for name, value in state.items()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:  # as np.savez, which before NumPy 2.1 can not be kept from pickling
        for name, array in {**arrays, "kernels": model.masks, "images": model.images}.items():
            with archive.open(f"{name}.npy", "w") as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)
    write_whole(folder / "arrays.npz", lambda file: file.write(buffer.getvalue()))
    network, trained_on, report = _records(folder)
    network.save(model.network)
    trained_on.save(model.trained_on)
    report.save(model.report)


def load_published(folder: Path) -> PublishedModel:
    """A published model. Raises UserError if it is missing or damaged; nothing in it is executed."""
    files, path = _records(folder), folder / "arrays.npz"
    network, trained_on, report = files[0].load(), files[1].load(), files[2].load()
    try:
        with zipfile.ZipFile(path) as archive:
            check_archive(archive, path.stat().st_size)
            arrays = {
                info.filename.removesuffix(".npy"): _float32(read_array(archive.open(info), info.file_size))
                for info in archive.infolist()
            }
        masks, images = arrays["kernels"], arrays["images"]
        _check_masks(masks, report)
        _check_images(images, trained_on)
        weights, module_weights = (
            {name.removeprefix(part): torch.from_numpy(arrays[name]) for name in arrays if name.startswith(part)}
            for part in (WEIGHTS, MODULES)
        )
        if not all(value.isfinite().all() for value in (*weights.values(), *module_weights.values())):
            raise ValueError("expected finite weights, found NaN or infinity")
    except FileNotFoundError:
        raise missing(path, MADE_BY) from None
    except OSError as error:
        raise unreadable(path, error) from None
    except Exception as error:  # whatever a damaged or hostile file makes zipfile and NumPy raise
        raise damaged(path, MADE_BY, f"not a published model of this version: {reason(error)}") from None
    return PublishedModel(weights, masks, module_weights, network, trained_on, images, report)


def _records(folder: Path) -> tuple[RecordFile[NetworkSettings], RecordFile[SplitRecord], RecordFile[SetRecord]]:
    return (
        RecordFile(folder / "network.json", MADE_BY, NetworkSettings),
        RecordFile(folder / "strong_model.json", MADE_BY, SplitRecord),
        RecordFile(folder / "report.json", MADE_BY, SetRecord),
    )


def _check_masks(masks: np.ndarray, report: SetRecord) -> None:
    """Raises ValueError for masks that are not those of the recorded modules, one of each class."""
    expected = len(report.classes), report.kernels
    if str(masks.dtype) != "bool" or masks.shape != expected or tuple(masks.sum(1).tolist()) != report.kernels_kept:
        raise ValueError("expected kernels, the masks of the modules that report.json counts")
    if report.target_classes != tuple(range(len(masks))):
        raise ValueError("expected modules of all classes")


def _check_images(images: np.ndarray, trained_on: SplitRecord) -> None:
    """Raises ValueError for hashes that are not those of the recorded images."""
    if str(images.dtype) != "uint64" or images.shape != (sum(trained_on.images.values()),):
        raise ValueError("expected images, the hashes of those that strong_model.json counts")
