"""Measure the sensitivity of all conv layers, plot it, and recommend the sensitive ones.

    python run_layer_sensitivity_analyzer.py --model simcnn_x0_25 --dataset digits

Writes data/MODEL_DATASET/layer_sensitivity/layer_II.npy for each layer (tied ones once), and
layer_sensitivity.png, .svg and .csv. The search takes the `sensitive_layers` of the configuration file: copy the
recommendation there if you agree. Layers whose file is there are not measured again, unless with --fresh.
"""

import numpy as np

from models.layer_sensitivity import layer_sensitivity, tied_layers
from models.strong_model import load_strong_model
from utils.datasets import load_split
from utils.errors import UserError, run
from utils.figures import save_drawing
from utils.figures_of_model import sensitivity_figure
from utils.images import normalise, to_device
from utils.kernel_groups import genome_layout
from utils.sensitivity import falls_at, recommend_sensitive
from utils.stage import open_stage, show_table, stage_parser
from utils.training import progress_bar


def main() -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--fresh", action="store_true", help="measure layers again whose file is there")
    arguments = parser.parse_args()
    stage = open_stage(arguments)
    config = stage.config
    model = load_strong_model(config, stage.artifacts, stage.device)
    importance = stage.artifacts.kernel_importance.load(config.num_classes, sum(model.architecture.num_kernels))
    configured = genome_layout(model.architecture.num_kernels, model.architecture.tied_to, config).sensitive
    valid = load_split(config).valid.first(config.sensitivity_images)
    pixels, _ = to_device(valid, stage.device)
    images = normalise(pixels, stage.dtype)

    curves: dict[int, np.ndarray] = {}
    for layer in progress_bar(model.architecture.free_layers, "sensitivity"):
        file = stage.artifacts.layer_sensitivity(layer)
        if arguments.fresh or not file.exists():
            file.save(layer_sensitivity(model, importance, layer, config.sensitivity_ratios, images, valid.labels))
        curves[layer] = file.load(None, 2)
        if not np.array_equal(curves[layer][:, 0], np.array(config.sensitivity_ratios, np.float32)):
            raise UserError(f"{file.path} was measured at other sensitivity_ratios: measure again with --fresh")

    names = {layer: "=".join(map(str, tied_layers(model, layer))) for layer in curves}
    rows = [
        [names[layer], *(f"{accuracy:.1%}" for accuracy in curve[:, 1]), f"{fall:.1f}" if fall else "never"]
        for layer, curve in curves.items()
        for fall in [falls_at(curve[:, 0], curve[:, 1], config.sensitivity_tolerance)]
    ]
    show_table(["conv", *(f"{ratio:.1f}" for ratio in config.sensitivity_ratios), "falls at"], rows)
    recommended = recommend_sensitive(curves, config.sensitivity_tolerance, config.sensitive_from)
    print(
        f"\naccuracy of the composed model on {len(valid)} validation images, by the kept share of one layer's kernels"
    )
    print(f"recommended sensitive_layers: {', '.join(names[layer] for layer in recommended) or 'none'}")
    print(f"the configuration's:          {', '.join(names[layer] for layer in sorted(configured)) or 'none'}")

    path = stage.artifacts.layer_sensitivity(0).path.with_name("layer_sensitivity")
    named = {names[layer]: curve for layer, curve in curves.items()}
    title = f"{config.name}: the composed model on {len(valid)} validation images"
    marked = [names[layer] for layer in recommended]
    save_drawing(sensitivity_figure(named, marked, config.sensitivity_tolerance, title), path)
    print(f"saved {path}.png, .svg and .csv")


if __name__ == "__main__":
    run(main)
