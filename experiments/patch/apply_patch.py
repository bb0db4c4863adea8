"""Patch a weak model with a module, and report the target class and the others before and after, on test images.

    python experiments/patch/apply_patch.py --model simcnn_x0_25 --dataset digits_5 --exp_type weak --target_class 3
    python experiments/patch/apply_patch.py --model simcnn --dataset cifar10 --exp_type weak --calibration learned
    python experiments/patch/apply_patch.py --model simcnn --dataset cifar10 --exp_type weak --modules gradient
    python experiments/patch/apply_patch.py --model simcnn --dataset cifar10 --exp_type poor_fit --target_class 3 \\
        --target_epoch 169 --calibration learned --save patched.pth

Calibrations: min_max is the published rule; percentile, outlier and norm take another range of the module's outputs;
learned is a linear map fitted on the weak model's own validation images; all is every one of them. Two controls stand
in every table: the learned fit without a module, and with the whole strong model instead of the module. Writes
patch_SET_epoch_E_CALIBRATION.json next to the weak model and, for all target classes, a CSV and a Markdown table above
it; SET is the module set. --save writes the patched model as PATH.pth, PATH.py (with PATH.safetensors) or PATH.onnx.
With --engine the networks of several weak models are evaluated at a time.
Method: Qi et al., ASE 2022 (arXiv 2209.06116).
"""

from pathlib import Path

import global_configure  # noqa: F401  (finds our packages before others of their names)
from dataset.target_classes import HELP, chosen_classes
from engines.opening import add_engine_options, check_engine_options, chosen_engine
from models.opening import open_stage, stage_parser
from modules.module_sets import add_modules_option, open_set
from patching import files as patch_files
from patching.cases import PatchCases
from patching.comparison import compare
from patching.report import BEFORE, PatchedWeakModel
from patching.rules import RULES
from patching.saving import check_save_paths, save_as_reported
from patching.tables import CELL, exact_table, overview_table, single_table, sureness_lines
from patching.weak_models import WeakKind
from utils.errors import UserError, run
from utils.files import save_text
from utils.locks import held
from utils.progress import progress
from utils.tables import csv_table, markdown_table, show_table

KINDS = {kind.option: kind for kind in WeakKind}


def main() -> None:
    parser = stage_parser(__doc__)
    parser.add_argument(
        "--exp_type", required=True, choices=KINDS, help="which weak models: overly simple, or poorly fitted"
    )
    parser.add_argument("--target_class", default="all", help=f"one class of the strong model, {HELP}; all by default")
    parser.add_argument(
        "--target_epoch", default="best", help="of the weak model: an epoch counted from 0, best (default) or last"
    )
    parser.add_argument(
        "--calibration", default="min_max", choices=[*RULES, "all"], help="min_max, the published one, by default"
    )
    add_modules_option(parser)
    parser.add_argument("--save", type=Path, metavar="PATH", help="write the patched model there: .pth, .py or .onnx")
    add_engine_options(parser, "the networks are evaluated one after the other, by this process")
    arguments = parser.parse_args()
    check_engine_options(arguments)
    check_save_paths([arguments.save] if arguments.save else [])
    stage = open_stage(arguments)
    kind, epoch, calibration = KINDS[arguments.exp_type], arguments.target_epoch, arguments.calibration
    target_classes = chosen_classes([arguments.target_class], stage.config)
    if arguments.save and "all" in (arguments.target_class, calibration):
        raise UserError("--save: expected one --target_class and one --calibration, given all")
    calibrations = list(RULES) if calibration == "all" else [calibration]
    modules = open_set(stage.config, stage.artifacts, arguments.modules, target_classes)
    cases = PatchCases(stage, kind, modules)
    cases.check(target_classes, epoch)

    models = []
    # So that no training sets a weak model aside meanwhile.
    roles = [patch_files.weak_training_role(stage.artifacts, kind, target_class) for target_class in target_classes]
    with held(*roles), chosen_engine(arguments, stage.device) as engine:
        loaded = cases.load_all(target_classes, epoch, engine)
        for case in progress(loaded, "patching, weak models", len(target_classes)):
            patches, methods = compare(case.valid, case.test, case.classes, calibrations)
            model = cases.report(case, methods)
            models.append(model)
            report = patch_files.report(stage.artifacts, modules.name, kind, case.target_class, case.epoch, calibration)
            report.save(model)
            if len(target_classes) == 1:
                show_model(model)
                print(f"module set {modules.name}: saved {report.path}")
            if arguments.save and (rule := patches[calibration].rule):
                reported = cases.reported(case, patches[calibration])
                made_of = {
                    "modules": f"{stage.config.name}, set {modules.name}",
                    "target_classes": [case.classes[-1]],
                    "weak_model": f"{kind.words}, epoch {case.epoch}",
                    "calibration": calibration,
                }
                joined = cases.patched_model(case, rule)
                files = save_as_reported(joined, arguments.save, reported, stage.device, made_of)
                names = ", ".join(map(str, files))
                print(f"saved {names}; run on {len(reported.scores)} test images, it answers as reported")
    if arguments.target_class == "all":
        headings, table = overview_table(models)
        print(CELL)
        show_table(headings, table)
        print("with 95 % confidence (paired bootstrap over the test images, points):")
        print("\n".join(sureness_lines(models)))
        file = patch_files.table(stage.artifacts, modules.name, kind, epoch, calibration)
        title = f"{stage.config.name}, {kind.option} models, epoch {epoch}, modules {modules.name}; test images: {CELL}"
        save_text(file, csv_table(*exact_table(models)))
        save_text(file.with_suffix(".md"), f"{title}\n\n{markdown_table(headings, table)}")
        print(f"module set {modules.name}: saved {file} and .md")


def show_model(model: PatchedWeakModel) -> None:
    """Print one weak model's patch with all counts."""
    print(
        f"target class {model.target_class} ({model.classes[-1]}), weak model of epoch {model.epoch}, "
        f"{model.test_images} test images; in percent:"
    )
    show_table(*single_table(model))
    print("before -> after in percent; changes in points with 95 % confidence (paired bootstrap over the test images):")
    print(model)
    for method in (BEFORE, *model.calibrations):
        print(f"confusion matrix, {method} (rows: true class; columns: predicted):")
        counts = model.confusion(method).tolist()
        show_table(["", *model.classes], [[name, *row] for name, row in zip(model.classes, counts, strict=True)])


if __name__ == "__main__":
    run(main)
