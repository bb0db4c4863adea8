"""Learn by gradient which kernels each class's module keeps, instead of by the genetic search.

    python module_gradient_search.py --model simcnn_x0_25 --dataset digits
    python module_gradient_search.py --model simcnn_x0_25 --dataset digits --keep 0.4 --as forty
    python module_gradient_search.py --model simcnn_x0_25 --dataset digits --target_class 3 8 --max_loss 0.5
    python module_gradient_search.py --model simcnn_x0_25 --dataset digits --target_class 3 8 --for_patch

Each module learns to take the place of the strong model's logit of its class, by itself, so that k classes cost k times
as much as one. The search goes down in rounds that keep fewer and fewer kernels (`mask_keeps`), each going on from the
one before. It also learns a factor for each kept kernel's map (`mask_gain_step_size`), which becomes part of the
module's weights.

--keep goes down to that share, and lets the masks settle there for one more round. --max_loss goes down until the
strong model loses more percentage points of its validation accuracy when the modules answer for their classes, and
takes the smallest modules within. --for_patch instead takes the smallest modules that explain four fifths of the
variance of the strong model's logits, with nearly its AUC: such modules are worth more in other models.

Writes the rounds to data/MODEL_DATASET/gradient (of some classes: gradient_class_3_8), and the modules as a module set
of the same name. An interrupted search continues when the same command is run again. Published relatives: GradSplitter
(arXiv 2311.04438), SeaM (ICSE 2023).
"""

import argparse

from dataset.target_classes import HELP, chosen_classes
from engines.engine import Engine
from engines.opening import add_engine_options, check_engine_options, chosen_engine
from models.opening import open_stage, stage_parser
from models.strong_model import show_if_few
from modules.module_set import show_module_set
from modules.module_sets import add_as_option, check_new_name, save_set
from search.gradient import files
from search.gradient.log import Round, asked_for, describe, knows, smallest_that_knows, smallest_within
from search.gradient.rounds import GradientSearch, load_round, open_search
from utils.errors import UserError, run
from utils.locks import held
from utils.progress import say

MAX_LOSS = 1.0  # percentage points, if no option says which modules to take


def main() -> None:
    arguments = parsed_arguments()
    stage = open_stage(arguments)
    classes = chosen_classes(arguments.target_class, stage.config)
    if len(classes) == stage.config.num_classes:
        classes = []
    with held(files.role(stage.artifacts, classes)):
        search = open_search(stage, classes, arguments.keep, fresh=arguments.fresh)
        show_if_few(search.split.valid, search.split.classes)
        with chosen_engine(arguments, stage.device) as engine:
            rounds = learn(search, arguments, engine)
        save_modules(search, rounds, chosen_round(rounds, arguments), arguments)


def learn(search: GradientSearch, arguments: argparse.Namespace, engine: Engine | None) -> list[Round]:
    """Go down round by round, from where an earlier run ended, to the last round or until the search is over."""
    search.record_settings()
    rounds = search.rounds_done()
    on_engine = None if engine is None else search.on_engine(engine)
    with search.learner(len(rounds)) as learner:
        while len(rounds) < len(search.keeps) and not (rounds and is_over(rounds, arguments)):
            rounds.append(search.learn_round(learner, rounds, on_engine))
            say(describe(rounds[-1]))
    return rounds


def is_over(rounds: list[Round], arguments: argparse.Namespace) -> bool:
    """Whether smaller modules than those of the last round would not be chosen."""
    if arguments.keep is not None:
        return False
    if arguments.for_patch:
        return not knows(rounds[-1]) and any(map(knows, rounds))
    return rounds[-1].points_lost > arguments.max_loss


def chosen_round(rounds: list[Round], arguments: argparse.Namespace) -> Round:
    """The round to take the modules from. Raises UserError where all lose too much accuracy."""
    if arguments.keep is not None:
        return rounds[-1]
    return smallest_that_knows(rounds) if arguments.for_patch else smallest_within(rounds, arguments.max_loss)


def save_modules(search: GradientSearch, rounds: list[Round], chosen: Round, arguments: argparse.Namespace) -> None:
    """Extract the modules of a round, write them and say how good they are."""
    stage, targets, seconds = search.stage, search.target_classes, sum(row.seconds for row in rounds)
    print(f"\nmodules of round {chosen.number}, which was to keep {100 * chosen.keep:g}%")
    num_kernels = search.strong.units.num_kernels
    masks, tuning = load_round(stage.artifacts, chosen.number, len(targets), num_kernels, search.classes)
    found = {
        "method": "gradient",
        "round": chosen.number,
        "asked_for": asked_for(rounds, chosen.number),
        "seconds": seconds,
        "settings": files.settings(stage.artifacts, search.classes).load(),
        "configured": stage.config.part_of("gradient search") | {"mask_keeps": stage.config.mask_keeps},
        "options": options_of(arguments, search.classes),
    }
    modules = save_set(
        stage,
        search.strong,
        masks,
        search.split,
        found,
        name=arguments.as_name,
        default_name=files.name_of(search.classes),
        tuning=tuning,
        target_classes=targets,
    )
    show_module_set(modules.record)
    print(f"rounds: {len(rounds)}; seconds: {seconds:.0f}; module set {modules.name} in {modules.folder}")


def options_of(arguments: argparse.Namespace, classes: tuple[int, ...]) -> list[str]:
    """The options that find the same modules again."""
    chosen = ["--keep", f"{arguments.keep:g}"] if arguments.keep is not None else []
    chosen += ["--for_patch"] if arguments.for_patch else []
    chosen += ["--max_loss", f"{arguments.max_loss:g}"] if not chosen and arguments.max_loss != MAX_LOSS else []
    return [*chosen, *(["--target_class", *map(str, classes)] if classes else [])]


def parsed_arguments() -> argparse.Namespace:
    """The command line. Raises UserError for shares and points that cannot be."""
    parser = stage_parser(__doc__)
    target = parser.add_mutually_exclusive_group()
    target.add_argument("--keep", type=float, help="the largest share of the kernels that a module may keep")
    target.add_argument(
        "--max_loss",
        type=float,
        help=f"the most percentage points of validation accuracy to lose; default: {MAX_LOSS:g}",
    )
    parser.add_argument("--for_patch", action="store_true", help="choose modules to patch weak models with")
    parser.add_argument("--target_class", nargs="+", default=["all"], help=f"{HELP}; default: all")
    parser.add_argument("--fresh", action="store_true", help="set an earlier search of these classes aside first")
    add_as_option(parser, "gradient, or for example gradient_class_3_8")
    add_engine_options(parser, "modules are learned in threads of this process")
    arguments = parser.parse_args()
    check_engine_options(arguments)
    check_new_name(arguments.as_name)
    if arguments.keep is not None and not 0 < arguments.keep <= 1:
        raise UserError(f"--keep {arguments.keep:g}: expected a share above 0, up to 1")
    if arguments.for_patch and arguments.max_loss is not None:
        raise UserError("--max_loss: with --for_patch expected --keep, or neither")
    if arguments.max_loss is None:
        arguments.max_loss = MAX_LOSS
    if not -100 <= arguments.max_loss <= 100:
        raise UserError(f"--max_loss {arguments.max_loss:g}: expected percentage points, from -100 to 100")
    return arguments


if __name__ == "__main__":
    run(main)
