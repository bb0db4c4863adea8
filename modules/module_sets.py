"""The module sets of a strong model: written under a name of their own, listed, and opened by name."""

import contextlib
import itertools
import re
import secrets
import shutil
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from configures.base import Config
from dataset.images import Images, Split, normalise, to_device
from models import files as model_files
from models.evaluation import count_parameters, count_right, cpu_state, predict
from models.graph import (
    STATISTICS_IMAGES,
    Graph,
    GraphNetwork,
    estimate_statistics,
    flops_of,
    has_batch_norm,
    statistics_batches,
)
from models.opening import Stage
from models.strong_model import graph_of
from modules import files as module_files
from modules.jaccard import mean_pairwise_distance
from modules.module import CutModules, as_answers, predict_modules, replaced
from modules.module_set import ModuleSet, SetRecord, class_names, source_of
from modules.own_class import auc_by_class, explained_variance
from utils.artifacts import Artifacts, RecordFile
from utils.device import machine_facts, utc_now
from utils.errors import MissingFile, UserError, reason
from utils.files import sha256_of

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,199}")
LONGEST = 100  # characters of a name that a user gives; longer ones are made of it
RECORD = "set.json"
ABANDONED = 3600.0  # seconds after which a folder that no process finished is removed


def add_modules_option(parser: ArgumentParser) -> None:
    """What stages take that use modules: `arguments.modules`."""
    parser.add_argument(
        "--modules", metavar="SET", help="the module set to use (scripts/list_modules.py); default: the most recent one"
    )


def add_as_option(parser: ArgumentParser, default: str) -> None:
    """What stages take that make modules: `arguments.as_name`."""
    parser.add_argument("--as", dest="as_name", metavar="NAME", help=f"of the new module set; default: {default}")


# Reading
def open_set(
    config: Config, artifacts: Artifacts, name: str | None = None, target_classes: Sequence[int] | None = None
) -> ModuleSet:
    """A module set of the strong model that is there.

    Args:
        config, artifacts: of the strong model.
        name: of the set; None = the most recent one.
        target_classes: whose modules are needed; None = those of all classes.

    Raises UserError if there is no such set, it lacks classes, or it comes from another strong model.
    """
    name = name or latest_name(artifacts)
    found = read_set(config, artifacts, name)
    found.check_source(artifacts)
    needed = range(config.num_classes) if target_classes is None else target_classes
    if lacking := [number for number in needed if number not in found.target_classes]:
        having = [each.name for each in module_sets(config, artifacts) if set(needed) <= set(each.target_classes)]
        some = [] if len(lacking) > 5 else ["--target_class", *map(str, lacking)]
        made_by = artifacts.command("module_gradient_search.py", *some)
        hint = f"give --modules {' or '.join(having)}" if having else f"make them with: {made_by}"
        names = ", ".join(f"{number} ({found.record.classes[number]})" for number in lacking[:5])
        raise UserError(
            f"module set {name} has modules of {class_names(found.record)}: expected one of class {names}"
            f"{' ...' if len(lacking) > 5 else ''}; {hint}"
        )
    return found


def latest_name(artifacts: Artifacts) -> str:
    """The most recent set's name. Raises UserError if there is none."""
    file, folders = module_files.latest_set(artifacts), _folders(artifacts)
    if file.exists():
        name = str(file.load().get("set"))
        if name in folders:
            return name
    if not folders:
        made_by = module_files.search_command(artifacts)
        raise MissingFile(f"no module set in {module_files.sets_folder(artifacts)}; first run: {made_by}")
    return list(folders)[-1]


def read_set(config: Config, artifacts: Artifacts, name: str) -> ModuleSet:
    """A set by its name, whatever strong model it comes from. Raises UserError if it is missing or damaged."""
    folders, made_by = _folders(artifacts), module_files.search_command(artifacts)
    if name not in folders:
        known = ", ".join(folders) or "none"
        raise UserError(f"--modules {name}: no such module set, expected one of: {known}; to make it: {made_by}")
    folder = folders[name]
    file = RecordFile(folder / RECORD, made_by, SetRecord)
    record = file.load()
    if len(record.classes) != config.num_classes:
        raise file.damaged(f"expected {config.num_classes} classes, found {len(record.classes)}")
    return ModuleSet(name, folder, record, config, made_by)


def module_sets(config: Config, artifacts: Artifacts) -> list[ModuleSet]:
    """All sets that are there, the oldest first; damaged ones are left out."""
    found = []
    for name in _folders(artifacts):
        with contextlib.suppress(UserError):
            found.append(read_set(config, artifacts, name))
    return found


def _folders(artifacts: Artifacts) -> dict[str, Path]:
    """The folder of each set by its name, the oldest first."""
    records = module_files.sets_folder(artifacts).glob(f"*/{RECORD}")
    whole = [path for path in records if NAME.fullmatch(path.parent.name)]
    whole.sort(key=lambda path: path.stat().st_mtime_ns)
    return {path.parent.name: path.parent for path in whole}


def collected_outputs(stage: Stage, modules: ModuleSet, target_class: int, images: Images) -> np.ndarray:
    """A module's logit (images,) float32 on all validation images of its class: read, or computed and written.

    Raises UserError if there is no such image, or the module gives NaN or infinity.
    """
    name = modules.record.classes[target_class]
    if not len(images):
        raise UserError(
            f"class {target_class} ({name}) has no validation images: expected some; "
            f"add training images of it to dataset {stage.config.image_source}"
        )
    file = module_files.module_outputs(stage.artifacts, target_class, modules.name)
    outputs = file.load_if_whole(len(images))
    if outputs is None or not _is_range(outputs, modules.record, target_class):
        outputs = predict(modules.module(target_class, stage.device), images, stage.device)[:, 0].numpy()
        if not np.isfinite(outputs).all():
            raise UserError(
                f"module {modules.file(target_class).path} gives NaN or infinity on images of its class: make a new "
                f"set with: {modules.made_by}"
            )
        file.save(outputs)
    return outputs


def _is_range(outputs: np.ndarray, record: SetRecord, target_class: int) -> bool:
    """Whether outputs have the recorded range: others come from another set that had the same name, and was removed."""
    if not record.output_low:  # not known
        return False
    number = record.target_classes.index(target_class)
    expected = np.array([record.output_low[number], record.output_high[number]])
    return bool(np.abs([outputs.min(), outputs.max()] - expected).max() <= 1e-3 * max(np.abs(expected).max(), 1e-3))


# Writing
def check_new_name(name: str | None) -> None:
    """Raises UserError, before any work, for a `--as NAME` that no set can have."""
    if name is not None and not (NAME.fullmatch(name) and len(name) <= LONGEST):
        raise UserError(f"--as {name}: expected at most {LONGEST} letters, digits, _ and -, the first one no _ or -")


def save_set(
    stage: Stage,
    strong: Graph,
    masks: np.ndarray,
    split: Split,
    search: dict[str, Any],
    *,
    name: str | None,
    default_name: str,
    target_classes: Sequence[int] | None = None,
    weights: Sequence[Mapping[str, Tensor]] | None = None,
    parent: str = "",
    answer: str = "logit",
) -> ModuleSet:
    """Extract modules, evaluate them, and write them as a new set, which is the most recent one from then on.

    Raises UserError if the strong model was replaced since the search of the modules, or of the parent's, began.

    Args:
        stage: where to write.
        strong: the strong model.
        masks: (modules, K) bool, True = kept.
        split: the images to evaluate on.
        search: how the modules were found; plain values, `method` among them.
        name: of the set, as the user gave it; None = `default_name`, with a number if that is taken.
        default_name: see `name`.
        target_classes: of the modules, in rising order; None = all classes.
        weights: the modules' state_dicts; None = they have the strong model's.
        parent: the name of the set that they were trained from.
        answer: what they give, see `as_answers`.
    """
    targets = tuple(range(strong.num_classes) if target_classes is None else target_classes)
    modules = CutModules(strong, masks, targets, weights)
    if weights is None and has_batch_norm(modules[0].graph_program):
        modules = with_better_statistics(strong, masks, targets, split, stage.device)
    record = evaluate_set(strong, modules, masks, targets, split, stage.device, search, answer)
    record = replace(record, parent=parent)
    if parent:
        source = read_set(stage.config, stage.artifacts, parent).record.source
        cut_from = source.strong_model_sha256 if source else ""
    else:
        cut_from = search.get("settings", {}).get("strong_model_sha256", "")
    names: dict[str, Any] = {"name": name, "default_name": default_name}
    return write_set(stage.config, stage.artifacts, modules, masks, record, cut_from=cut_from, **names)


def with_better_statistics(
    strong: Graph, masks: np.ndarray, target_classes: Sequence[int], split: Split, device: torch.device
) -> CutModules:
    """Modules whose batch norms have the strong model's statistics, or their own: which classify better on `valid`.

    Without the kernels that were dropped, feature maps have other means and variances.
    """
    of_strong, labels = predict(strong.network, split.valid, device), split.valid.labels
    images = split.train.first(STATISTICS_IMAGES)
    batches = statistics_batches(to_device(images, device)[0], strong.image_shape[-1])
    modules, statistics = CutModules(strong, masks, target_classes), []
    for module in modules:
        estimate_statistics(module, (normalise(batch, images.normalisation) for batch in batches))
        statistics.append({name: value.clone() for name, value in module.named_buffers()})
    estimated = CutModules(strong, masks, target_classes, statistics=statistics)
    right, right_estimated = (
        count_right(replaced(of_strong, predict_modules(each, split.valid, device), target_classes), labels)
        for each in (modules, estimated)
    )
    print(
        f"batch norm statistics: of {len(labels)} validation images {right} right with the strong model's, "
        f"{right_estimated} with those estimated of each module"
    )
    return estimated if right_estimated > right else modules


def evaluate_set(
    strong: Graph,
    modules: Sequence[GraphNetwork],
    masks: np.ndarray,
    target_classes: Sequence[int],
    split: Split,
    device: torch.device,
    search: dict[str, Any],
    answer: str = "logit",
) -> SetRecord:
    """Evaluate modules of masks (modules, K) bool, True = kept: composed, and each by itself."""
    targets, image = list(target_classes), strong.image_shape
    counts: dict[str, Any] = {}
    for part in ("test", "valid"):
        images: Images = getattr(split, part)
        of_strong = as_answers(predict(strong.network, images, device), answer)
        of_modules = predict_modules(modules, images, device)
        counts[f"{part}_images"] = len(images)
        counts[f"{part}_right_strong"] = count_right(of_strong, images.labels)
        counts[f"{part}_right_composed"] = count_right(replaced(of_strong, of_modules, targets), images.labels)
    strong_logits, logits, labels = of_strong[:, targets].numpy(), of_modules.numpy(), split.valid.labels
    is_own = labels[:, None] == np.array(targets)
    costs = [(count_parameters(module), flops_of(module, image) / strong.flops) for module in modules]
    parameters, flops = zip(*costs, strict=True)
    return SetRecord(
        classes=split.classes,
        kernels=masks.shape[1],
        kernels_kept=tuple(int(kept) for kept in masks.sum(1)),
        jaccard_distance=mean_pairwise_distance(masks),
        **counts,
        search=search,
        valid_auc_strong=tuple(auc_by_class(strong_logits, labels, targets).tolist()),
        valid_auc_modules=tuple(auc_by_class(logits, labels, targets).tolist()),
        target_classes=tuple(targets),
        parameters=parameters,
        flops=flops,
        explained=tuple(explained_variance(logits, strong_logits).tolist()),
        answer=answer,
        output_low=tuple(np.where(is_own, logits, np.inf).min(0).tolist()),
        output_high=tuple(np.where(is_own, logits, -np.inf).max(0).tolist()),
    )


def write_set(
    config: Config,
    artifacts: Artifacts,
    modules: Sequence[GraphNetwork],
    masks: np.ndarray,
    record: SetRecord,
    *,
    name: str | None,
    default_name: str,
    cut_from: str = "",
) -> ModuleSet:
    """Write modules, their masks (modules, K) bool, and their record, as a new set: see `save_set`.

    `cut_from` is the SHA-256 of the strong model's file that the modules were cut from; "" = that of now.

    Raises UserError for a `name` that another set has, or if the strong model was replaced since the modules were cut.
    A set of the same modules is not written again.
    """
    check_new_name(name)
    folder, made_by = module_files.sets_folder(artifacts), module_files.search_command(artifacts)
    source = source_of(graph_of(config), config, artifacts)
    if cut_from and source.strong_model_sha256 != cut_from:
        raise UserError(
            f"{model_files.entire_model(artifacts).path} was replaced since these modules were cut from it (SHA-256 "
            f"{cut_from[:12]} then, {source.strong_model_sha256[:12] or 'none'} now): bring the old one back and try "
            "again, or search again with --fresh"
        )
    record = replace(
        record,
        made_with={"date": utc_now(), **machine_facts("torch", "numpy")},
        source=source,
        **{each: getattr(config, each) for each in ("image_side", "resize", "mean", "std")},
    )
    with _new_folder(folder) as aside:
        new = ModuleSet(default_name, aside, record, config, made_by)
        for target_class, module, mask in zip(record.target_classes, modules, masks, strict=True):
            new.file(target_class).save(cpu_state(module))
            new.kernels_file(target_class).save(mask)
        record = replace(record, files={path.name: sha256_of(path) for path in sorted(aside.iterdir())})
        RecordFile(aside / RECORD, made_by, SetRecord).save(record)
        names = [name] if name else itertools.chain([default_name], (f"{default_name}-{n}" for n in itertools.count(2)))
        for each in names:
            if _takes_name(aside, folder / each, record, made_by):
                module_files.latest_set(artifacts).save({"set": each})
                return read_set(config, artifacts, each)
    raise UserError(
        f"--as {name}: {folder / str(name)} is there with other modules, and a module set never changes: give another "
        "name"
    )


def _takes_name(aside: Path, place: Path, record: SetRecord, made_by: str) -> bool:
    """Rename a written set to its place; whether it, or one of the same modules, is there then."""
    if not place.exists():
        try:
            aside.rename(place)
            return True
        except OSError:
            if not place.exists():  # else another process was quicker
                raise
    file = RecordFile(place / RECORD, made_by, SetRecord)
    try:
        there = file.load()
    except UserError:
        return False
    return (there.files, there.source) == (record.files, record.source)


@contextlib.contextmanager
def _new_folder(parent: Path) -> Iterator[Path]:
    """A folder under a temporary name, which is removed unless the block renames it. Raises UserError."""
    aside = parent / f".{secrets.token_hex(6)}.partial"
    try:
        aside.mkdir(parents=True)
        for old in parent.glob(".*.partial"):
            with contextlib.suppress(OSError):  # another process may remove or rename it
                if aside.stat().st_mtime - old.stat().st_mtime > ABANDONED:  # both by the disk's clock
                    shutil.rmtree(old, ignore_errors=True)
        yield aside
    except OSError as error:
        raise UserError(f"cannot write to {parent}: {reason(error)}; make room or change its permissions") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
