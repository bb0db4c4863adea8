"""Collect every module's outputs on the validation images of its own class: the range that patching calibrates by.

    python preprocess/module_output_collector.py --model simcnn_x0_25 --dataset digits_5

Writes data/MODEL_DATASET/module_outputs/SET/class_C.npy. Method: Qi et al., ASE 2022 (arXiv 2209.06116).
"""

import global_configure  # noqa: F401  (finds our packages before others of their names)
from models.opening import open_stage, stage_parser
from models.strong_model import load_strong_split
from modules import files as module_files
from modules.module_sets import add_modules_option, collected_outputs, open_set
from patching.data import of_class
from utils.errors import run
from utils.tables import show_table


def main() -> None:
    parser = stage_parser(__doc__)
    add_modules_option(parser)
    arguments = parser.parse_args()
    stage = open_stage(arguments)
    split = load_strong_split(stage.config, stage.artifacts)
    modules = open_set(stage.config, stage.artifacts, arguments.modules, ())
    rows = []
    for target_class in modules.target_classes:
        outputs = collected_outputs(stage, modules, target_class, of_class(split.valid, target_class))
        rows.append(
            [target_class, split.classes[target_class], len(outputs)]
            + [f"{value:.3f}" for value in (outputs.min(), outputs.mean(), outputs.max())]
        )

    show_table(["module", "class", "valid images", "min", "mean", "max"], rows)
    folder = module_files.module_outputs(stage.artifacts, 0, modules.name).path.parent
    print(f"module set {modules.name}: saved {folder}")


if __name__ == "__main__":
    run(main)
