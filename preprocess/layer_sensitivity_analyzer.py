"""Measure how sensitive one conv layer is to losing kernels.

    python layer_sensitivity_analyzer.py --model simcnn_x0_25 --dataset digits --target_conv 3

Writes data/MODEL_DATASET/layer_sensitivity/layer_03.npy: (ratios, 2) float32, the kept share of the layer's kernels
and the composed model's validation accuracy. A layer tied to an earlier one is measured, and filed, with that one.
scripts/run_layer_sensitivity_analyzer.py does all layers. Method: Qi et al., ASE 2022, section 3.2.
"""

from models.layer_sensitivity import layer_sensitivity, tied_layers
from models.strong_model import load_strong_model
from utils.datasets import load_split
from utils.errors import UserError, run
from utils.images import normalise, to_device
from utils.stage import open_stage, show_table, stage_parser


def main() -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--target_conv", type=int, required=True, help="the conv layer, counted from 0")
    arguments = parser.parse_args()
    stage = open_stage(arguments)
    config = stage.config
    model = load_strong_model(config, stage.artifacts, stage.device)
    num_layers = len(model.architecture.convs)
    if not 0 <= arguments.target_conv < num_layers:
        raise UserError(f"--target_conv {arguments.target_conv}: expected a conv layer from 0 to {num_layers - 1}")
    importance = stage.artifacts.kernel_importance.load(config.num_classes, sum(model.architecture.num_kernels))
    valid = load_split(config).valid.first(config.sensitivity_images)
    pixels, _ = to_device(valid, stage.device)

    layers = tied_layers(model, arguments.target_conv)
    if len(layers) > 1:
        print(f"conv {', '.join(map(str, layers))} are tied: measured together, as conv {layers[0]}")
    images = normalise(pixels, stage.dtype)
    curve = layer_sensitivity(model, importance, layers[0], config.sensitivity_ratios, images, valid.labels)
    rows = [[f"{ratio:.1f}", f"{accuracy:.2%}", round(accuracy * len(valid))] for ratio, accuracy in curve.tolist()]
    show_table(["kept", "accuracy", f"of {len(valid)} images"], rows)
    file = stage.artifacts.layer_sensitivity(layers[0])
    file.save(curve)
    print(f"saved {file.path}")


if __name__ == "__main__":
    run(main)
