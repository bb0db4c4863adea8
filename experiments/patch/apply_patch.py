"""Patch a weak model with a module, and report the target class and the others before and after, on test images.

    python experiments/patch/apply_patch.py --model simcnn_x0_25 --dataset digits_5 --exp_type weak --target_class 3
    python experiments/patch/apply_patch.py --model simcnn --dataset cifar10 --exp_type weak --calibration learned
    python experiments/patch/apply_patch.py --model simcnn --dataset cifar10 --exp_type poor_fit --target_class 3 \\
        --target_epoch 169 --calibration learned --save patched.pth

Calibrations: min_max is the published rule; percentile, outlier and norm take another range of the module's outputs;
learned is a linear map fitted on the weak model's own validation images; all is every one of them. Two controls stand
in every table: the learned fit without a module, and with the whole strong model in the module's place. Writes
patch_epoch_E_CALIBRATION.json beside the weak model and, for all target classes, a CSV and a Markdown table above it.
Method: Qi et al., ASE 2022 (arXiv 2209.06116).
"""

from dataclasses import asdict
from pathlib import Path

from patching import files as patch_files
from patching.cases import BEFORE, CALIBRATIONS, PatchCase, PatchCases, Patched, evaluate
from patching.learned import LearnedRule
from patching.patched_model import PatchedModel, save_patched_model
from patching.report import (
    CELL,
    METRICS,
    PatchRow,
    exact_table,
    metrics_of,
    overview_table,
    patch_rows,
    single_table,
)
from patching.weak_models import weak_network_name
from utils.checked_text import save_json
from utils.errors import UserError, run
from utils.files import save_text
from utils.stage import Stage, chosen_classes, open_stage, stage_parser
from utils.tables import csv_table, markdown_table, show_table

KINDS = {"weak": "weak", "poor_fit": "poor"}


def main() -> None:
    parser = stage_parser(__doc__)
    parser.add_argument(
        "--exp_type", required=True, choices=KINDS, help="which weak models: overly simple, or poorly fitted"
    )
    parser.add_argument("--target_class", default="all", help="one class of the strong model; all by default")
    parser.add_argument(
        "--target_epoch", default="best", help="of the weak model: an epoch counted from 0, best (default) or last"
    )
    parser.add_argument(
        "--calibration",
        default="min_max",
        choices=[*CALIBRATIONS, "all"],
        help="min_max, the published one, by default",
    )
    parser.add_argument("--save", type=Path, metavar="PATH", help="write the patched model there")
    arguments = parser.parse_args()
    stage = open_stage(arguments)
    kind = KINDS[arguments.exp_type]
    target_classes = chosen_classes(arguments.target_class, stage.config)
    if arguments.save and (arguments.target_class == "all" or arguments.calibration == "all"):
        raise UserError("--save: expected one --target_class and one --calibration, given all")
    calibrations = list(CALIBRATIONS) if arguments.calibration == "all" else [arguments.calibration]
    cases = PatchCases(stage, kind)
    cases.check(target_classes, arguments.target_epoch)

    rows: list[PatchRow] = []
    for target_class in target_classes:
        case = cases.load(target_class, arguments.target_epoch)
        results = evaluate(case, calibrations)
        confusions = {method: result.confusion for method, result in results.items()}
        rows_of_case = patch_rows(target_class, case.classes, case.epoch, confusions)
        rows += rows_of_case
        report = patch_files.report(stage.artifacts, kind, target_class, case.epoch, arguments.calibration)
        save_json(report, describe(case, rows_of_case, results, stage, kind))
        if len(target_classes) == 1:
            show_case(case, rows_of_case, results, calibrations)
            print(f"saved {report}")
        if arguments.save:
            networks = (weak_network_name(stage.config, kind), stage.config.model)
            rule = results[arguments.calibration].rule
            patched = PatchedModel(case.weak, case.module, rule, case.classes, *networks)
            save_patched_model(patched, arguments.save)
            print(f"saved {arguments.save}")
    if arguments.target_class == "all":
        headings, table = overview_table(rows)
        print(CELL)
        show_table(headings, table)
        file = patch_files.table(stage.artifacts, kind, arguments.target_epoch, arguments.calibration)
        title = (
            f"{stage.config.name}, {arguments.exp_type} models, epoch {arguments.target_epoch}: {CELL} (test images)"
        )
        save_text(file, csv_table(*exact_table(rows)))
        save_text(file.with_suffix(".md"), f"{title}\n\n{markdown_table(headings, table)}")
        print(f"saved {file} and .md")


def show_case(case: PatchCase, rows: list[PatchRow], results: dict[str, Patched], calibrations: list[str]) -> None:
    """Print one weak model's patch with all counts."""
    print(
        f"target class {case.target_class} ({case.classes[-1]}), weak model of epoch {case.epoch}, "
        f"{len(case.test.labels)} test images; in percent:"
    )
    show_table(*single_table(rows))
    for method in (BEFORE, *calibrations):
        print(f"confusion matrix, {method} (rows: true class; columns: predicted):")
        counts = results[method].confusion.tolist()
        show_table(["", *case.classes], [[name, *row] for name, row in zip(case.classes, counts, strict=True)])


def describe(
    case: PatchCase, rows: list[PatchRow], results: dict[str, Patched], stage: Stage, kind: str
) -> dict[str, object]:
    """Everything about one weak model's patch, as JSON takes it."""
    methods = {}
    for row in rows:
        result = results[row.method]
        methods[row.method] = {
            **dict(zip(METRICS, metrics_of(row.scores), strict=True)),
            **asdict(row.scores),
            "confusion_matrix": result.confusion.tolist(),
            "rule": describe_rule(result.found),
        }
    return {
        "configuration": stage.config.name,
        "target_class": case.target_class,
        "classes": list(case.classes),
        "weak_model": weak_network_name(stage.config, kind),
        "kind": kind,
        "epoch": case.epoch,
        "validation_images": len(case.valid.labels),
        "test_images": len(case.test.labels),
        "methods": methods,
    }


def describe_rule(found: tuple[float, float] | LearnedRule | None) -> dict[str, object] | None:
    """The range or the fit behind a rule."""
    if found is None:
        return None
    if isinstance(found, LearnedRule):
        return {**asdict(found), "weight": found.weight.tolist(), "bias": found.bias.tolist()}
    low, high = found
    return {"low": low, "high": high}


if __name__ == "__main__":
    run(main)
