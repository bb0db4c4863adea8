"""Train the weights of the modules that a search left: they stay as small, and know more of their classes afterwards.

    python module_fine_tuner.py --model simcnn_x0_25 --dataset digits
    python module_fine_tuner.py --model simcnn_x0_25 --dataset digits --for_patch --target_class 3 8

A module's kernels are the strong model's, and a search only chooses among them. This stage lets them change: towards
what the strong model says of its own training images (`fine_tuning_steps`, `fine_tuning_step_size`; the loss and the
images are the gradient search's). It takes the modules of whichever search, or those of `--for_patch`, each alone, and
writes them where they were, so that all later stages take them; where they are worse on the validation images, they
stay as they were. An interrupted run goes on when the same command is typed again. To have the modules as they were
cut, make them again with the search's command, which has its rounds or generations still.
"""

import argparse
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from dataset.labelled_images import Split
from dataset.target_classes import HELP, chosen_classes
from models.graph import Graph, GraphNetwork
from models.opening import open_stage
from models.strong_model import load_strong_model
from models.trained_on import load_strong_split
from modules import files as module_files
from modules.for_patch import ModuleForPatch, show_modules_for_patches
from modules.modularization import Modularization, show_modularization
from modules.on_disk import (
    evaluate_modules,
    load_kernel_mask,
    load_modularization,
    load_module,
    write_module_for_patch,
    write_modules,
)
from search.genetic import files as genetic_files
from search.gradient import files as gradient_files
from search.gradient.fine_tuning import FineTuner, fine_tuning_settings, made_with
from search.gradient.goals import Goal, composed_answer, own_logit
from search.gradient.rounds import STEPS_PER_STATE, compare_own_logit
from utils.artifacts import Artifacts
from utils.core_threads import core_threads
from utils.errors import UserError, run
from utils.locks import held
from utils.progress import progress, say
from utils.recorded_settings import differences
from utils.stage import Stage, stage_parser


def main() -> None:
    arguments = parsed_arguments()
    stage = open_stage(arguments)
    strong = load_strong_model(stage.config, stage.artifacts, stage.device)
    split = load_strong_split(stage.config, stage.artifacts)
    if not arguments.for_patch:
        with held(genetic_files.recorder_role(stage.artifacts)):  # which writes modules too
            show_modularization(fine_tune_together(stage, strong, split))
        return
    found = []
    for target_class in chosen_classes(arguments.target_class, stage.config):
        with held(gradient_files.role(stage.artifacts.for_patch(target_class))):
            found.append(fine_tune_for_patch(stage, strong, split, target_class))
    print()
    show_modules_for_patches(found)


def fine_tune_together(stage: Stage, strong: Graph, split: Split) -> Modularization:
    """Train the modules of all classes by what they answer together; write them, and return what is known of them."""
    config, place = stage.config, stage.artifacts
    before, goal = load_modularization(config, place), composed_answer(config)
    if is_fine_tuned(before, goal, stage, place):
        return before
    modules = [load_module(config, place, target_class, stage.device) for target_class in range(config.num_classes)]
    masks = np.stack([load_kernel_mask(config, place, target_class) for target_class in range(config.num_classes)])
    search = {**before.search, "fine_tuned": trained(modules, goal, stage, strong, split, place, before)}
    after = evaluate_modules(strong, modules, masks, split, stage.device, search)
    print(
        f"\n{before.valid_right_composed} of {before.valid_images} validation images right before, "
        f"{after.valid_right_composed} after"
    )
    if is_as_good := after.valid_right_composed >= before.valid_right_composed:
        write_modules(strong, modules, masks, config, place)
        module_files.report(place).save(after)
    return finished(place, before, after, is_as_good=is_as_good)


def fine_tune_for_patch(stage: Stage, strong: Graph, split: Split, target_class: int) -> ModuleForPatch:
    """The same of one class's module, by the strong model's logit of the class."""
    config, place = stage.config, stage.artifacts.for_patch(target_class)
    before, goal = module_files.report_for_patch(place).load(), own_logit(config, target_class)
    if is_fine_tuned(before, goal, stage, place):
        return before
    say(f"class {target_class} ({before.name})")
    module = load_module(config, place, target_class, stage.device)
    mask = load_kernel_mask(config, place, target_class)
    search = {**before.search, "fine_tuned": trained([module], goal, stage, strong, split, place, before)}
    now = compare_own_logit(strong.network, module, target_class, split.valid, stage)
    after = replace(
        before,
        valid_auc_strong=now.auc_strong,
        valid_auc_module=now.auc_module,
        explained=now.explained,
        search=search,
    )
    print(f"class {target_class}: logit explained {before.explained:.1%} before, {after.explained:.1%} after")
    if is_as_good := after.explained >= before.explained:
        of_class = split.valid.take(np.flatnonzero(split.valid.labels == target_class))
        write_module_for_patch(strong, module, mask, stage, of_class, after)
    return finished(place, before, after, is_as_good=is_as_good)


def is_fine_tuned(report: Modularization | ModuleForPatch, goal: Goal, stage: Stage, place: Artifacts) -> bool:
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


def trained(
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
            tuner.step()
            if tuner.steps_done % STEPS_PER_STATE == 0 or tuner.steps_done == settings.steps:
                seconds = earlier + time.perf_counter() - start
                file.save({"of_modules": of_modules, "made_with": now, "tuner": tuner.state(), "seconds": seconds})
    return {**now, "seconds": earlier + time.perf_counter() - start}


def finished(
    place: Artifacts,
    before: Modularization | ModuleForPatch,
    after: Modularization | ModuleForPatch,
    *,
    is_as_good: bool,
) -> Modularization | ModuleForPatch:
    """Forget the state, since all files are written; returns what is known of the modules that are there now."""
    module_files.fine_tuning_state(place).remove()
    if not is_as_good:
        print(
            "the modules stay as they were: on the validation images fine-tuning made them worse; "
            "try a smaller fine_tuning_step_size, or more fine_tuning_steps"
        )
    return after if is_as_good else before


def parsed_arguments() -> argparse.Namespace:
    """The command line. Raises UserError where it names target classes for nothing, or none."""
    parser = stage_parser(__doc__)
    parser.add_argument("--for_patch", action="store_true", help="the modules that were searched each alone")
    parser.add_argument("--target_class", nargs="+", help=f"with --for_patch: {HELP}, or all")
    arguments = parser.parse_args()
    if arguments.for_patch != bool(arguments.target_class):
        raise UserError("--for_patch and --target_class: expected both or none")
    return arguments


if __name__ == "__main__":
    run(main)
