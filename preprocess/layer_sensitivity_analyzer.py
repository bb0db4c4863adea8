"""Measure how sensitive one conv layer is to losing kernels.

    python preprocess/layer_sensitivity_analyzer.py --model simcnn_x0_25 --dataset digits --target_conv 3

Writes data/MODEL_DATASET/layer_sensitivity/layer_03.npy: (ratios, 2) float32, the kept share of the layer's kernels
and the composed model's validation accuracy. A layer tied to an earlier one is measured, and filed, with that one.
scripts/run_layer_sensitivity_analyzer.py does all layers. Method: Qi et al., ASE 2022, section 3.2.
"""

import global_configure  # noqa: F401  (finds our packages before others of their names)
from models.opening import Stage, open_stage, stage_parser
from models.strong_model import graph_of
from modules import files as module_files
from modules.layer_sensitivity import open_sensitivity
from utils.errors import UserError, run
from utils.locks import held
from utils.tables import show_table


def main() -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--target_conv", type=int, required=True, help="the conv layer, counted from 0")
    arguments = parser.parse_args()
    stage = open_stage(arguments)
    layers = graph_of(stage.config).units.layers
    if not 0 <= arguments.target_conv < len(layers):
        raise UserError(f"--target_conv {arguments.target_conv}: expected a conv layer from 0 to {len(layers) - 1}")
    layer = layers[arguments.target_conv]
    if not layer.is_cuttable:
        raise UserError(f"--target_conv {arguments.target_conv} ({layer.name}) cannot be cut: {layer.reason}")
    with held(module_files.sensitivity_role(stage.artifacts)):
        measure(stage, arguments.target_conv)


def measure(stage: Stage, target_conv: int) -> None:
    """Write, and print, the curve of a layer and those tied to it."""
    inputs = open_sensitivity(stage)
    layers = next(layers for layers in inputs.strong.units.tied_layers.values() if target_conv in layers)
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
