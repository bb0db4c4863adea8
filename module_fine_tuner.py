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

from dataset.target_classes import HELP, chosen_classes
from models.opening import open_stage
from models.strong_model import load_strong_model
from models.trained_on import load_strong_split, show_if_few
from modules.for_patch import show_modules_for_patches
from modules.modularization import show_modularization
from search.genetic import files as genetic_files
from search.gradient import files as gradient_files
from search.gradient.fine_tuning_run import fine_tune_for_patch, fine_tune_together
from utils.errors import UserError, run
from utils.locks import held
from utils.stage import stage_parser


def main() -> None:
    arguments = parsed_arguments()
    stage = open_stage(arguments)
    strong = load_strong_model(stage.config, stage.artifacts, stage.device)
    split = load_strong_split(stage.config, stage.artifacts)
    show_if_few(split.valid, split.classes)
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
