"""A module set: the modules of one, several or all classes of a strong model, in a folder that never changes.

The folder has `set.json`, and of each class C `class_C.pth`, the module's state_dict, and `class_C_kernels.npy`, its
kernel mask.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from configures.base import Config
from models import files as model_files
from models.graph import Graph, GraphNetwork
from models.strong_model import graph_of
from modules import files as module_files
from modules.module import is_float32, module_of_weights
from modules.own_class import MOST_BELOW, uninformative
from modules.source_network import SourceNetwork
from utils.artifacts import ArrayFile, ArtifactFile, Artifacts, CheckpointFile
from utils.errors import UserError, reason
from utils.files import sha256_of
from utils.tables import known, show_table


@dataclass(frozen=True)
class SetRecord:
    """Everything that is known of a set's modules; tuples have one entry per module, accuracies are counts of images.

    The composed model's logits are the strong model's, with those of the set's classes replaced by the modules'. For
    all classes these are the modules' logits alone.

    Attributes:
        classes: the names of the strong model's classes.
        kernels: K, of the strong model.
        kernels_kept: how many kernels each module keeps.
        jaccard_distance: of the masks, the mean over the pairs of modules.
        valid_images, test_images: how many images there are.
        valid_right_strong, test_right_strong: how many of them the strong model classifies correctly.
        valid_right_composed, test_right_composed: how many the composed model does.
        search: the method, its settings, and how the modules were found.
        valid_auc_strong, valid_auc_modules: the area under the ROC curve (AUC) of the class's own logit: how well it
            separates the class's validation images from all others; of the strong model, and of the module.
        target_classes: of the modules.
        parameters: of each module.
        flops: of one image, as a share of the strong model's.
        answer: what the modules give, a `logit` or `log_odds`, as `modules.module.as_answers` has it.
        explained: R^2 of the module's answer against the strong model's, on the validation images.
        output_low, output_high: the range of the logit on validation images of the class.
        parent: the set whose modules were fine-tuned.
        made_with: date, versions, machine.
        source: the strong model.
        image_side, resize: the side in pixels of the images that the modules take, and how they come to it.
        mean, std: what is subtracted from red, green and blue between 0 and 1, and what they are then divided by.
        files: SHA-256 by name.
    """

    classes: tuple[str, ...]
    kernels: int
    kernels_kept: tuple[int, ...]
    jaccard_distance: float
    valid_images: int
    valid_right_strong: int
    valid_right_composed: int
    test_images: int
    test_right_strong: int
    test_right_composed: int
    search: dict[str, Any]
    valid_auc_strong: tuple[float, ...] = ()
    valid_auc_modules: tuple[float, ...] = ()
    target_classes: tuple[int, ...] = ()
    parameters: tuple[int, ...] = ()
    flops: tuple[float, ...] = ()
    explained: tuple[float, ...] = ()
    output_low: tuple[float, ...] = ()
    output_high: tuple[float, ...] = ()
    answer: str = "logit"
    parent: str = ""
    made_with: dict[str, Any] = field(default_factory=dict)
    source: SourceNetwork | None = None
    image_side: int = 0
    resize: str = ""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    files: dict[str, str] = field(default_factory=dict)

    @property
    def answer_in_words(self) -> str:
        """What the modules give, for people."""
        return self.answer.replace("_", "-")

    def __post_init__(self) -> None:
        if not self.target_classes:
            object.__setattr__(self, "target_classes", tuple(range(len(self.classes))))
        columns = self.valid_auc_strong, self.valid_auc_modules, self.parameters, self.flops, self.explained
        lengths = {len(column) for column in (self.kernels_kept, *columns, self.output_low, self.output_high)}
        is_whole = lengths <= {0, len(self.target_classes)} and len(self.kernels_kept) == len(self.target_classes)
        if not is_whole or not set(self.target_classes) <= set(range(len(self.classes))):
            raise ValueError("expected one entry per module, of classes of the strong model")
        if self.answer not in ("logit", "log_odds"):
            raise ValueError(f"answer: expected logit or log_odds, found {self.answer}")
        if min(self.kernels, self.valid_images) < 1:
            raise ValueError("expected kernels and images")

    @property
    def method(self) -> str:
        """The search method's name."""
        return str(self.search.get("method", "unknown"))

    @property
    def kernel_share(self) -> float:
        """The mean share of the kernels that a module keeps."""
        return float(np.mean(self.kernels_kept)) / self.kernels

    @property
    def points_lost(self) -> float:
        """Accuracy of the composed model below the strong model's on validation images, in percentage points."""
        return 100 * (self.valid_right_strong - self.valid_right_composed) / self.valid_images

    @property
    def uninformative(self) -> list[int]:
        """The classes whose modules have a much lower AUC than the strong model."""
        return [self.target_classes[number] for number in uninformative(self.valid_auc_modules, self.valid_auc_strong)]

    @property
    def advice(self) -> str:
        """What makes uninformative modules better."""
        return "keep more kernels" if self.parent else "fine-tune them with module_fine_tuner.py, or keep more kernels"

    def aucs_in_words(self, target_classes: Sequence[int]) -> str:
        """How much lower than the strong model's the AUC of uninformative modules is."""
        numbers = [self.target_classes.index(target_class) for target_class in target_classes]
        aucs = [
            f"{self.classes[self.target_classes[number]]} "
            f"({self.valid_auc_modules[number]:.2f}, strong model {self.valid_auc_strong[number]:.2f})"
            for number in numbers
        ]
        return f"AUC more than {MOST_BELOW:g} below the strong model's: {_enumerated(aucs, 12)}"


@dataclass(frozen=True)
class ModuleSet:
    """A module set on the disk, whose files are checked when they are read."""

    name: str
    folder: Path
    record: SetRecord
    config: Config
    made_by: str  # the command that makes it, for messages

    @property
    def target_classes(self) -> tuple[int, ...]:
        """The classes of the modules, in rising order."""
        return self.record.target_classes

    def file(self, target_class: int) -> CheckpointFile:
        """The state_dict of a class's module."""
        return module_files.module(self.folder, target_class, self.made_by)

    def kernels_file(self, target_class: int) -> ArrayFile:
        """(K,) bool, True = kept."""
        return module_files.module_kernels(self.folder, target_class, self.made_by)

    def mask(self, target_class: int) -> np.ndarray:
        """(K,) bool, True = kept, of one module. Raises UserError if it is missing or fits no module."""
        file, units = self.kernels_file(target_class), graph_of(self.config).units
        kernel_mask = file.load(units.num_kernels)
        self._check_checksum(file)
        try:
            units.gather(kernel_mask)
        except ValueError as error:
            raise file.damaged(str(error)) from None
        return kernel_mask

    def masks(self) -> np.ndarray:
        """(modules, K) bool, True = kept, in the order of `target_classes`."""
        return np.stack([self.mask(target_class) for target_class in self.target_classes])

    def module(self, target_class: int, device: torch.device) -> GraphNetwork:
        """The module of one class, in evaluation mode, channels-last, on the device.

        Its forward: normalised images (n, 3, side, side) -> the class's logit (n, 1). Raises UserError if its files
        are missing or damaged, or of another network than the configuration's.
        """
        file, network = self.file(target_class), self.config.network_name
        weights, kernel_mask = file.load(), self.mask(target_class)
        self._check_checksum(file)
        if not is_float32(weights):
            raise file.damaged(f"not a module of {network}: expected float32 weights")
        try:
            module = module_of_weights(graph_of(self.config), kernel_mask, target_class, weights)
        except RuntimeError as error:
            raise file.damaged(f"not the module of {network} that its mask says: {reason(error)}") from None
        if not all(torch.isfinite(value).all() for value in weights.values()):
            raise file.damaged("it holds NaN or infinity")
        return module.to(device).to(memory_format=torch.channels_last)

    def modules(self, device: torch.device) -> list[GraphNetwork]:
        """All modules, in the order of `target_classes`."""
        return [self.module(target_class, device) for target_class in self.target_classes]

    def check_source(self, artifacts: Artifacts) -> None:
        """Raises UserError if the modules are known to be cut from another strong model than the one there is."""
        now = source_of(graph_of(self.config), self.config, artifacts)
        if self.record.source and (difference := self.record.source.difference_from(now)):
            raise UserError(
                f"the modules in {self.folder} are of another network: {difference}; "
                f"make a new set with: {self.made_by}"
            )

    def _check_checksum(self, file: ArtifactFile) -> None:
        expected = self.record.files.get(file.path.name)
        if self.record.files and expected != sha256_of(file.path):
            raise UserError(
                f"{file.path} was not written together with the other modules there, as their record lists them: "
                f"a module set never changes; make a new one with: {self.made_by}"
            )


def source_of(graph: Graph, config: Config, artifacts: Artifacts) -> SourceNetwork:
    """The strong model that modules are cut from now."""
    file = model_files.entire_model(artifacts)
    if not file.exists():
        return SourceNetwork.of(graph, config)
    status = file.path.stat()
    return SourceNetwork.of(graph, config, _sha256_of(file.path, status.st_mtime_ns, status.st_size))


@functools.lru_cache(maxsize=1)
def _sha256_of(path: Path, _time: int, _size: int) -> str:
    """The checksum of a file as it is now."""
    return sha256_of(path)


def show_module_set(record: SetRecord) -> None:
    """Print the modules, and the composed model next to the strong one.

    Example: `show(evaluate(strong, masks, modules, test_images, test_labels))`. The images given to `evaluate` are
    labelled `valid` in the table, whichever they are.

    Args:
        record: as `evaluate` of `cnn_modules` returns it, or of a module set.
    """
    unknown = (math.nan,) * len(record.target_classes)
    columns = record.flops, record.valid_auc_modules, record.valid_auc_strong, record.explained
    rows = [
        [
            target_class,
            record.classes[target_class],
            kept,
            f"{kept / record.kernels:.1%}",
            *(known(value, form) for value, form in zip(values, (".1%", ".4f", ".4f", ".1%"), strict=True)),
        ]
        for target_class, kept, *values in zip(
            record.target_classes, record.kernels_kept, *(column or unknown for column in columns), strict=True
        )
    ]
    measured = "FLOPs", "valid AUC", "strong model's", f"{record.answer_in_words} explained"
    show_table(["class", "name", "kernels kept", f"of {record.kernels}", *measured], rows)
    print()
    rows = []
    for part in ("valid", "test"):
        images, strong, composed = (
            getattr(record, f"{part}_{name}") for name in ("images", "right_strong", "right_composed")
        )
        if images:
            difference = f"{(composed - strong) / images * 100:+.2f}"
            rows.append([part, images, _share(strong, images), _share(composed, images), difference])
    show_table(["images", "count", "strong model", "composed model", "points"], rows)
    print(f"\nkernels kept, mean over modules: {record.kernel_share:.1%}", end="")
    print(f"; mean Jaccard distance: {record.jaccard_distance:.4f}" if len(rows) and len(unknown) > 1 else "")
    if record.uninformative:
        names = _enumerated([record.classes[number] for number in record.uninformative], 10)
        print(f"uninformative modules: {names}; before patching, {record.advice}")


def class_names(record: SetRecord) -> str:
    """The classes of a set's modules in words."""
    names = [record.classes[number] for number in record.target_classes]
    return f"all {len(names)}" if len(names) == len(record.classes) else _enumerated(names, 5)


def _enumerated(names: Sequence[str], most: int) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _share(right: int, images: int) -> str:
    return f"{right / images:.2%} ({right})"
