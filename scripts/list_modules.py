"""List the module sets of a strong model: which classes, how small, and how good they are.

    python scripts/list_modules.py --model simcnn_x0_25 --dataset digits

Points are those of accuracy that the composed model loses on validation images, AUC is the mean of the modules' own
logits there. The most recent set, which stages use unless they are given --modules SET, is marked with *.
"""

import math

import numpy as np

import global_configure  # noqa: F401  (finds our packages before others of their names)
from models.opening import open_stage, stage_parser
from modules import files as module_files
from modules.module_set import ModuleSet, class_names
from modules.module_sets import latest_name, module_sets
from utils.errors import run
from utils.tables import show_table

HEADINGS = ["set", "classes", "method", "kernels %", "FLOPs %", "points lost, valid", "AUC", "parent"]


def main() -> None:
    stage = open_stage(stage_parser(__doc__).parse_args())
    latest = latest_name(stage.artifacts)
    show_table(HEADINGS, [row_of(each, latest) for each in module_sets(stage.config, stage.artifacts)])
    print(f"\nin {module_files.sets_folder(stage.artifacts)}; * is the most recent one")


def row_of(modules: ModuleSet, latest: str) -> list[str]:
    """A line of the table; what is not known is left out."""
    record = modules.record
    return [
        modules.name + ("*" if modules.name == latest else ""),
        class_names(record),
        record.method,
        f"{100 * record.kernel_share:.1f}",
        _mean([100 * share for share in record.flops], ".1f"),
        f"{record.points_lost:.2f}" if record.valid_right_strong else "",
        _mean(record.valid_auc_modules, ".4f"),
        record.parent,
    ]


def _mean(values: list[float] | tuple[float, ...], form: str) -> str:
    known = [value for value in values if not math.isnan(value)]
    return format(np.mean(known), form) if known else ""


if __name__ == "__main__":
    run(main)
