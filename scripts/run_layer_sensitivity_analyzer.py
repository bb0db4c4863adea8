"""Measure the sensitivity of all conv layers, plot it, and recommend the sensitive ones.

    python scripts/run_layer_sensitivity_analyzer.py --model simcnn_x0_25 --dataset digits

Writes data/MODEL_DATASET/layer_sensitivity/layer_II.npy for each layer (tied ones once), and
layer_sensitivity.png, .svg and .csv. The search takes the `sensitive_layers` of the configuration file: copy the
recommendation there if you agree. Layers whose file is there are not measured again; --fresh sets the files aside.
With --engine several layers are measured at a time.
"""

import argparse

import global_configure  # noqa: F401  (finds our packages before others of their names)
from engines.opening import add_engine_options, check_engine_options, chosen_engine
from models.opening import Stage, open_stage, stage_parser
from models.strong_model import graph_of
from modules import files as module_files
from modules.layer_sensitivity import falls_at, open_sensitivity, recommend_sensitive
from report.figures import save_drawing
from report.figures_of_model import sensitivity_figure
from search.genetic.kernel_groups import genome_layout
from utils.errors import run
from utils.locks import held
from utils.progress import progress
from utils.tables import show_table


def main() -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--fresh", action="store_true", help="set the curves that are there aside")
    add_engine_options(parser, "one layer is measured after the other, by this process")
    arguments = parser.parse_args()
    check_engine_options(arguments)
    stage = open_stage(arguments)
    configured = genome_layout(graph_of(stage.config).units, stage.config).sensitive_layers
    with held(module_files.sensitivity_role(stage.artifacts)):
        measure(stage, configured, arguments)


def measure(stage: Stage, configured: tuple[int, ...], arguments: argparse.Namespace) -> None:
    """Write the curves that are not there yet, print all, plot them, and compare with the configured layers."""
    config = stage.config
    inputs = open_sensitivity(stage, fresh=arguments.fresh)
    tied_layers = inputs.strong.units.tied_layers
    files = {layer: module_files.layer_sensitivity(stage.artifacts, layer) for layer in tied_layers}
    size = len(inputs.ratios), 2
    missing = [layer for layer, file in files.items() if file.load_if_whole(*size) is None]
    inputs.say_expected(missing)
    with chosen_engine(arguments, stage.device) as engine:
        measured = (
            ((layer, inputs.curve(layer)) for layer in missing)
            if engine is None
            else inputs.curves(missing, engine, stage)
        )
        for layer, curve in progress(measured, "layer sensitivity, layers", len(missing)):
            files[layer].save(curve)
    curves = {layer: file.load(*size) for layer, file in files.items()}

    names = {layer: "=".join(map(str, tied_layers[layer])) for layer in curves}
    rows = [
        [names[layer], *(f"{100 * accuracy:.3g}" for accuracy in curve[:, 1]), f"{fall:.1f}" if fall else "never"]
        for layer, curve in curves.items()
        for fall in [falls_at(curve[:, 0], curve[:, 1], config.sensitivity_tolerance)]
    ]
    show_table(["conv", *(f"{ratio:.1f}" for ratio in config.sensitivity_ratios), "falls at"], rows)
    recommended = recommend_sensitive(curves, config.sensitivity_tolerance, config.sensitive_from)
    images = f"{len(inputs.labels)} validation images"
    print(f"\naccuracy of the composed model in percent on {images},\nby the kept share of one layer's kernels")
    print(f"recommended sensitive_layers: {', '.join(names[layer] for layer in recommended) or 'none'}")
    print(f"the configuration's:          {', '.join(names[layer] for layer in configured) or 'none'}")

    path = module_files.layer_sensitivity(stage.artifacts, 0).path.with_name("layer_sensitivity")
    named = {names[layer]: curve for layer, curve in curves.items()}
    title = f"{config.name}: the composed model on {images}"
    marked = [names[layer] for layer in recommended]
    save_drawing(sensitivity_figure(named, marked, config.sensitivity_tolerance, title), path)
    print(f"saved {path}.png, .svg and .csv")


if __name__ == "__main__":
    run(main)
