"""The end of a module search, whichever way it searched: cut the modules out, write them, say how good they are."""

import typing
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from configures.base import Config, is_of_kind
from dataset.datasets import Split
from models.cnn import CNN
from models.training import count_right, predict
from modules.composed_model import ComposedModel
from modules.jaccard import mean_pairwise_distance
from modules.module import extract_modules
from utils.artifacts import Artifacts
from utils.checked_text import load_json, save_json
from utils.files import damaged
from utils.stage import Stage, show_table


@dataclass(frozen=True)
class Modularization:
    """What is known of a set of modules; accuracies are counts over images."""

    classes: tuple[str, ...]
    kernels: int  # K
    kernels_kept: tuple[int, ...]  # per module
    jaccard_distance: float  # mean over the pairs of modules
    valid_images: int
    valid_right_strong: int
    valid_right_composed: int
    test_images: int
    test_right_strong: int
    test_right_composed: int
    search: dict[str, Any]  # how they were found


def save_modularization(
    model: CNN,
    masks: np.ndarray,
    split: Split,
    stage: Stage,
    search: dict[str, Any],
    logit_maps: np.ndarray | None = None,
) -> Modularization:
    """Extract and write every class's module, evaluate them composed, write report.json.

    Args:
        model: the strong model.
        masks: (classes, K) bool, True = kept.
        split: the images to evaluate on.
        stage: where to write.
        search: how the masks were found.
        logit_maps: (classes, 2) the scale and bias that go into each module's last layer; None = none.
    """
    modules = extract_modules(model, masks, logit_maps)
    for target_class, module in enumerate(modules):
        stage.artifacts.module(target_class).save({name: value.cpu() for name, value in module.state_dict().items()})
        stage.artifacts.module_kernels(target_class).save(masks[target_class])
    composed = ComposedModel(modules)
    right = {
        (part, name): count_right(predict(network, images, stage.device), images.labels)
        for part, images in (("valid", split.valid), ("test", split.test))
        for name, network in (("strong", model), ("composed", composed))
    }
    result = Modularization(
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
    )
    save_json(stage.artifacts.modules_report, asdict(result))
    return result


def load_modularization(config: Config, artifacts: Artifacts) -> Modularization:
    """What report.json says. Raises UserError where it is missing, damaged, or of another number of classes."""
    path, command = artifacts.modules_report, artifacts.command("scripts/run_module_search.py")
    try:
        content = load_json(path, command)
        result = Modularization(**{key: tuple(v) if isinstance(v, list) else v for key, v in content.items()})
    except TypeError as error:
        raise damaged(path, command, f"not a report on modules: {error}") from None
    kinds = typing.get_type_hints(Modularization)
    wrong = [name for name, kind in kinds.items() if name != "search" and not is_of_kind(getattr(result, name), kind)]
    if wrong or not isinstance(result.search, dict):
        raise damaged(path, command, f"expected other values of {', '.join(wrong or ['search'])}")
    if not len(result.classes) == len(result.kernels_kept) == config.num_classes:
        raise damaged(path, command, f"expected {config.num_classes} classes")
    if min(result.kernels, result.valid_images, result.test_images) < 1:
        raise damaged(path, command, "expected kernels and images")
    return result


def show_modularization(result: Modularization) -> None:
    """Print the modules and the composed model beside the strong one."""
    rows = [
        [number, name, kept, f"{kept / result.kernels:.1%}"]
        for number, (name, kept) in enumerate(zip(result.classes, result.kernels_kept, strict=True))
    ]
    show_table(["class", "name", "kernels kept", f"of {result.kernels}"], rows)
    print()
    rows = []
    for part in ("valid", "test"):
        images, strong, composed = (
            getattr(result, f"{part}_{name}") for name in ("images", "right_strong", "right_composed")
        )
        difference = f"{(composed - strong) / images * 100:+.2f}"
        rows.append([part, images, _share(strong, images), _share(composed, images), difference])
    show_table(["images", "count", "strong model", "composed model", "points"], rows)
    mean_kept = np.mean(result.kernels_kept) / result.kernels
    print(f"\nkernels kept, mean over modules: {mean_kept:.1%}; mean Jaccard distance: {result.jaccard_distance:.4f}")


def _share(right: int, images: int) -> str:
    return f"{right / images:.2%} ({right})"
