"""Learn all modules' kernel masks by gradient, in place of the genetic search: it writes the same modules.

    python module_gradient_search.py --model simcnn_x0_25 --dataset digits
    python module_gradient_search.py --model simcnn_x0_25 --dataset digits --keep 0.4
    python module_gradient_search.py --model simcnn_x0_25 --dataset digits --max_loss 0.5

In rounds that keep fewer and fewer kernels (`mask_keeps`), each going on from the one before. A factor of each kept
kernel's map is learned beside (`mask_gain_step_size`), and goes into the module's weights. --keep goes down to that
share, and lets the masks settle there for one round more; --max_loss goes down until the composed model loses more
points than that on the validation images, and takes the smallest modules within. Writes data/MODEL_DATASET/gradient,
and the modules. An interrupted search goes on when the same command is typed again. Published relatives: GradSplitter
(arXiv 2311.04438), SeaM (ICSE 2023).
"""

import argparse

from models.opening import open_stage
from modules import files as module_files
from modules.modularization import show_modularization
from modules.on_disk import save_modularization
from search.genetic import files as genetic_files
from search.gradient import files as gradient_files
from search.gradient.log import Round, describe, smallest_within
from search.gradient.rounds import GradientSearch, open_search
from utils.errors import UserError, run
from utils.locks import held
from utils.progress import say
from utils.stage import stage_parser

MAX_LOSS = 1.0  # points, where neither option is given


def main() -> None:
    arguments = parsed_arguments()
    stage = open_stage(arguments)
    with held(gradient_files.role(stage.artifacts)):
        search = open_search(stage, arguments.keep, fresh=arguments.fresh)
        rounds = learn(search, None if arguments.keep is not None else arguments.max_loss)
        chosen = rounds[-1] if arguments.keep is not None else smallest_within(rounds, arguments.max_loss)
        save_modules(search, rounds, chosen)


def learn(search: GradientSearch, max_loss: float | None) -> list[Round]:
    """Go down round by round, from where an earlier run ended, to the last round or one that loses more points."""
    search.record_settings()
    rounds = search.rounds_done()
    with search.learner(len(rounds)) as learner:
        while len(rounds) < len(search.keeps):
            if max_loss is not None and rounds and rounds[-1].points_lost > max_loss:
                break
            rounds.append(search.learn_round(learner, rounds))
            say(describe(rounds[-1]))
    return rounds


def save_modules(search: GradientSearch, rounds: list[Round], chosen: Round) -> None:
    """Cut the modules of a round out, write them and say how good they are."""
    artifacts, seconds = search.stage.artifacts, sum(row.seconds for row in rounds)
    print(f"\nmodules of round {chosen.number}, which was to keep {100 * chosen.keep:g}%")
    masks, tuning = search.found(chosen.number)
    found = {"method": "gradient", "round": chosen.number, "seconds": seconds}
    with held(genetic_files.recorder_role(artifacts)):  # which writes modules too
        show_modularization(save_modularization(search.strong, masks, search.split, search.stage, found, tuning))
    folder = module_files.module(artifacts, 0).path.parent
    print(f"rounds: {len(rounds)}; seconds: {seconds:.0f}; modules in {folder}")


def parsed_arguments() -> argparse.Namespace:
    """The command line. Raises UserError for shares and points that cannot be."""
    parser = stage_parser(__doc__)
    target = parser.add_mutually_exclusive_group()
    target.add_argument("--keep", type=float, help="the share of the kernels to keep at the most, on average")
    target.add_argument(
        "--max_loss",
        type=float,
        default=MAX_LOSS,
        help=f"the points of validation accuracy to lose at the most; default: {MAX_LOSS:g}",
    )
    parser.add_argument("--fresh", action="store_true", help="set an earlier gradient search aside and start anew")
    arguments = parser.parse_args()
    if arguments.keep is not None and not 0 < arguments.keep <= 1:
        raise UserError(f"--keep {arguments.keep:g}: expected a share above 0, up to 1")
    if not -100 <= arguments.max_loss <= 100:
        raise UserError(f"--max_loss {arguments.max_loss:g}: expected points, from -100 to 100")
    return arguments


if __name__ == "__main__":
    run(main)
