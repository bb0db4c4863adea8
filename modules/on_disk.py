"""Modules on the disk: written at the end of a search, whichever way it searched, and read checked."""

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from configures.base import Config
from dataset.labelled_images import Images, Split
from models import files as model_files
from models.graph import Graph, GraphNetwork
from models.strong_model import graph_of
from models.training import count_right, predict
from models.weights import cpu_state
from modules import files as module_files
from modules.composed_model import ComposedModel
from modules.earlier_versions import EarlierSource as SourceNetwork
from modules.for_patch import ModuleForPatch
from modules.jaccard import mean_pairwise_distance
from modules.modularization import Modularization
from modules.module import Tuning, extract_modules, is_float32, module_of_weights
from modules.own_class import auc_by_class
from utils.artifacts import ArtifactFile, Artifacts
from utils.errors import UserError, reason
from utils.files import sha256_of
from utils.stage import Stage


def save_modularization(
    strong: Graph,
    masks: np.ndarray,
    split: Split,
    stage: Stage,
    search: dict[str, Any],
    tuning: Tuning | None = None,
) -> Modularization:
    """Extract every class's module, evaluate them composed, and write them with what is known of them.

    Args:
        strong: the strong model.
        masks: (classes, K) bool, True = kept.
        split: the images to evaluate on.
        stage: where to write.
        search: how the masks were found.
        tuning: what was learned of the modules beside their masks; None = nothing.
    """
    modules = extract_modules(strong, masks, tuning)
    result = evaluate_modules(strong, modules, masks, split, stage.device, search)
    write_modules(strong, modules, masks, result, stage.config, stage.artifacts)
    return result


def write_modules(
    strong: Graph,
    modules: Sequence[GraphNetwork],
    masks: np.ndarray,
    known: Modularization,
    config: Config,
    artifacts: Artifacts,
) -> None:
    """Write every class's module, its mask (classes, K) bool, True = kept, what is known of them, and their source."""
    files: list[tuple[ArtifactFile, Any]] = []
    for target_class, module in enumerate(modules):
        files.append((module_files.module(artifacts, target_class), cpu_state(module)))
        files.append((module_files.module_kernels(artifacts, target_class), masks[target_class]))
    _write_set(_source(strong, config, artifacts), artifacts, files, (module_files.report(artifacts), known))


def _write_set(
    source: SourceNetwork,
    artifacts: Artifacts,
    files: Sequence[tuple[ArtifactFile, Any]],
    report: tuple[ArtifactFile, Any],
) -> None:
    """Write files with their contents, then the report, over an earlier set.

    An interrupted run leaves a record that says so, and files that are later mixed with another run's do not have the
    checksums in it. Either is refused when modules are loaded.
    """
    record = module_files.source_network(artifacts)
    record.save(replace(source, is_whole=False))
    report[0].remove()
    for file, content in (*files, report):
        file.save(content)
    record.save(replace(source, files={file.path.name: sha256_of(file.path) for file, _ in files}))


def evaluate_modules(
    strong: Graph,
    modules: Sequence[GraphNetwork],
    masks: np.ndarray,
    split: Split,
    device: torch.device,
    search: dict[str, Any],
) -> Modularization:
    """What is known of modules of masks (classes, K) bool, True = kept: composed, and each by itself."""
    networks = {"strong": strong.network, "composed": ComposedModel(modules)}
    right, valid_auc = {}, {}
    for name, network in networks.items():
        valid, test = (predict(network, images, device) for images in (split.valid, split.test))
        right["valid", name] = count_right(valid, split.valid.labels)
        right["test", name] = count_right(test, split.test.labels)
        valid_auc[name] = tuple(auc_by_class(valid.numpy(), split.valid.labels).tolist())
    return Modularization(
        classes=split.classes,
        kernels=masks.shape[1],
        kernels_kept=tuple(int(kept) for kept in masks.sum(1)),
        jaccard_distance=mean_pairwise_distance(masks),
        valid_images=len(split.valid),
        valid_right_strong=right["valid", "strong"],
        valid_right_composed=right["valid", "composed"],
        test_images=len(split.test),
        test_right_strong=right["test", "strong"],
        test_right_composed=right["test", "composed"],
        search=search,
        valid_auc_strong=valid_auc["strong"],
        valid_auc_modules=valid_auc["composed"],
    )


def save_module_for_patch(
    strong: Graph, mask: np.ndarray, tuning: Tuning, stage: Stage, of_class: Images, known: ModuleForPatch
) -> None:
    """Extract and write one class's module, in its own place, and what it says about its class.

    Args:
        strong: the strong model.
        mask: (K,) bool, True = kept.
        tuning: what was learned of the module beside, for one module.
        stage: where to write.
        of_class: the validation images of the class.
        known: what is known of it.
    """
    (module,) = extract_modules(strong, mask[None], tuning, [known.target_class])
    write_module_for_patch(strong, module, mask, stage, of_class, known)


def write_module_for_patch(
    strong: Graph, module: GraphNetwork, mask: np.ndarray, stage: Stage, of_class: Images, known: ModuleForPatch
) -> None:
    """The same of a module that is there, on the device."""
    target_class = known.target_class
    place = stage.artifacts.for_patch(target_class)
    outputs = predict(module, of_class, stage.device)[:, 0].numpy()
    files = [
        (module_files.module(place, target_class), cpu_state(module)),
        (module_files.module_kernels(place, target_class), mask),
        (module_files.module_outputs(place, target_class), outputs),
    ]
    report = module_files.report_for_patch(place), known
    _write_set(_source(strong, stage.config, place), place, files, report)


def load_modularization(config: Config, artifacts: Artifacts) -> Modularization:
    """What report.json says.

    Raises UserError where it is missing, damaged, or of another number of classes, or the modules are half written.
    """
    file = module_files.report(artifacts)
    _check_is_whole(artifacts)
    result = file.load()
    counts = {len(result.classes), len(result.kernels_kept)}
    if result.valid_auc_strong or result.valid_auc_modules:  # an earlier version wrote none
        counts |= {len(result.valid_auc_strong), len(result.valid_auc_modules)}
    if counts != {config.num_classes}:
        raise file.damaged(f"expected {config.num_classes} classes")
    if min(result.kernels, result.valid_images, result.test_images) < 1:
        raise file.damaged("expected kernels and images")
    return result


def load_kernel_mask(config: Config, artifacts: Artifacts, target_class: int) -> np.ndarray:
    """(K,) bool, True = kept, of one module. Raises UserError where it is missing or fits no module."""
    file = module_files.module_kernels(artifacts, target_class)
    check_source_network(config, artifacts)
    units = graph_of(config).units
    kernel_mask = file.load(units.num_kernels)
    _check_is_of_set(file, artifacts)
    try:
        units.gather(kernel_mask)
    except ValueError as error:
        raise file.damaged(str(error)) from None
    return kernel_mask


def load_module(config: Config, artifacts: Artifacts, target_class: int, device: torch.device) -> GraphNetwork:
    """The module of one class, in evaluation mode, channels-last, on the device.

    Its forward: normalised images (n, 3, side, side) -> the class's logit (n, 1). Raises UserError where its checkpoint
    or kernel mask is missing or damaged, they are of different modules, or of another network than the configuration's.
    """
    file = module_files.module(artifacts, target_class)
    _check_is_whole(artifacts)
    weights = file.load()
    kernel_mask = load_kernel_mask(config, artifacts, target_class)
    _check_is_of_set(file, artifacts)
    if not is_float32(weights):
        raise file.damaged(f"not a module of {config.network_name}: expected float32 weights")
    try:
        module = module_of_weights(graph_of(config), kernel_mask, target_class, weights)
    except RuntimeError as error:
        raise file.damaged(f"not the module of {config.network_name} that its mask says: {reason(error)}") from None
    if not all(torch.isfinite(value).all() for value in weights.values()):
        raise file.damaged("it holds NaN or infinity")
    return module.to(device, memory_format=torch.channels_last)


def check_source_network(config: Config, artifacts: Artifacts) -> None:
    """Raises UserError where the modules are known to be cut from another strong model than the one that is there."""
    file = module_files.source_network(artifacts)
    _check_is_whole(artifacts)
    if not file.exists():  # written by an earlier version
        return
    if difference := file.load().difference_from(_source(graph_of(config), config, artifacts)):
        raise UserError(
            f"the modules in {file.path.parent} are of another network: {difference}; "
            f"make them again with: {file.made_by}"
        )


def _check_is_whole(artifacts: Artifacts) -> None:
    """Raises UserError where the run that wrote modules last did not come to the end of it."""
    file = module_files.source_network(artifacts)
    source = file.load_if_there()
    if source is not None and not source.is_whole:
        raise UserError(
            f"the modules in {file.path.parent} are half written: the run that wrote them was interrupted; "
            f"make them again with: {file.made_by}"
        )


def _check_is_of_set(file: ArtifactFile, artifacts: Artifacts) -> None:
    """Raises UserError where a file of a module is not the one that was written with the others."""
    record = module_files.source_network(artifacts)
    source = record.load_if_there()
    if source is not None and source.files and source.files.get(file.path.name) != sha256_of(file.path):
        raise UserError(
            f"{file.path} was not written together with the other modules there, as {record.path.name} lists them: "
            f"files of two runs are mixed; make them again with: {file.made_by}"
        )


def _source(graph: Graph, config: Config, artifacts: Artifacts) -> SourceNetwork:
    """What modules are cut from now."""
    file = model_files.entire_model(artifacts.of_model)
    if not file.exists():
        return SourceNetwork.of(graph, config)
    status = file.path.stat()
    return SourceNetwork.of(graph, config, _sha256_of(file.path, status.st_mtime_ns, status.st_size))


@functools.lru_cache(maxsize=1)
def _sha256_of(path: Path, _time: int, _size: int) -> str:
    """The checksum of a file as it is now, which every module that is read asks for."""
    return sha256_of(path)
