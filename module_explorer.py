"""Evolve the population of one class's modules (or of several classes' in turn).

    python module_explorer.py --model simcnn_x0_25 --dataset digits --target_class 0
    python module_explorer.py --model simcnn_x0_25 --dataset digits --target_class 0 --checkpoint 5

One explorer per class and one module_recorder.py work together through the files in data/MODEL_DATASET/ga alone: start
them in any order, in any number of terminals or machines that share the folder. An explorer that was ended goes on when
the same command is typed again. What to do is read off the files each time, so explorers follow a recorder that goes
back; --checkpoint G waits for a recorder that goes back to generation G, where the search was over.
Method: Qi et al., ASE 2022, section 4.2.
"""

import numpy as np
import torch
from torch import Tensor

import global_configure
from dataset.datasets import load_split
from dataset.images import normalise, to_device
from models.cnn import CNN
from models.strong_model import load_strong_model
from modules.known_outputs import outputs_with_known
from search.genetic.generations import agree_on_settings, check_checkpoint, scored_generations
from search.genetic.kernel_groups import KernelGroups, genome_layout, kernel_groups
from search.genetic.log import load_end
from search.genetic.populations import population_of
from utils.artifacts import ArrayFile
from utils.errors import UserError, run
from utils.locks import held, state_of
from utils.stage import Stage, check_class, open_stage, stage_parser
from utils.waiting import wait_until


def main() -> None:
    parser = stage_parser(__doc__)
    parser.add_argument(
        "--target_class", type=int, nargs="+", required=True, help="the class, or several to work on in turn"
    )
    parser.add_argument("--checkpoint", type=int, help="go back to this generation, with a recorder that does")
    arguments = parser.parse_args()
    stage = open_stage(arguments)
    target_classes = sorted(set(arguments.target_class))
    for target_class in target_classes:
        check_class(target_class, stage.config)
    if global_configure.explorer_threads < 1:
        raise UserError(f"explorer_threads {global_configure.explorer_threads}: expected at least 1")
    if stage.device.type == "cpu":
        torch.set_num_threads(global_configure.explorer_threads)
    with held(*(stage.artifacts.explorer_role(target_class) for target_class in target_classes)):
        explore(stage, target_classes, arguments.checkpoint)


def explore(stage: Stage, target_classes: list[int], checkpoint: int | None) -> None:
    """Evolve the classes' populations, one generation after the other, until the recorder has scored the last one."""
    model = load_strong_model(stage.config, stage.artifacts, stage.device)
    architecture = model.architecture
    layout = genome_layout(architecture.num_kernels, architecture.tied_to, stage.config)
    importance = stage.artifacts.kernel_importance.load(stage.config.num_classes, sum(architecture.num_kernels))
    groups = {target_class: kernel_groups(layout, importance[target_class]) for target_class in target_classes}
    valid = load_split(stage.config).valid.first(stage.config.search_images)
    agree_on_settings(stage, valid)
    pixels, _ = to_device(valid, stage.device)
    images = normalise(pixels, stage.dtype)

    if checkpoint is not None:
        check_checkpoint(stage, checkpoint)
        wait_for_going_back(stage, checkpoint)
    generation = -1
    while generation < stage.config.generations and not has_ended(stage):
        last, generation = generation, scored_generations(stage)
        if generation > stage.config.generations:
            break
        if generation <= last:
            print(f"the recorder took files back: on with generation {generation}", flush=True)
            agree_on_settings(stage, valid)
        for target_class in target_classes:
            evolve(stage, model, groups[target_class], images, target_class, generation)
        if generation < stage.config.generations:
            wait_for_fitness(stage, target_classes, generation)
    over = ": the search has ended" if has_ended(stage) else ""
    print(f"class {' '.join(map(str, target_classes))}: nothing left to explore{over}")


def evolve(stage: Stage, model: CNN, groups: KernelGroups, images: Tensor, target_class: int, generation: int) -> None:
    """Write one generation's population and outputs, as far as they are not there, and whole, yet."""
    config, artifacts = stage.config, stage.artifacts
    size = (config.population, len(images))
    masks = groups.decode(population_of(stage, groups, target_class, generation))
    outputs_file = artifacts.outputs(generation, target_class)
    # Before this generation's outputs, with which it may be scored: nobody comes back to it then.
    artifacts.outputs(generation - config.keep_outputs, target_class).path.unlink(missing_ok=True)
    if outputs_file.load_if_whole(*size) is not None:
        return
    known = None
    if generation > 0 and (last := artifacts.outputs(generation - 1, target_class).load_if_whole(*size)) is not None:
        known = (groups.decode(population_of(stage, groups, target_class, generation - 1)), last)
    outputs, num_run = outputs_with_known(model, masks, target_class, images, known)
    if not np.isfinite(outputs).all():
        raise UserError(
            f"class {target_class}, generation {generation}: a module's outputs are NaN or infinite; "
            f"retrain the strong model, or use float32 if precision is bfloat16"
        )
    outputs_file.save(outputs)
    print(f"generation {generation}: class {target_class}, {num_run} of {config.population} modules run", flush=True)


def has_ended(stage: Stage) -> bool:
    """Whether the recorder has ended a search of at least as many generations as are asked for now."""
    end = load_end(stage.artifacts.search_end, stage.artifacts.command("module_recorder.py"))
    return end is not None and end.generations >= stage.config.generations


def wait_for_going_back(stage: Stage, checkpoint: int) -> None:
    """Return when a search that was over is so no longer."""
    command = stage.artifacts.command("module_recorder.py", "--checkpoint", str(checkpoint))
    wait_until(
        lambda: not has_ended(stage) and scored_generations(stage) <= stage.config.generations,
        lambda: (
            f"the recorder ({state_of(stage.artifacts.recorder_role.lock)}) to go back to generation {checkpoint}: "
            f"{command}"
        ),
    )


def wait_for_fitness(stage: Stage, target_classes: list[int], generation: int) -> None:
    """Return when the recorder has scored the generation, has ended the search, or has taken files of it back."""
    artifacts = stage.artifacts
    fitness = artifacts.fitness(generation)
    own = [file(generation, c) for file in (artifacts.population, artifacts.outputs) for c in target_classes]
    wait_until(
        lambda: fitness.exists() or has_ended(stage) or not all(map(ArrayFile.exists, own)),
        lambda: (
            f"the recorder's fitness of generation {generation} ({state_of(artifacts.recorder_role.lock)}): "
            f"{artifacts.command('module_recorder.py')}"
        ),
    )


if __name__ == "__main__":
    run(main)
