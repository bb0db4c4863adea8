"""FLOPs and parameters of the strong model, each module, and the weak and patched models, with ratios.

    python experiments/calculate_flops/calculate_flops.py --model simcnn_x0_25 --dataset cifar10

FLOPs are those of one image, a multiply-accumulate counting 2. Writes data/MODEL_DATASET/flops.csv and flops.md, or
flops_SET.csv and flops_SET.md for --modules SET.
"""

import numpy as np
import torch
from torch import nn

import global_configure  # noqa: F401  (finds our packages before others of their names)
from models.evaluation import count_parameters
from models.graph import flops_of
from models.opening import open_stage, stage_parser
from models.strong_model import graph_of
from modules.module_sets import add_modules_option, open_set
from patching.weak_models import WeakKind, build_weak_network, weak_network_name
from report import files as report_files
from utils.errors import run
from utils.files import save_text
from utils.progress import progress
from utils.tables import csv_table, markdown_table, show_table


def main() -> None:
    parser = stage_parser(__doc__)
    add_modules_option(parser)
    arguments = parser.parse_args()
    stage = open_stage(arguments)
    config = stage.config
    device = torch.device("cpu")
    graph = graph_of(config)
    strong_flops, strong_parameters = graph.flops, count_parameters(graph.network)
    rows: list[list[object]] = []

    def add(name: str, *networks: nn.Module, kernels: object = "") -> tuple[int, int]:
        flops = sum(flops_of(network, graph.image_shape) for network in networks)
        parameters = sum(map(count_parameters, networks))
        ratios = (100 * flops / strong_flops, 100 * parameters / strong_parameters)
        rows.append([name, kernels, flops, f"{ratios[0]:.1f}", parameters, f"{ratios[1]:.1f}"])
        return flops, parameters

    add("strong model", graph.network, kernels=graph.units.num_kernels)
    chosen = open_set(config, stage.artifacts, arguments.modules, ())
    modules, kept = dict(zip(chosen.target_classes, chosen.modules(device), strict=True)), chosen.record.kernels_kept
    counted = zip(progress(modules.items(), "cost of modules", len(modules)), kept, strict=True)
    costs = [add(f"module {number}", module, kernels=kernels) for (number, module), kernels in counted]
    mean_flops, mean_parameters = np.mean(costs, axis=0)
    shares = (f"{100 * mean_flops / strong_flops:.1f}", f"{100 * mean_parameters / strong_parameters:.1f}")
    rows.append(["mean module", round(np.mean(kept)), round(mean_flops), shares[0], round(mean_parameters), shares[1]])
    for kind in WeakKind if config.weak_classes else ():
        weak = build_weak_network(config, kind)
        add(f"{kind.words} weak model ({weak_network_name(config, kind)})", weak)
        for number, module in progress(modules.items(), f"cost of patched {kind.words} models", len(modules)):
            add(f"the same, patched with module {number}", weak, module)

    headings = ["network", "kernels", "FLOPs", "% of strong", "parameters", "% of strong"]
    show_table(headings, [[*row[:2], f"{row[2]:,}", row[3], f"{row[4]:,}", row[5]] for row in rows])
    file = report_files.flops_table(stage.artifacts, *([arguments.modules] if arguments.modules else []))
    columns = ["network", "kernels", "flops", "flops_percent", "parameters", "parameters_percent"]
    save_text(file, csv_table(columns, rows))
    title = f"{config.name}, module set {chosen.name}: FLOPs of one image"
    save_text(file.with_suffix(".md"), f"{title}\n\n{markdown_table(headings, rows)}")
    print(f"module set {chosen.name}: saved {file} and .md")


if __name__ == "__main__":
    run(main)
