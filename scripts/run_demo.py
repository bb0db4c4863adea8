"""The whole pipeline on scikit-learn's bundled digits: one to three minutes on two cores, nothing to download.

    python scripts/run_demo.py

Trains a strong model of the digits 0 to 4 and decomposes it into one module per class, by both searches. Then patches
five weak models, each of the digits 6 to 9 and one of 0 to 4 of which it has seen six images, with that one's module.
Each step is a command that is printed before it runs: type it yourself, or change it. Typed again, the demo goes on
where it was.
"""

import runpy
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

import global_configure
from configures.base import Config, load
from models.graph import flops_of
from models.strong_model import graph_of
from models.weights import count_parameters
from modules.on_disk import load_modularization, load_module
from patching.metrics import METRICS, metrics_of
from patching.on_disk import load_patched_weak_models
from patching.report import BEFORE, NO_MODULE, PatchedWeakModel, mean_metrics
from patching.tables import interval_in_words
from patching.weak_models import WeakKind, build_weak_network
from report import files as report_files
from search.genetic import files as genetic_files
from search.genetic.log import best_generation
from utils.artifacts import Artifacts
from utils.errors import UserError, run
from utils.stage import OneLineParser
from utils.tables import show_table

TOP = Path(__file__).resolve().parent.parent
MODEL, DATASET = "simcnn_x0_25", "digits_5"
CALIBRATION = "learned"
# Fewer epochs, generations and steps than the configuration's, and enough to see what a stage does.
SMALL_SEARCH = ("--set", "generations=4", "--set", "population=10", "--set", "parents=5", "--set", "elites=2")
FEW_OF_ITS_CLASS = ("--set", "weak_target_images=6")
STAGES = (
    ("train.py", "--epochs", "24"),
    ("preprocess/kernel_importance_analyzer.py",),
    ("scripts/run_layer_sensitivity_analyzer.py",),
    ("scripts/run_module_search.py", *SMALL_SEARCH),
    ("module_gradient_search.py", "--keep", "0.4", "--set", "mask_steps=40", "--set", "mask_keeps=0.6"),
    ("preprocess/module_output_collector.py",),
    ("experiments/patch/patch_for_weak_model/train.py", *FEW_OF_ITS_CLASS),
    ("experiments/patch/apply_patch.py", "--exp_type", "weak", "--calibration", CALIBRATION, *FEW_OF_ITS_CLASS),
    ("experiments/patch/patch_for_poor_model/train.py", "--epochs", "7", "--target_class", "2"),
    ("experiments/patch/apply_patch.py", "--exp_type", "poor_fit", "--target_class", "2", "--calibration", CALIBRATION),
    ("experiments/calculate_flops/calculate_flops.py",),
    ("experiments/trade_off/trade_off.py", *SMALL_SEARCH),
    ("scripts/make_report.py",),
)


def main() -> None:
    OneLineParser(__doc__).parse_args()
    start = time.monotonic()
    for script, *arguments in STAGES:
        run_stage(script, "--model", MODEL, "--dataset", DATASET, *arguments)
    artifacts = Artifacts(Path(global_configure.root_dir).resolve(), MODEL, DATASET)
    print(f"\nDone in {time.monotonic() - start:.0f} s.")
    print(
        "\nWeak models of 6 to 9 and a digit of which they saw six images, before -> after its module patched them:\n"
    )
    patched = load_patched_weak_models(artifacts, WeakKind.SIMPLE)
    show_patches(patched)
    print("\nWhat was shown:\n")
    config = load(MODEL, DATASET)
    for number, line in enumerate((*of_modules(config, artifacts), *of_patches(config, artifacts, patched)), start=1):
        print(f"{number}. {line}")
    print(f"\nreport: {report_files.folder(artifacts) / 'index.html'}")
    print("\nOn with your own images, your own network, your own weak model:\n")
    for command in (
        "python train.py --model simcnn_x0_25 --dataset flowers      # data/dataset/flowers/{train,test}/CLASS/IMAGE",
        "python scripts/import_model.py --model mine --dataset flowers --network net.py:build --checkpoint best.pth",
        "python scripts/patch_weak_model.py --model mine --dataset flowers --weak_logits my_logits --target_class auto",
    ):
        print(f"    {command}")


def run_stage(script: str, *arguments: str) -> None:
    """Run one script of the pipeline as a user would, but in this process, where torch is imported already.

    Raises UserError where it fails.
    """
    print(f"\n$ python {' '.join((script, *arguments))}", flush=True)
    own_words, sys.argv = sys.argv, [str(TOP / script), *arguments]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        if end.code:
            message = f"{script} ended with exit code {end.code}: mend what it says, then run the demo again"
            raise UserError(message) from None
    finally:
        sys.argv = own_words


def show_patches(models: Sequence[PatchedWeakModel]) -> None:
    """Print each weak model's scores before and after, in percent, and how sure the change is."""
    rows = []
    for model in models:
        pairs = zip(*(metrics_of(model.scores(method)) for method in (BEFORE, CALIBRATION)), strict=True)
        change = model.change(CALIBRATION)
        sure = f"{interval_in_words(change.f1)} ({change.verdict('f1')})"
        rows.append([model.classes[-1], *(f"{100 * old:.1f} -> {100 * new:.1f}" for old, new in pairs), sure])
    show_table(["digit", "precision", "recall", "F1", "others' accuracy", "F1 changes by, 95 % sure"], rows)


def of_modules(config: Config, artifacts: Artifacts) -> tuple[str, ...]:
    """What became of the strong model, by either search."""
    result, genetic = load_modularization(config, artifacts), best_generation(genetic_files.log(artifacts).load())
    kept = float(np.mean(result.kernels_kept)) / result.kernels
    right_by_genetic, by_genetic = round(genetic.accuracy * result.valid_images), f"{genetic.kernels_kept:.1%}"
    strong, module = cost(graph_of(config).network, config), np.mean(costs_of_modules(config, artifacts), axis=0)
    test_images = f"{result.test_images} test images"
    return (
        f"A strong CNN ({in_words(strong)}) gets {result.test_right_strong} of {test_images} right.",
        f"Its modules by gradient, one per digit ({in_words(module)} on average), get {result.test_right_composed}.",
        f"They keep {kept:.1%} of its kernels and get {result.valid_right_composed} of {result.valid_images} "
        f"validation images right; those of {genetic.generation} genetic generations {by_genetic}, {right_by_genetic}.",
    )


def of_patches(config: Config, artifacts: Artifacts, models: Sequence[PatchedWeakModel]) -> tuple[str, ...]:
    """What the patches did to F1 on average, what recalibrating the weak models alone does, and what a patch costs."""
    before, after, alone = (
        100 * mean_metrics(list(models), method)[METRICS.index("f1")] for method in (BEFORE, CALIBRATION, NO_MODULE)
    )
    surely = sum(model.change(CALIBRATION).f1[0] > 0 for model in models)
    weak = cost(build_weak_network(config, WeakKind.SIMPLE), config)
    patched = np.mean(costs_of_modules(config, artifacts), axis=0) + weak  # both networks run
    return (
        f"F1 of the digit that a weak CNN hardly saw: {before:.1f} -> {after:.1f} on average, surely up for {surely} "
        f"of {len(models)}; {alone:.1f} without module.",
        f"A weak CNN has {in_words(weak)}; patched, {in_words(patched)}. Nothing was trained again.",
    )


def costs_of_modules(config: Config, artifacts: Artifacts) -> list[np.ndarray]:
    """What each module on the disk costs."""
    cpu = torch.device("cpu")
    return [cost(load_module(config, artifacts, number, cpu), config) for number in range(config.num_classes)]


def cost(network: nn.Module, config: Config) -> np.ndarray:
    """(2,) FLOPs of one image, and parameters."""
    return np.array([flops_of(network, graph_of(config).image_shape), count_parameters(network)])


def in_words(cost: np.ndarray) -> str:
    """FLOPs and parameters in millions."""
    flops, parameters = cost / 1e6
    return f"{flops:.1f} MFLOPs, {parameters:.2f} M parameters"


if __name__ == "__main__":
    run(main)
