"""A fine-tuning from one module set to a new one; an interrupted one goes on where it was.

The new set is written only if it is better on the validation images: by the number of correct images, then by the
cross-entropy.
"""

import hashlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dataset.images import Images, Split, to_device
from models.evaluation import count_right, cpu_state, predict
from models.graph import Graph, GraphNetwork
from models.opening import Stage
from modules import files as module_files
from modules.module import ComposedModel, replaced
from modules.module_set import ModuleSet, show_module_set
from modules.module_sets import module_sets, save_set
from search.gradient import files
from search.gradient.goal import goal_of
from search.gradient.rounds import STEPS_PER_STATE
from search.gradient.trainer import LossNotFinite, Trainer, fine_tuning_settings
from utils.device import core_threads
from utils.errors import UserError, reason
from utils.locks import held
from utils.progress import progress, say
from utils.recorded_settings import differences

FREE = ("seconds", "configured")  # what a record says of a fine-tuning that its result does not depend on


def fine_tune(stage: Stage, strong: Graph, split: Split, parent: ModuleSet, name: str | None) -> ModuleSet:
    """Train the modules of a set, write them as the set `name`, and show it; None = the parent's name with `_tuned`.

    Returns the new set, or the parent where the new modules are not better.
    """
    with held(files.fine_tuning_role(stage.artifacts, parent.name)):
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
    valid, device, targets = split.valid, stage.device, parent.target_classes
    of_strong = predict(strong.network, valid, device)
    was = Quality.of(parent.modules(device), targets, of_strong, valid, device)
    modules, fine_tuned = _trained(stage, strong, split.train, parent)
    now = Quality.of(modules, targets, of_strong, valid, device)
    print(
        f"\n{was.right} of {len(valid)} validation images right before, {now.right} after; cross-entropy\n"
        f"{-was.log_likelihood:.4f} nats per image before, {-now.log_likelihood:.4f} after"
    )
    state = files.fine_tuning_state(stage.artifacts, parent.name)
    if not now > was:
        state.remove()
        print(
            f"no new module set: on the validation images the modules of {parent.name}\n"
            "are as good or better; try a smaller fine_tuning_step_size, or more fine_tuning_steps"
        )
        return parent
    tuned = save_set(
        stage,
        strong,
        parent.masks(),
        split,
        {**parent.record.search, "fine_tuned": fine_tuned | {"configured": stage.config.part_of("fine-tuning")}},
        name=name,
        default_name=f"{parent.name}_tuned",
        target_classes=targets,
        weights=[cpu_state(module) for module in modules],
        parent=parent.name,
    )
    state.remove()
    return tuned


def _made_with(stage: Stage, parent: ModuleSet) -> dict[str, Any]:
    """What the result depends on in addition to the strong model and the images, as plain values."""
    settings = fine_tuning_settings(stage.config).recorded() | asdict(goal_of(stage.config))
    return {**settings, "seed": stage.seed, "precision": stage.precision, "of_modules": _digest(parent)}


def _is_result(there: ModuleSet, parent: ModuleSet, stage: Stage) -> bool:
    """Whether a set is what fine-tuning the parent's modules with the settings of now gives."""
    with_settings = {key: value for key, value in there.record.search.get("fine_tuned", {}).items() if key not in FREE}
    return there.record.parent == parent.name and with_settings == _made_with(stage, parent)


def _digest(modules: ModuleSet) -> str:
    """Tells a set from another one of the same name, which somebody removed."""
    return hashlib.sha256(json.dumps(modules.record.files, sort_keys=True).encode()).hexdigest()


def _trained(
    stage: Stage, strong: Graph, images: Images, parent: ModuleSet
) -> tuple[list[GraphNetwork], dict[str, Any]]:
    """Train the modules of a set, from where an earlier run ended.

    Returns them, what that was made with, and the seconds of all runs. Raises UserError where an earlier run's state is
    of other settings.
    """
    start, earlier, file = time.perf_counter(), 0.0, files.fine_tuning_state(stage.artifacts, parent.name)
    settings, now = fine_tuning_settings(stage.config), _made_with(stage, parent)
    with core_threads(stage.device) as workers:
        trainer = Trainer(
            strong,
            [(target_class,) for target_class in parent.target_classes],
            goal_of(stage.config),
            *to_device(images, stage.device),
            settings,
            normalisation=images.normalisation,
            dtype=stage.dtype,
            seed=stage.seed,
            workers=workers,
        )
        states = (module.state_dict() for module in parent.modules(stage.device))
        trainer.begin_with(zip(parent.masks(), states, strict=True))
        if file.exists():
            state = file.load()
            if different := differences(state.get("made_with", {}), now):
                raise UserError(
                    f"{file.path} is of another fine-tuning ({different}): use the same settings, or remove it"
                )
            try:
                trainer.load_state(state["trainer"])
                earlier = float(state["seconds"])
            except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
                raise file.damaged(f"not the state of a fine-tuning: {reason(error)}") from None
            say(f"going on after step {trainer.steps_done}")
        for _ in progress(range(trainer.steps_done, settings.steps), "fine-tuning, steps"):
            try:
                trainer.step(1.0, 1.0)
            except LossNotFinite:
                file.remove()  # it leads here again, and would refuse a smaller step size
                raise
            if trainer.steps_done % STEPS_PER_STATE == 0 or trainer.steps_done == settings.steps:
                seconds = earlier + time.perf_counter() - start
                file.save({"made_with": now, "trainer": trainer.state(), "seconds": seconds})
        trainer.finish_round()
    modules = [module.network for module in trainer.modules]
    return modules, {**now, "seconds": earlier + time.perf_counter() - start}


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
        logits = replaced(strong_logits, predict(ComposedModel(modules), images, device), target_classes)
        labels = torch.as_tensor(images.labels)
        log_likelihood = -float(F.cross_entropy(logits.double(), labels))
        if not math.isfinite(log_likelihood) or not logits.isfinite().all():
            return cls(0, -math.inf)
        return cls(count_right(logits, labels), log_likelihood)
