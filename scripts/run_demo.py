"""The whole pipeline on scikit-learn's bundled digits: a few minutes on two cores, nothing to download.

    python run_demo.py

Trains a strong model of the ten digits and decomposes it into one module per class. Then patches five weak models, each
of the digits 6 to 9 and one of 0 to 4, with that one's module out of a strong model of 0 to 4. Each step is a command
that is printed before it runs: type it yourself, or change it. Typed again, the demo goes on where it was.
"""

import subprocess
import sys
import time
from pathlib import Path

import global_configure
from configures.base import load
from modules.on_disk import load_modularization
from patching.on_disk import load_patched_weak_models
from patching.report import BEFORE, common_calibrations, mean_metrics
from patching.weak_models import WeakKind
from report import files as report_files
from utils.artifacts import Artifacts
from utils.errors import UserError, run
from utils.stage import OneLineParser
from utils.tables import show_table

TOP = Path(__file__).resolve().parent.parent
MODEL = "simcnn_x0_25"
MODULARIZE = (
    ("train.py",),
    ("preprocess/kernel_importance_analyzer.py",),
    ("scripts/run_layer_sensitivity_analyzer.py",),
    ("scripts/run_module_search.py",),
)
PATCH = (
    ("train.py",),
    ("preprocess/kernel_importance_analyzer.py",),
    ("scripts/run_module_search.py",),
    ("preprocess/module_output_collector.py",),
    ("experiments/patch/patch_for_weak_model/train.py",),
    ("experiments/patch/apply_patch.py", "--exp_type", "weak", "--calibration", "learned"),
    ("experiments/patch/apply_patch.py", "--exp_type", "weak"),
)
REPORT = (("scripts/make_report.py",),)


def main() -> None:
    OneLineParser(__doc__).parse_args()
    start = time.monotonic()
    for dataset, stages in (("digits", (*MODULARIZE, *REPORT)), ("digits_5", (*PATCH, *REPORT))):
        for script, *arguments in stages:
            run_stage(script, "--model", MODEL, "--dataset", dataset, *arguments)
    root_dir = Path(global_configure.root_dir).resolve()
    digits, digits_5 = (Artifacts(root_dir, MODEL, dataset) for dataset in ("digits", "digits_5"))
    print(f"\nDone in {time.monotonic() - start:.0f} s. A CNN decomposed into one module per class:\n")
    show_modules(digits)
    print("\nWeak models of 6 to 9 and one other digit, patched with that digit's module; mean over the five:\n")
    show_patches(digits_5)
    folder, other_folder = map(report_files.folder, (digits, digits_5))
    print(f"\nfigure:  {folder / 'figures' / 'kernels_kept.png'}")
    print(f"reports: {folder / 'index.html'}\n         {other_folder / 'index.html'}")


def run_stage(script: str, *arguments: str) -> None:
    """Run one script of the pipeline as a user would. Raises UserError where it fails."""
    print(f"\n$ python {' '.join((script, *arguments))}", flush=True)
    exit_code = subprocess.run([sys.executable, str(TOP / script), *arguments], check=False).returncode
    if exit_code:
        raise UserError(f"{script} ended with exit code {exit_code}: mend what it says, then run the demo again")


def show_modules(artifacts: Artifacts) -> None:
    """Print the composed model beside the strong one."""
    result = load_modularization(load(MODEL, artifacts.dataset), artifacts)
    kept = sum(result.kernels_kept) / len(result.kernels_kept) / result.kernels
    models = (
        ("strong model", result.test_right_strong, "100.0%"),
        ("composed of modules", result.test_right_composed, f"{kept:.1%} each"),
    )
    rows = [[name, f"{right / result.test_images:.2%}", right, kernels] for name, right, kernels in models]
    show_table(["model", "test accuracy", f"right of {result.test_images}", "kernels"], rows)


def show_patches(artifacts: Artifacts) -> None:
    """Print the weak models before and after, on average over the target classes."""
    models = load_patched_weak_models(artifacts, WeakKind.SIMPLE)
    rows = []
    for method in (BEFORE, *common_calibrations(models)):
        rows.append([method, *(f"{100 * value:.1f}" for value in mean_metrics(models, method))])
    show_table(["in percent", "precision", "recall", "F1", "accuracy of the others"], rows)


if __name__ == "__main__":
    run(main)
