"""A fine-tuning from the modules that a search left to those that take their place; interrupted, it goes on.

Modules are written where they were, and only where they are better on the validation images than they had been: by the
number of correct images, then by the loss.
"""

import hashlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from dataset.labelled_images import Images, Split
from models.graph import Graph, GraphNetwork
from models.training import count_right, predict
from modules import files as module_files
from modules.composed_model import ComposedModel
from modules.for_patch import ModuleForPatch
from modules.modularization import Modularization
from modules.on_disk import (
    evaluate_modules,
    load_kernel_mask,
    load_modularization,
    load_module,
    write_module_for_patch,
    write_modules,
)
from search.gradient.fine_tuning import FineTuner, LossNotFinite, fine_tuning_settings, made_with
from search.gradient.goals import Goal, composed_answer, own_logit
from search.gradient.rounds import STEPS_PER_STATE, LogitsNotFinite, compare_own_logit
from utils.artifacts import Artifacts
from utils.core_threads import core_threads
from utils.errors import UserError
from utils.progress import progress, say
from utils.recorded_settings import differences
from utils.stage import Stage

Report = TypeVar("Report", Modularization, ModuleForPatch)


def fine_tune_together(stage: Stage, strong: Graph, split: Split) -> Modularization:
    """Train the modules of all classes by what they answer together; write them, and return what is known of them."""
    config, place = stage.config, stage.artifacts
    before, goal = load_modularization(config, place), composed_answer(config)
    if _is_fine_tuned(before, goal, stage, place):
        return before
    modules = [load_module(config, place, target_class, stage.device) for target_class in range(config.num_classes)]
    masks = np.stack([load_kernel_mask(config, place, target_class) for target_class in range(config.num_classes)])
    was = Quality.of(modules, split.valid, stage.device)
    search = {**before.search, "fine_tuned": _trained(modules, goal, stage, strong, split, place, before)}
    now = Quality.of(modules, split.valid, stage.device)
    print(
        f"\n{was.right} of {len(split.valid)} validation images right before, {now.right} after; cross-entropy\n"
        f"{-was.log_likelihood:.4f} nats per image before, {-now.log_likelihood:.4f} after"
    )
    if now < was:
        return _left_as_it_was(place, before)
    after = evaluate_modules(strong, modules, masks, split, stage.device, search)
    write_modules(strong, modules, masks, after, config, place)
    module_files.fine_tuning_state(place).remove()
    return after


def fine_tune_for_patch(stage: Stage, strong: Graph, split: Split, target_class: int) -> ModuleForPatch:
    """The same of one class's module, by the strong model's logit of the class."""
    config, place = stage.config, stage.artifacts.for_patch(target_class)
    before, goal = module_files.report_for_patch(place).load(), own_logit(config, target_class)
    if _is_fine_tuned(before, goal, stage, place):
        return before
    say(f"class {target_class} ({before.name})")
    module = load_module(config, place, target_class, stage.device)
    mask = load_kernel_mask(config, place, target_class)
    search = {**before.search, "fine_tuned": _trained([module], goal, stage, strong, split, place, before)}
    try:
        now = compare_own_logit(strong.network, module, target_class, split.valid, stage)
    except LogitsNotFinite:
        print(f"class {target_class}: logits that are not finite after fine-tuning")
        return _left_as_it_was(place, before)
    after = replace(
        before,
        valid_auc_strong=now.auc_strong,
        valid_auc_module=now.auc_module,
        explained=now.explained,
        search=search,
    )
    print(f"class {target_class}: logit explained {before.explained:.1%} before, {after.explained:.1%} after")
    if not after.explained >= before.explained:  # nor where it is NaN
        return _left_as_it_was(place, before)
    of_class = split.valid.take(np.flatnonzero(split.valid.labels == target_class))
    write_module_for_patch(strong, module, mask, stage, of_class, after)
    module_files.fine_tuning_state(place).remove()
    return after


def _is_fine_tuned(report: Modularization | ModuleForPatch, goal: Goal, stage: Stage, place: Artifacts) -> bool:
    """Whether the modules are fine-tuned already. Raises UserError where they are so with other settings."""
    if "fine_tuned" not in report.search:
        return False
    there, file = dict(report.search["fine_tuned"]), module_files.module(place, 0)
    there.pop("seconds", None)
    if different := differences(there, made_with(fine_tuning_settings(stage.config), goal, stage)):
        raise UserError(
            f"the modules in {file.path.parent} are fine-tuned already, with other settings ({different}); "
            f"to start anew, first run: {file.made_by}"
        )
    say("fine-tuned already")
    module_files.fine_tuning_state(place).remove()
    return True


def _trained(
    modules: Sequence[GraphNetwork],
    goal: Goal,
    stage: Stage,
    strong: Graph,
    split: Split,
    place: Artifacts,
    report: Modularization | ModuleForPatch,
) -> dict[str, Any]:
    """Train modules in place, from where an earlier run ended; returns what that was made with, and all its seconds.

    Raises UserError where an earlier run's state is of other settings.
    """
    start, file, earlier = time.perf_counter(), module_files.fine_tuning_state(place), 0.0
    settings = fine_tuning_settings(stage.config)
    now = made_with(settings, goal, stage)
    # What tells a state of these modules from one of an earlier search's.
    of_modules = hashlib.sha256(json.dumps(asdict(report), sort_keys=True).encode()).hexdigest()
    with core_threads(stage.device) as workers:
        tuner = FineTuner(
            modules,
            strong.network,
            goal,
            split.train,
            settings,
            device=stage.device,
            dtype=stage.dtype,
            seed=stage.seed,
            workers=workers,
        )
        if file.exists() and (state := file.load()).get("of_modules") == of_modules:
            if different := differences(state.get("made_with", {}), now):
                raise UserError(
                    f"{file.path} is of a fine-tuning with other settings ({different}): use the same, or remove it "
                    f"and make the modules again with: {module_files.module(place, 0).made_by}"
                )
            try:
                tuner.load_state(state["tuner"])
                earlier = float(state["seconds"])
            except (KeyError, TypeError, ValueError) as error:
                raise file.damaged(f"not the state of a fine-tuning: {error}") from None
            say(f"going on after step {tuner.steps_done}")
        for _ in progress(range(tuner.steps_done, settings.steps), "fine-tuning, steps"):
            try:
                tuner.step()
            except LossNotFinite:
                file.remove()  # it leads here again, and would refuse a smaller step size
                raise
            if tuner.steps_done % STEPS_PER_STATE == 0 or tuner.steps_done == settings.steps:
                seconds = earlier + time.perf_counter() - start
                file.save({"of_modules": of_modules, "made_with": now, "tuner": tuner.state(), "seconds": seconds})
    return {**now, "seconds": earlier + time.perf_counter() - start}


def _left_as_it_was(place: Artifacts, report: Report) -> Report:
    """Say that the modules on the disk stay, and forget the training; returns their report."""
    module_files.fine_tuning_state(place).remove()
    print(
        "the modules stay as they were: on the validation images fine-tuning made\n"
        "them worse; try a smaller fine_tuning_step_size, or more fine_tuning_steps"
    )
    return report


@dataclass(frozen=True, order=True)
class Quality:
    """How good modules are together; of two the greater one is better."""

    right: int  # images that they classify correctly; none where an output is not finite
    log_likelihood: float  # minus the mean cross-entropy, in nats per image: it decides between equal counts

    @classmethod
    def of(cls, modules: Sequence[nn.Module], images: Images, device: torch.device) -> "Quality":
        """The quality of the modules of all classes on images."""
        logits, labels = predict(ComposedModel(modules), images, device), torch.as_tensor(images.labels)
        log_likelihood = -float(F.cross_entropy(logits.double(), labels))
        if not math.isfinite(log_likelihood) or not logits.isfinite().all():
            return cls(0, -math.inf)
        return cls(count_right(logits, labels), log_likelihood)
