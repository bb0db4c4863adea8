"""Measure how important each kernel of the strong model is for each class.

    python preprocess/kernel_importance_analyzer.py --model simcnn_x0_25 --dataset digits

Writes data/MODEL_DATASET/kernel_importance/avg_L1.npy: (classes, K) float32, the mean L1 norm of each kernel's
feature map over the class's validation images that the model is sure of; and beside it what it was measured with,
so that it is not used for another strong model. Method: Qi et al., ASE 2022, section 3.1. With --engine several
blocks of images are measured at a time.
"""

import argparse
import time

import numpy as np

import global_configure  # noqa: F401  (finds our packages before others of their names)
from dataset.images import to_device
from engines.opening import add_engine_options, check_engine_options, chosen_engine
from models import files as model_files
from models.opening import Stage, open_stage, stage_parser
from models.strong_model import load_strong_split, load_with_checksum
from modules import files as module_files
from modules.evaluation_inputs import strong_inputs
from modules.kernel_importance import kernel_importance, kernel_importance_on, random_importance
from utils.errors import UserError, run
from utils.locks import held
from utils.tables import show_table


def main() -> None:
    parser = stage_parser(__doc__)
    add_engine_options(parser, "all images are measured by this process")
    arguments = parser.parse_args()
    check_engine_options(arguments)
    stage = open_stage(arguments)
    with held(module_files.importance_role(stage.artifacts)):
        measure(stage, arguments)


def measure(stage: Stage, arguments: argparse.Namespace) -> None:
    """Measure the importance of all kernels, and write it."""
    start, config = time.perf_counter(), stage.config
    strong, checksum = load_with_checksum(config, stage.artifacts, stage.device)
    split = load_strong_split(config, stage.artifacts)
    if config.importance_mode == "random":
        importance = random_importance(config.num_classes, strong.units)
        print("importance_mode random: kernels in index order, nothing measured")
    else:
        with chosen_engine(arguments, stage.device) as engine:
            if engine is None:
                pixels, labels = to_device(split.valid, stage.device)
                importance, confident = kernel_importance(
                    strong, pixels, labels, config.importance_confidence, split.valid.normalisation
                )
            else:
                importance, confident = kernel_importance_on(
                    engine, strong_inputs(config, strong), strong, split.valid, config.importance_confidence
                )
        of_class = [int((split.valid.labels == target_class).sum()) for target_class in range(config.num_classes)]
        rows = [[number, *row] for number, row in enumerate(zip(split.classes, of_class, confident, strict=True))]
        show_table(["class", "name", "valid images", f"confidence >= {config.importance_confidence}"], rows)
        for target_class, count in enumerate(confident):
            if count == 0:
                print(f"class {target_class}: no image is that confident, so all of the class were used")
    if not np.isfinite(importance).all():
        raise UserError(
            f"the importance of {np.count_nonzero(~np.isfinite(importance))} kernels is NaN or infinite: "
            f"train the strong model again with: {model_files.entire_model(stage.artifacts).made_by} --fresh"
        )
    file = module_files.kernel_importance(stage.artifacts)
    made_with = {
        **config.part_of("importance"),
        "strong_model_sha256": checksum,
        "images_crc32": split.valid.fingerprint,
        "seconds": round(time.perf_counter() - start, 1),
    }
    file.remove()  # so that no array is ever next to the settings of another one
    module_files.importance_settings(stage.artifacts).save(made_with)
    file.save(importance)
    print(f"saved {file.path}: {importance.shape[0]} classes x {importance.shape[1]} kernels")


if __name__ == "__main__":
    run(main)
