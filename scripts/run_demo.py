"""The whole pipeline on scikit-learn's bundled digits: one to three minutes on two cores, nothing to download.

    python scripts/run_demo.py

Trains a strong model of the digits 0 to 4 and decomposes it into one module per class, by both searches. Then patches
five weak models, each of the digits 6 to 9 and one of 0 to 4 of which it has seen six images, with that one's module.
Each step is a command that is printed before it runs: run it yourself, or change it. The same command resumes an
interrupted demo.
"""

import runpy
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

import global_configure
from configures.base import Config, load
from models.graph import flops_of
from models.opening import OneLineParser
from models.strong_model import graph_of
from modules.module_sets import open_set
from patching.confidence import better_and_worse, interval_in_words
from patching.metrics import METRICS, metrics_of
from patching.on_disk import load_patched_weak_models
from patching.report import BEFORE, NO_MODULE, WHOLE_MODEL, PatchedWeakModel, mean_metrics
from patching.weak_models import WeakKind
from report import files as report_files
from search.genetic import files as genetic_files
from search.genetic.log import best_generation
from utils.artifacts import Artifacts
from utils.errors import UserError, run
from utils.tables import show_table

TOP = Path(__file__).resolve().parent.parent
MODEL, DATASET = "simcnn_x0_25", "digits_5"
CALIBRATION = "learned"
# Fewer epochs, generations and steps than the configuration's, and enough to see what a stage does.
SMALL_SEARCH = ("--set", "generations=4", "--set", "population=10", "--set", "parents=5", "--set", "elites=2")
# The smallest and the largest value of each figure in the RUNS runs that docs/reliability.md lists.
RUNS = 5
RANGES = {
    "strong model: accuracy, test, %": (96.9, 100.0),
    "modules by gradient: kernels kept, %": (40.0, 40.0),
    "modules by gradient: accuracy composed, test, %": (98.5, 99.5),
    "genetic modules, 4 generations: kernels kept, %": (56.6, 60.2),
    "genetic modules, 4 generations: accuracy composed, valid, %": (100.0, 100.0),
    "five weak models: mean F1 of the target class, %": (47.5, 83.1),
    "- patched with the module": (92.8, 96.8),
    "- control: recalibrated without a module": (87.5, 92.4),
    "- control: patched with the whole strong model": (93.6, 96.8),
    "- patched: F1 significantly higher than before, of 5": (4.0, 5.0),
    "- patched: F1 significantly higher than without a module, of 5": (1.0, 5.0),
    "module, mean, MFLOPs (strong model 40.5, weak model 1.1)": (10.9, 14.1),
}
STAGES = (
    ("train.py", "--epochs", "24"),
    ("preprocess/kernel_importance_analyzer.py",),
    ("scripts/run_layer_sensitivity_analyzer.py",),
    ("scripts/run_module_search.py", *SMALL_SEARCH),
    ("module_gradient_search.py", "--keep", "0.4", "--set", "mask_steps=80"),
    ("preprocess/module_output_collector.py",),
    ("experiments/patch/patch_for_weak_model/train.py",),
    ("experiments/patch/apply_patch.py", "--exp_type", "weak", "--calibration", CALIBRATION),
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
    weak = "\nWeak models of 6 to 9 and a digit of which they saw six images"
    print(f"{weak}, before -> after its module patched them:\n")
    patched = load_patched_weak_models(artifacts, WeakKind.SIMPLE)
    show_patches(patched)
    print(f"\nWhat was shown, next to its range in {RUNS} runs, of three seeds and two processors:\n")
    show_results(measured(load(MODEL, DATASET), artifacts, patched))
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
            ended = f"{script} ended with exit code {end.code}"
            raise UserError(f"{ended}: fix what it reports, then run the demo again") from None
    finally:
        sys.argv = own_words


def show_patches(models: Sequence[PatchedWeakModel]) -> None:
    """Print each weak model's scores before and after, in percent, with the 95 % interval of the change of F1."""
    rows = []
    for model in models:
        pairs = zip(*(metrics_of(model.scores(method)) for method in (BEFORE, CALIBRATION)), strict=True)
        change = model.change(CALIBRATION)
        sure = f"{interval_in_words(change.f1)} ({change.verdict('f1')})" if change else ""
        rows.append([model.classes[-1], *(f"{100 * old:.1f} -> {100 * new:.1f}" for old, new in pairs), sure])
    show_table(["digit", "precision", "recall", "F1", "others' accuracy", "95 % CI of the F1 change"], rows)


def show_results(values: dict[str, float]) -> None:
    """Print each measured value next to its range, and say which values lie outside."""
    width = max(map(len, RANGES))
    rows = [[f"{name:{width}}", f"{values[name]:.1f}", f"{a:.1f} to {b:.1f}"] for name, (a, b) in RANGES.items()]
    show_table(["", "this run", f"{RUNS} runs"], rows)
    outside = [name for name, (low, high) in RANGES.items() if not low <= round(values[name], 1) <= high]
    if outside:
        print(f"\noutside the range of these {RUNS} runs: {'; '.join(outside)}")


def measured(config: Config, artifacts: Artifacts, models: Sequence[PatchedWeakModel]) -> dict[str, float]:
    """The demo's figures by the names of `RANGES`; accuracies, F1 and shares in percent."""
    chosen, genetic = open_set(config, artifacts, "gradient"), best_generation(genetic_files.log(artifacts).load())
    result, modules = chosen.record, chosen.modules(torch.device("cpu"))
    module = float(np.mean([flops_of(one, graph_of(config).image_shape) for one in modules])) / 1e6
    f1, methods = METRICS.index("f1"), (BEFORE, CALIBRATION, NO_MODULE, WHOLE_MODEL.format(CALIBRATION))
    changes = [model.change(CALIBRATION) for model in models], [model.over_no_module(CALIBRATION) for model in models]
    values = (
        100 * result.test_right_strong / result.test_images,
        100 * result.kernel_share,
        100 * result.test_right_composed / result.test_images,
        100 * genetic.kernels_kept,
        100 * genetic.accuracy,
        *(100 * mean_metrics(list(models), method)[f1] for method in methods),
        *(better_and_worse(each, "f1")[0] for each in changes),
        module,
    )
    return dict(zip(RANGES, values, strict=True))


if __name__ == "__main__":
    run(main)
