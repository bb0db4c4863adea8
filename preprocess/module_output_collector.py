"""Collect every module's outputs on the validation images of its own class: the range that patching calibrates by.

    python preprocess/module_output_collector.py --model simcnn_x0_25 --dataset digits_5

Writes data/MODEL_DATASET/module_outputs/class_C.npy. Method: Qi et al., ASE 2022 (arXiv 2209.06116).
"""

import numpy as np

import global_configure  # noqa: F401  (finds our packages before others of their names)
from models.opening import open_stage
from models.trained_on import load_strong_split
from models.training import predict
from modules import files as module_files
from modules.on_disk import load_module
from patching.data import of_class
from utils.errors import UserError, run
from utils.stage import stage_parser
from utils.tables import show_table


def main() -> None:
    stage = open_stage(stage_parser(__doc__).parse_args())
    split = load_strong_split(stage.config, stage.artifacts)
    modules = range(stage.config.num_classes)
    modules = [load_module(stage.config, stage.artifacts, target_class, stage.device) for target_class in modules]
    rows = []
    for target_class, module in enumerate(modules):
        images = of_class(split.valid, target_class)
        if not len(images):
            raise UserError(
                f"class {target_class} ({split.classes[target_class]}) has no validation images: expected some; "
                f"add training images of it to dataset {stage.config.image_source}"
            )
        outputs = predict(module, images, stage.device)[:, 0].numpy()
        if not np.isfinite(outputs).all():
            made_of = module_files.module(stage.artifacts, target_class)
            raise UserError(
                f"module {made_of.path} gives NaN or infinity on images of its class: make it again with: "
                f"{made_of.made_by}"
            )
        module_files.module_outputs(stage.artifacts, target_class).save(outputs)
        rows.append(
            [target_class, split.classes[target_class], len(outputs)]
            + [f"{value:.3f}" for value in (outputs.min(), outputs.mean(), outputs.max())]
        )

    show_table(["module", "class", "valid images", "min", "mean", "max"], rows)
    print(f"saved {module_files.module_outputs(stage.artifacts, 0).path.parent}")


if __name__ == "__main__":
    run(main)
