"""The whole pipeline on scikit-learn's bundled digits: about two minutes on two cores, nothing to download.

    python run_demo.py

Trains a strong model of the digits 0 to 4 and decomposes it into one module per class, by both searches. Then patches
five weak models, each of the digits 6 to 9 and one of 0 to 4 of which it has seen six images, with that one's module.
Each step is a command that is printed before it runs: type it yourself, or change it. Typed again, the demo goes on
where it was.
"""

import runpy
import sys
import time
from pathlib import Path

import numpy as np

import global_configure
from configures.base import load
from modules.on_disk import load_modularization
from patching.on_disk import load_patched_weak_models
from patching.report import BEFORE, common_calibrations, mean_metrics
from patching.weak_models import WeakKind
from report import files as report_files
from search.genetic import files as genetic_files
from search.genetic.log import best_generation
from utils.artifacts import Artifacts
from utils.errors import UserError, run
from utils.stage import OneLineParser
from utils.tables import show_table

TOP = Path(__file__).resolve().parent.parent
MODEL, DATASET = "simcnn_x0_25", "digits_5"
# A few generations and short rounds: less than the configuration's, and enough to see what the searches do.
SMALL_SEARCH = ("--set", "generations=4", "--set", "population=10", "--set", "parents=5", "--set", "elites=2")
FEW_OF_ITS_CLASS = ("--set", "weak_target_images=6")
STAGES = (
    ("train.py",),
    ("preprocess/kernel_importance_analyzer.py",),
    ("scripts/run_layer_sensitivity_analyzer.py",),
    ("scripts/run_module_search.py", *SMALL_SEARCH),
    ("module_gradient_search.py", "--keep", "0.4", "--set", "mask_steps=40", "--set", "mask_keeps=0.7,0.5"),
    ("preprocess/module_output_collector.py",),
    ("experiments/patch/patch_for_weak_model/train.py", *FEW_OF_ITS_CLASS),
    ("experiments/patch/apply_patch.py", "--exp_type", "weak", "--calibration", "learned", *FEW_OF_ITS_CLASS),
    ("experiments/patch/patch_for_poor_model/train.py", "--epochs", "7", "--target_class", "2"),
    ("experiments/patch/apply_patch.py", "--exp_type", "poor_fit", "--target_class", "2", "--calibration", "learned"),
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
    print(f"\nDone in {time.monotonic() - start:.0f} s. A CNN decomposed into one module per class:\n")
    show_modules(artifacts)
    print("\nWeak models of 6 to 9 and one digit of which they saw six images, patched; mean over the five:\n")
    show_patches(artifacts)
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


def show_modules(artifacts: Artifacts) -> None:
    """Print the composed models of both searches beside the strong one."""
    config = load(MODEL, DATASET)
    result = load_modularization(config, artifacts)
    genetic = best_generation(genetic_files.log(artifacts).load())
    kept = float(np.mean(result.kernels_kept)) / result.kernels
    valid, right = result.valid_images, round(genetic.accuracy * result.valid_images)
    models = (
        ("strong model", result.valid_right_strong, "100.0%", f"{result.test_right_strong}"),
        (f"modules, genetic search, {genetic.generation} generations", right, f"{genetic.kernels_kept:.1%}", ""),
        ("modules, by gradient", result.valid_right_composed, f"{kept:.1%}", f"{result.test_right_composed}"),
    )
    headings = ["", f"right of {valid} validation images", "kernels", f"right of {result.test_images} test images"]
    show_table(headings, [[name, right, kernels, test] for name, right, kernels, test in models])


def show_patches(artifacts: Artifacts) -> None:
    """Print the weak models before and after, on average over the target classes."""
    models = load_patched_weak_models(artifacts, WeakKind.SIMPLE)
    rows = []
    for method in (BEFORE, *common_calibrations(models)):
        rows.append([method, *(f"{100 * value:.1f}" for value in mean_metrics(models, method))])
    show_table(["in percent", "precision", "recall", "F1", "accuracy of the others"], rows)


if __name__ == "__main__":
    run(main)
