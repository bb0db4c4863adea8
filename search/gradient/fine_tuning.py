"""A fine-tuning from one module set to a new one; an interrupted one goes on where it was.

The new set is written only if it is better on the validation images: by the number of correct images, then by the
cross-entropy.
"""

import hashlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from dataset.images import Images, Split
from models.evaluation import count_right, predict
from models.graph import Graph, GraphNetwork
from models.opening import Stage
from modules import files as module_files
from modules.module import CutModules, as_answers, predict_modules, replaced
from modules.module_set import ModuleSet, show_module_set
from modules.module_sets import module_sets, save_set
from search.files import Found, OnDemand
from search.gradient import files
from search.gradient.goal import goal_of
from search.gradient.rounds import GradientSearch
from search.gradient.trainer import LossNotFinite, fine_tuning_settings
from utils.errors import UserError
from utils.locks import held
from utils.progress import say
from utils.recorded_settings import differences

FREE = ("seconds", "configured")  # what a record says of a fine-tuning that its result does not depend on


def fine_tune(stage: Stage, strong: Graph, split: Split, parent: ModuleSet, name: str | None) -> ModuleSet:
    """Train the modules of a set, write them as the set `name`, and show it; None = the parent's name with `_tuned`.

    Returns the new set, or the parent where the new modules are not better.
    """
    # What the modules give was decided by their search
    stage = replace(stage, config=replace(stage.config, mask_answer=cast(Any, parent.record.answer)))
    with held(files.of_fine_tuning(stage.artifacts, parent.name).role):
        modules = _known(stage, parent, name) or _fine_tuned(stage, strong, split, parent, name)
    show_module_set(modules.record)
    print(f"module set {modules.name} in {modules.folder}")
    return modules


def _known(stage: Stage, parent: ModuleSet, name: str | None) -> ModuleSet | None:
    """The set that was made so already, which is the most recent one from now on."""
    for there in module_sets(stage.config, stage.artifacts):
        if name in (None, there.name) and _is_result(there, parent, stage):
            say(f"module set {there.name}: fine-tuned already")
            module_files.latest_set(stage.artifacts).save({"set": there.name})
            return there
    return None


def _fine_tuned(stage: Stage, strong: Graph, split: Split, parent: ModuleSet, name: str | None) -> ModuleSet:
    valid, device, targets, start = split.valid, stage.device, parent.target_classes, time.perf_counter()
    of_strong = as_answers(predict(strong.network, valid, device), parent.record.answer)
    of_parent = OnDemand(targets, partial(parent.module, device=device))
    was = Quality.of(of_parent, targets, of_strong, valid, device)
    search, found = _trained(stage, strong, split.train, parent)
    seconds = time.perf_counter() - start
    now = Quality.of(CutModules(strong, found.masks, targets, found.weights), targets, of_strong, valid, device)
    print(
        f"\n{was.right} of {len(valid)} validation images right before, {now.right} after; cross-entropy\n"
        f"{-was.log_likelihood:.4f} nats per image before, {-now.log_likelihood:.4f} after"
    )
    if not now > was:
        search.forget_state()
        print(
            f"no new module set: on the validation images the modules of {parent.name}\n"
            "are as good or better; try a smaller fine_tuning_step_size, or more fine_tuning_steps"
        )
        return parent
    configured = {"seconds": seconds, "configured": stage.config.part_of("fine-tuning")}
    tuned = save_set(
        stage,
        strong,
        found.masks,
        split,
        {**parent.record.search, "fine_tuned": {**_made_with(stage, parent), **configured}},
        name=name,
        default_name=f"{parent.name}_tuned",
        target_classes=targets,
        weights=found.weights,
        parent=parent.name,
        answer=parent.record.answer,
    )
    search.forget_state()
    return tuned


def _made_with(stage: Stage, parent: ModuleSet) -> dict[str, Any]:
    """What the result depends on in addition to the strong model and the images, as plain values."""
    settings = fine_tuning_settings(stage.config).recorded() | goal_of(stage.config).recorded()
    return {**settings, "seed": stage.seed, "precision": stage.precision, "of_modules": _digest(parent)}


def _is_result(there: ModuleSet, parent: ModuleSet, stage: Stage) -> bool:
    """Whether a set is what fine-tuning the parent's modules with the settings of now gives."""
    with_settings = {key: value for key, value in there.record.search.get("fine_tuned", {}).items() if key not in FREE}
    return there.record.parent == parent.name and with_settings == _made_with(stage, parent)


def _digest(modules: ModuleSet) -> str:
    """Tells a set from another one of the same name, which somebody removed."""
    return hashlib.sha256(json.dumps(modules.record.files, sort_keys=True).encode()).hexdigest()


def _trained(stage: Stage, strong: Graph, images: Images, parent: ModuleSet) -> tuple[GradientSearch, Found]:
    """Train the modules of a set, from where an earlier run ended: a search of one round that drops nothing.

    Raises UserError where an earlier run's state is of other settings.
    """
    targets, masks, now = parent.target_classes, parent.masks(), _made_with(stage, parent)
    search = GradientSearch(
        stage,
        strong,
        images,
        files.of_fine_tuning(stage.artifacts, parent.name),
        targets,
        (1.0,),
        fine_tuning_settings(stage.config),
        lambda each: (masks[targets.index(each)], parent.module(each, stage.device).state_dict()),
        {"made_with": now},
        "fine-tuning",
    )
    state = next((file for file in map(search.files.within, targets) if file.exists()), None)
    if state and (different := differences(state.load().get("made_with", {}), now)):
        raise UserError(
            f"{search.files.folder} is of another fine-tuning ({different}): use the same settings, or remove it"
        )
    try:
        return search, search.learned(0, None)
    except LossNotFinite:
        search.forget_state()  # it leads here again, and would refuse a smaller step size
        raise


@dataclass(frozen=True, order=True)
class Quality:
    """How good modules are in the strong model's answer; of two the greater one is better."""

    right: int  # images that are classified correctly; none where an output is not finite
    log_likelihood: float  # minus the mean cross-entropy, in nats per image: it decides between equal counts

    @classmethod
    def of(
        cls,
        modules: Sequence[GraphNetwork],
        target_classes: Sequence[int],
        strong_logits: Tensor,
        images: Images,
        device: torch.device,
    ) -> "Quality":
        """The quality of modules that answer for their classes instead of the strong model.

        Args:
            modules, target_classes: the modules.
            strong_logits: (images, classes) float32.
            images: with their labels.
            device: of the modules.
        """
        logits = replaced(strong_logits, predict_modules(modules, images, device), target_classes)
        labels = torch.as_tensor(images.labels)
        log_likelihood = -float(F.cross_entropy(logits.double(), labels))
        if not math.isfinite(log_likelihood) or not logits.isfinite().all():
            return cls(0, -math.inf)
        return cls(count_right(logits, labels), log_likelihood)
