"""Train the weights of a module set's modules: they stay as small, and are better at their classes afterwards.

    python module_fine_tuner.py --model simcnn_x0_25 --dataset digits
    python module_fine_tuner.py --model simcnn_x0_25 --dataset digits --modules gradient_class_3_8 --as three_and_eight

A module's kernels are the strong model's, and a search only chooses among them. This stage lets them change, towards
the goal of the gradient search on the strong model's own training images (`fine_tuning_steps`,
`fine_tuning_step_size`). It takes the modules of any search, of all classes or of some, and writes a new module set.
The old set stays. Where the new modules are not better on the validation images, it writes none. An interrupted run
continues when the same command is run again.

Without --modules, a most recent set that is fine-tuned itself stands for the set that it was made from.
"""

from models.opening import open_stage, stage_parser
from models.strong_model import load_strong_model, load_strong_split, show_if_few
from modules.module_sets import add_as_option, add_modules_option, check_new_name, open_set
from search.gradient.files import of_fine_tuning
from search.gradient.fine_tuning import fine_tune
from utils.errors import UserError, run
from utils.tensorboard import add_tensorboard, tensorboard


def main() -> None:
    parser = stage_parser(__doc__)
    add_modules_option(parser)
    add_as_option(parser, "that of the set that is fine-tuned, with _tuned")
    add_tensorboard(parser)
    arguments = parser.parse_args()
    check_new_name(arguments.as_name)
    stage = open_stage(arguments)
    strong = load_strong_model(stage.config, stage.artifacts, stage.device)
    split = load_strong_split(stage.config, stage.artifacts)
    show_if_few(split.valid, split.classes)
    parent = open_set(stage.config, stage.artifacts, arguments.modules, ())
    if arguments.modules is None and parent.record.parent:
        parent = open_set(stage.config, stage.artifacts, parent.record.parent, ())
    answer = parent.record.answer
    if stage.config.mask_answer != answer and any(each.startswith("mask_answer=") for each in arguments.set):
        raise UserError(
            f"--set mask_answer={stage.config.mask_answer}: module set {parent.name} decides, which gives {answer}: "
            "leave it out"
        )
    with tensorboard(of_fine_tuning(stage.artifacts, parent.name).folder, arguments.tensorboard):
        fine_tune(stage, strong, split, parent, arguments.as_name)


if __name__ == "__main__":
    run(main)
