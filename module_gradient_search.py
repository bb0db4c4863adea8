"""Learn by gradient which kernels each class's module keeps, instead of by the genetic search.

    python module_gradient_search.py --model simcnn_x0_25 --dataset digits
    python module_gradient_search.py --model simcnn_x0_25 --dataset digits --keep 0.4 --as forty
    python module_gradient_search.py --model simcnn_x0_25 --dataset digits --target_class 3 8 --max_loss 0.5
    python module_gradient_search.py --model simcnn_x0_25 --dataset digits --target_class 3 8 --for_patch

Each module is trained to take the place of the strong model's logit of its class, by itself, so that k classes cost k
times as much as one. It begins as the whole strong model, and drops kernels while it is trained: those whose maps its
logit depends on least (`mask_steps` steps a round, step size `mask_step_size`).

--keep goes down to that share of the kernels in one round, --keep_flops to that of the strong model's floating-point
operations. --max_loss goes down in rounds (`mask_keeps`), each going on from the one before, until the strong model
loses more percentage points of its validation accuracy when the modules answer for their classes, and takes the
smallest modules within. --for_patch instead takes the smallest modules that explain four
fifths of the variance of the strong model's logits, with nearly its AUC: such modules are worth more in other models.
--fine_tune trains the modules of the set on, and writes them as another set (NAME_tuned), as module_fine_tuner.py does.

Writes the rounds to data/MODEL_DATASET/gradient (of some classes: gradient_class_3_8), and the modules as a module set
of the same name. An interrupted search continues when the same command is run again. Published relatives: GradSplitter
(arXiv 2311.04438), SeaM (ICSE 2023).
"""

import argparse

from dataset.target_classes import HELP, chosen_classes
from engines.opening import add_engine_options, check_engine_options
from models.opening import open_stage, stage_parser
from models.strong_model import load_strong_model, load_strong_split
from modules.module_sets import add_as_option, check_new_name
from search.driver import MAX_LOSS, search_modules
from search.gradient.fine_tuning import fine_tune
from search.gradient.method import Gradient
from utils.errors import UserError, run
from utils.tensorboard import add_tensorboard, tensorboard


def main() -> None:
    arguments = parsed_arguments()
    stage = open_stage(arguments)
    classes = chosen_classes(arguments.target_class, stage.config)
    chosen = tuple(classes) if len(classes) < stage.config.num_classes else ()
    method = Gradient(chosen, for_patch=arguments.for_patch).as_asked(arguments)
    with tensorboard(method.files(stage.artifacts, chosen).folder, arguments.tensorboard):
        found = search_modules(stage, method, fresh=arguments.fresh, name=arguments.as_name)
    if arguments.fine_tune:
        strong = load_strong_model(stage.config, stage.artifacts, stage.device)
        fine_tune(stage, strong, load_strong_split(stage.config, stage.artifacts), found, None)


def parsed_arguments() -> argparse.Namespace:
    """The command line. Raises UserError for options that do not go together."""
    parser = stage_parser(__doc__)
    target = parser.add_mutually_exclusive_group()
    target.add_argument("--keep", type=float, help="the largest share of the kernels that a module may keep")
    target.add_argument("--keep_flops", type=float, help="the largest share of the strong model's FLOPs")
    target.add_argument(
        "--max_loss",
        type=float,
        help=f"the most percentage points of validation accuracy to lose; default: {MAX_LOSS:g}",
    )
    parser.add_argument("--for_patch", action="store_true", help="choose modules to patch weak models with")
    parser.add_argument("--fine_tune", action="store_true", help="then train the modules on: module_fine_tuner.py")
    parser.add_argument("--target_class", nargs="+", default=["all"], help=f"{HELP}; default: all")
    parser.add_argument("--fresh", action="store_true", help="set an earlier search of these classes aside first")
    add_tensorboard(parser)
    add_as_option(parser, "gradient, or for example gradient_class_3_8")
    add_engine_options(parser, "modules are learned in threads of this process")
    arguments = parser.parse_args()
    check_engine_options(arguments)
    check_new_name(arguments.as_name)
    if arguments.for_patch and arguments.max_loss is not None:
        raise UserError("--max_loss: with --for_patch expected --keep, or neither")
    return arguments


if __name__ == "__main__":
    run(main)
