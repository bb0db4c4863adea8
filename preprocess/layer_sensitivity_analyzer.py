"""Measure how sensitive one conv layer is to losing kernels.

    python layer_sensitivity_analyzer.py --model simcnn_x0_25 --dataset digits --target_conv 3

Writes data/MODEL_DATASET/layer_sensitivity/layer_03.npy: (ratios, 2) float32, the kept share of the layer's kernels
and the composed model's validation accuracy. A layer tied to an earlier one is measured, and filed, with that one.
scripts/run_layer_sensitivity_analyzer.py does all layers. Method: Qi et al., ASE 2022, section 3.2.
"""

import global_configure  # noqa: F401  (finds our packages before others of their names)
from models.registry import architecture_of
from modules import files as module_files
from modules.layer_sensitivity import open_sensitivity, tied_layers
from utils.errors import UserError, run
from utils.locks import held
from utils.stage import Stage, open_stage, stage_parser
from utils.tables import show_table


def main() -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--target_conv", type=int, required=True, help="the conv layer, counted from 0")
    arguments = parser.parse_args()
    stage = open_stage(arguments)
    num_layers = len(architecture_of(stage.config.model).convs)
    if not 0 <= arguments.target_conv < num_layers:
        raise UserError(f"--target_conv {arguments.target_conv}: expected a conv layer from 0 to {num_layers - 1}")
    with held(module_files.sensitivity_role(stage.artifacts)):
        measure(stage, arguments.target_conv)


def measure(stage: Stage, target_conv: int) -> None:
    """Write, and print, the curve of a layer and those tied to it."""
    inputs = open_sensitivity(stage)
    layers = tied_layers(inputs.model, target_conv)
    if len(layers) > 1:
        print(f"conv {', '.join(map(str, layers))} are tied: measured together, as conv {layers[0]}")
    curve, count = inputs.curve(layers[0]), len(inputs.labels)
    rows = [[f"{ratio:.1f}", f"{accuracy:.2%}", round(accuracy * count)] for ratio, accuracy in curve.tolist()]
    show_table(["kept", "accuracy", f"of {count} images"], rows)
    file = module_files.layer_sensitivity(stage.artifacts, layers[0])
    file.save(curve)
    print(f"saved {file.path}")


if __name__ == "__main__":
    run(main)
