"""Evolve the population of one class's modules (or of several classes' in turn).

    python module_explorer.py --model simcnn_x0_25 --dataset digits --target_class 0
    python module_explorer.py --model simcnn_x0_25 --dataset digits --target_class 0 --checkpoint 5

One explorer per class and one module_recorder.py work together through the files in data/MODEL_DATASET/ga alone: start
them in any order, in any number of terminals or machines that share the folder. An explorer that was ended goes on when
the same command is typed again. What to do is read off the files each time, so explorers follow a recorder that goes
back; --checkpoint G waits for a recorder that goes back to generation G, where the search was over.
Method: Qi et al., ASE 2022, section 4.2.
"""

import torch
from torch import Tensor

import global_configure
from dataset.images import PreparedImages, prepared
from dataset.target_classes import HELP, chosen_classes
from models.graph import Graph
from models.opening import open_stage, stage_parser
from models.strong_model import load_strong_model
from modules.population_outputs import outputs_with_known, say_what_torch_runs
from search.genetic import files as genetic_files
from search.genetic.generations import GeneticSearch, known_outputs, open_search, save_outputs
from utils.artifacts import ArrayFile
from utils.errors import MissingFile, UserError, run
from utils.locks import held, is_held, state_of
from utils.processes import wait_until
from utils.progress import say


def main() -> None:
    parser = stage_parser(__doc__)
    parser.add_argument(
        "--target_class", nargs="+", required=True, help=f"the class, or several to work on in turn, or all: {HELP}"
    )
    parser.add_argument("--checkpoint", type=int, help="go back to this generation, with a recorder that does")
    arguments = parser.parse_args()
    stage = open_stage(arguments)
    target_classes = chosen_classes(arguments.target_class, stage.config)
    if global_configure.explorer_threads < 1:
        raise UserError(f"explorer_threads {global_configure.explorer_threads}: expected at least 1")
    if stage.device.type == "cpu":
        torch.set_num_threads(global_configure.explorer_threads)
    with held(*(genetic_files.explorer_role(stage.artifacts, target_class) for target_class in target_classes)):
        explore(open_search(stage), target_classes, arguments.checkpoint)


def explore(search: GeneticSearch, target_classes: list[int], checkpoint: int | None) -> None:
    """Evolve the classes' populations, one generation after the other, until the recorder has scored the last one."""
    stage, last_generation = search.stage, search.config.generations
    strong = load_strong_model(stage.config, stage.artifacts, stage.device)
    search.record_settings()
    dtype = search.dtype
    say_what_torch_runs(strong, dtype, stage.device)
    images = prepared(search.images, stage.device, dtype)

    if checkpoint is not None:
        search.check_checkpoint(checkpoint)
        wait_for_going_back(search, checkpoint)
    generation, recorder = -1, genetic_files.recorder_role(stage.artifacts).lock
    while not search.has_ended():
        last, generation = generation, search.num_scored()
        if generation > last_generation:
            break
        if generation <= last:
            say(f"files were taken back or removed: continuing with generation {generation}")
            search.record_settings()
        try:
            for target_class in target_classes:
                evolve(search, strong, images, target_class, generation)
        except MissingFile:  # the fitness that it is bred from was removed a moment ago; its holder writes it again
            if generation == 0:
                raise
            continue
        is_last = generation == last_generation
        wait_for_fitness(search, target_classes, generation, is_last=is_last)
        if is_last and not is_held(recorder):
            break
    over = ": the search has ended" if search.has_ended() else ""
    say(f"class {' '.join(map(str, target_classes))}: nothing left to explore{over}")


def evolve(
    search: GeneticSearch, strong: Graph, images: Tensor | PreparedImages, target_class: int, generation: int
) -> None:
    """Write one generation's population and outputs, as far as they are not there, and whole, yet."""
    masks = search.breed(generation, target_class)
    are_there, known = known_outputs(search, generation, target_class, masks)
    if are_there:
        return
    outputs, num_run = outputs_with_known(strong, masks, target_class, images, known)
    save_outputs(search, generation, target_class, outputs)
    say(f"generation {generation}: class {target_class}, {num_run} of {len(masks)} modules run")


def wait_for_going_back(search: GeneticSearch, checkpoint: int) -> None:
    """Return when a search that was over is so no longer."""
    artifacts = search.stage.artifacts
    command = artifacts.command("module_recorder.py", "--checkpoint", str(checkpoint))
    lock = genetic_files.recorder_role(artifacts).lock
    wait_until(
        lambda: not search.has_ended() and search.num_scored() <= search.config.generations,
        lambda: f"the recorder ({state_of(lock)}) to go back to generation {checkpoint}: {command}",
    )


def wait_for_fitness(search: GeneticSearch, target_classes: list[int], generation: int, *, is_last: bool) -> None:
    """Return when the recorder has scored the generation, has ended the search, or files of it were removed.

    After the last generation, wait only as long as there is a recorder, which may ask for damaged files again.
    """
    artifacts = search.stage.artifacts
    fitness = genetic_files.fitness(artifacts, generation)
    kinds = (genetic_files.population, genetic_files.outputs)
    own = [file(artifacts, generation, target_class) for file in kinds for target_class in target_classes]
    command, lock = artifacts.command("module_recorder.py"), genetic_files.recorder_role(artifacts).lock
    wait_until(
        lambda: (
            fitness.exists()
            or search.has_ended()
            or not all(map(ArrayFile.exists, own))
            or (is_last and not is_held(lock))
        ),
        lambda: f"the recorder's fitness of generation {generation} ({state_of(lock)}): {command}",
    )


if __name__ == "__main__":
    run(main)
