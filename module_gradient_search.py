"""Learn kernel masks by gradient, of all modules in place of the genetic search, or of one class's module for a patch.

    python module_gradient_search.py --model simcnn_x0_25 --dataset digits
    python module_gradient_search.py --model simcnn_x0_25 --dataset digits --keep 0.4
    python module_gradient_search.py --model simcnn_x0_25 --dataset digits --max_loss 0.5
    python module_gradient_search.py --model simcnn_x0_25 --dataset digits --for_patch --target_class 3 8 --keep 0.3

In rounds that keep fewer and fewer kernels (`mask_keeps`), each going on from the one before. A factor of each kept
kernel's map is learned beside (`mask_gain_step_size`), and goes into the module's weights. --keep goes down to that
share, and lets the masks settle there for one round more; --max_loss goes down until the composed model loses more
points than that on the validation images, and takes the smallest modules within. Writes data/MODEL_DATASET/gradient,
and the modules.

--for_patch learns the modules of the target classes one by one, each alone (`patch_keeps`): it is to say of any image
what the strong model's logit of its class says. Without --keep, the smallest is taken that explains four fifths of that
logit's variance, and knows its class nearly as well. Writes data/MODEL_DATASET/for_patch; apply_patch.py and
patch_weak_model.py take it by --for_patch. An interrupted search goes on when the same command is typed again.
Published relatives: GradSplitter (arXiv 2311.04438), SeaM (ICSE 2023).
"""

import argparse

from dataset.target_classes import HELP, chosen_classes
from engines.engine import Engine
from engines.opening import add_engine_options, check_engine_options, chosen_engine
from models.opening import open_stage
from models.trained_on import show_if_few
from modules import files as module_files
from modules.for_patch import ModuleForPatch, show_modules_for_patches
from modules.modularization import show_modularization
from modules.on_disk import save_modularization, save_module_for_patch
from search.genetic import files as genetic_files
from search.gradient import files as gradient_files
from search.gradient.log import (
    Round,
    asked_for,
    describe,
    describe_for_patch,
    smallest_that_knows,
    smallest_within,
)
from search.gradient.rounds import JointSearch, SearchForPatch, open_search, open_search_for_patch
from utils.errors import UserError, run
from utils.locks import held
from utils.progress import say
from utils.stage import Stage, stage_parser

MAX_LOSS = 1.0  # points, where neither option is given


def main() -> None:
    arguments = parsed_arguments()
    stage = open_stage(arguments)
    if arguments.for_patch:
        modules_for_patches(arguments, stage)
        return
    with held(gradient_files.role(stage.artifacts)):
        search = open_search(stage, arguments.keep, fresh=arguments.fresh)
        show_if_few(search.split.valid, search.split.classes)
        max_loss = MAX_LOSS if arguments.max_loss is None else arguments.max_loss
        with chosen_engine(arguments, stage.device) as engine:
            rounds = learn(search, None if arguments.keep is not None else max_loss, engine)
        chosen = rounds[-1] if arguments.keep is not None else smallest_within(rounds, max_loss)
        save_modules(search, rounds, chosen)


def learn(search: JointSearch, max_loss: float | None, engine: Engine | None) -> list[Round]:
    """Go down round by round, from where an earlier run ended, to the last round or one that loses more points."""
    search.record_settings()
    rounds = search.rounds_done()
    with search.learner(len(rounds), engine) as learner:
        while len(rounds) < len(search.keeps):
            if max_loss is not None and rounds and rounds[-1].points_lost > max_loss:
                break
            rounds.append(search.learn_round(learner, rounds))
            say(describe(rounds[-1]))
    return rounds


def save_modules(search: JointSearch, rounds: list[Round], chosen: Round) -> None:
    """Cut the modules of a round out, write them and say how good they are."""
    artifacts, seconds = search.stage.artifacts, sum(row.seconds for row in rounds)
    print(f"\nmodules of round {chosen.number}, which was to keep {100 * chosen.keep:g}%")
    masks, tuning = search.found(chosen.number)
    target = asked_for(rounds, chosen.number)
    found = {"method": "gradient", "round": chosen.number, "asked_for": target, "seconds": seconds}
    with held(genetic_files.recorder_role(artifacts)):  # which writes modules too
        show_modularization(save_modularization(search.strong, masks, search.split, search.stage, found, tuning))
    folder = module_files.module(artifacts, 0).path.parent
    print(f"rounds: {len(rounds)}; seconds: {seconds:.0f}; modules in {folder}")


def modules_for_patches(arguments: argparse.Namespace, stage: Stage) -> None:
    """Search every target class's module, one after the other, and say how small and how good they are."""
    found = []
    for target_class in chosen_classes(arguments.target_class, stage.config):
        place = stage.artifacts.for_patch(target_class)
        with held(gradient_files.role(place)):
            search = open_search_for_patch(stage, target_class, arguments.keep, fresh=arguments.fresh)
            if not found:
                show_if_few(search.split.valid, search.split.classes)
            found.append(learn_for_patch(search, take_last=arguments.keep is not None))
    print()
    show_modules_for_patches(found)
    print(f"modules in {stage.artifacts.folder / 'for_patch'}")


def learn_for_patch(search: SearchForPatch, *, take_last: bool) -> ModuleForPatch:
    """Take all rounds, from where an earlier run ended; write one's module and return what is known of it."""
    search.record_settings()
    say(f"class {search.target_class} ({search.class_name})")
    rounds = search.rounds_done()
    with search.learner(len(rounds)) as learner:
        while len(rounds) < len(search.keeps):
            rounds.append(search.learn_round(learner, rounds))
            say(describe_for_patch(rounds[-1]))
    chosen = rounds[-1] if take_last else smallest_that_knows(rounds)
    masks, tuning = search.found(chosen.number)
    known = ModuleForPatch(
        target_class=search.target_class,
        name=search.class_name,
        kernels=masks.shape[1],
        kernels_kept=int(masks.sum()),
        flops=chosen.flops,
        valid_images=chosen.images,
        valid_auc_strong=chosen.auc_strong,
        valid_auc_module=chosen.auc_module,
        explained=chosen.explained,
        search={"method": "gradient", "round": chosen.number, "seconds": sum(row.seconds for row in rounds)},
    )
    save_module_for_patch(search.strong, masks[0], tuning, search.stage, search.valid_of_class, known)
    return known


def parsed_arguments() -> argparse.Namespace:
    """The command line. Raises UserError for shares and points that cannot be."""
    parser = stage_parser(__doc__)
    target = parser.add_mutually_exclusive_group()
    target.add_argument("--keep", type=float, help="the share of the kernels to keep at the most, on average")
    target.add_argument(
        "--max_loss",
        type=float,
        help=f"the points of validation accuracy to lose at the most; default: {MAX_LOSS:g}",
    )
    parser.add_argument("--for_patch", action="store_true", help="one class's module alone, to patch a weak model with")
    parser.add_argument("--target_class", nargs="+", help=f"with --for_patch: {HELP}, or all")
    parser.add_argument("--fresh", action="store_true", help="set an earlier gradient search aside and start anew")
    add_engine_options(parser, "modules run in threads of this process")
    arguments = parser.parse_args()
    check_engine_options(arguments)
    if arguments.keep is not None and not 0 < arguments.keep <= 1:
        raise UserError(f"--keep {arguments.keep:g}: expected a share above 0, up to 1")
    if arguments.for_patch != bool(arguments.target_class):
        raise UserError("--for_patch and --target_class: expected both or none")
    if arguments.for_patch and arguments.engine is not None:
        raise UserError("--engine: it runs the modules of all classes; with --for_patch expected no engine")
    if arguments.for_patch and arguments.max_loss is not None:
        raise UserError("--max_loss: it is the composed model's; with --for_patch expected --keep, or neither")
    if arguments.max_loss is not None and not -100 <= arguments.max_loss <= 100:
        raise UserError(f"--max_loss {arguments.max_loss:g}: expected points, from -100 to 100")
    return arguments


if __name__ == "__main__":
    run(main)
