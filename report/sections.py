"""What a report says, part by part. A part whose artifacts are missing or damaged says so, with the command to run."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from models import files as model_files
from models.training import best_epoch
from modules import files as module_files
from modules.jaccard import mean_pairwise_distance
from modules.sensitivity import recommend_sensitive
from patching import files as patch_files
from patching.report import metrics_of
from patching.weak_models import weak_network_name
from report.data import ReportData
from report.figures import percent
from report.figures_of_accuracy import class_accuracy_figure, confusion_figure, outputs_figure
from report.figures_of_model import importance_figure, sensitivity_figure, training_figure
from report.figures_of_patching import changed_images_figure, patch_figure
from report.figures_of_search import cost_figure, kept_figure, pairs_figure, rounds_figure, search_figure
from report.page import Block, Note, Paragraph, Picture, Section, Table, Tiles, section
from report.patches import BEFORE, PatchedWeakModel, common_calibrations, label_of, patch_command
from report.provenance import StageRun, duration, machine_rows, setting_rows, stage_rows
from search.genetic import files as genetic_files
from search.gradient import files as gradient_files
from utils.errors import UserError
from utils.files import sha256_of

KIND_NAMES = {"weak": "overly simple", "poor": "poorly fitted"}
METRIC_NAMES = ("precision", "recall", "F1", "others' accuracy")


def report_sections(data: ReportData) -> list[Section]:
    """All sections after the answer."""
    kinds = list(KIND_NAMES) if data.config.weak_classes else []
    return [
        section("training", "The strong model", lambda: training_blocks(data)),
        section("importance", "Kernel importance", lambda: importance_blocks(data)),
        section("sensitivity", "Layer sensitivity", lambda: sensitivity_blocks(data)),
        search_section(data),
        section("modules", "The modules", lambda: kernel_blocks(data), lambda: cost_blocks(data)),
        section(
            "composed",
            "The composed model",
            lambda: accuracy_blocks(data),
            lambda: changed_network_blocks(data),
            lambda: output_blocks(data),
        ),
        *(
            section(
                f"patch-{kind}",
                f"Patching {KIND_NAMES[kind]} models",
                lambda kind=kind: patch_blocks(data, kind),
                lambda kind=kind: patch_answer_blocks(data, kind),
            )
            for kind in kinds
        ),
        section("provenance", "How it was made", lambda: provenance_blocks(data)),
    ]


def answer_section(data: ReportData) -> Section:
    """What was modularized, how well, how small, and what patching did."""
    return section(
        "answer",
        "The answer",
        lambda: modularization_answer(data),
        *((lambda: patching_answer(data),) if data.config.weak_classes else ()),
    )


def modularization_answer(data: ReportData) -> list[Block]:
    """The numbers that the search gave its modules, and what they cost."""
    result = data.modularization
    search = result.search
    found = f"{search['method']} search" if isinstance(search.get("method"), str) else "search"
    took = f", {duration(search['seconds'])}" if isinstance(search.get("seconds"), int | float) else ""
    which = f" (generation {search['generation']} of {search['generations'] - 1}{took})" if _counts(search) else took
    blocks: list[Block] = [
        Paragraph(
            f"{data.config.model}, trained on {data.config.dataset}, was decomposed into {len(result.classes)} "
            f"modules, one for each of the classes {', '.join(data.classes)}, by a {found}{which}."
        )
    ]
    test_points = _points(result.test_right_composed, result.test_right_strong, result.test_images)
    kept = np.array(result.kernels_kept) / result.kernels
    tiles = [
        (
            "How well",
            percent(result.test_right_composed / result.test_images),
            f"of {result.test_images:,} test images right by the composed model; {test_points:+.2f} points against the "
            "strong model",
        ),
        (
            "How small",
            percent(float(kept.mean())),
            f"of the kernels in a module on average, {percent(float(kept.min()))} to {percent(float(kept.max()))}",
        ),
    ]
    try:
        strong, modules = data.costs
        flops, parameters = 100 * modules[:, 1:].mean(0) / strong[1:]
        tiles.append(
            (
                "What a module costs",
                f"{flops:.1f} %",
                f"of the strong model's FLOPs, {parameters:.1f} % of its parameters",
            )
        )
    except UserError:  # its own section says so
        pass
    tiles.append(
        (
            "How different",
            f"{result.jaccard_distance:.3f}",
            "mean Jaccard distance of two modules' kernels: 0 = the same, 1 = none shared",
        )
    )
    blocks.append(Tiles(tiles))
    rows = []
    for part, name in (("valid", "validation"), ("test", "test")):
        images, strong_right, composed_right = (
            getattr(result, f"{part}_{key}") for key in ("images", "right_strong", "right_composed")
        )
        shares = [percent(right / images) for right in (strong_right, composed_right)]
        points = f"{_points(composed_right, strong_right, images):+.2f}"
        rows.append((name, images, shares[0], strong_right, shares[1], composed_right, points))
    headings = ("images", "count", "strong model", "right", "composed model", "right", "difference in points")
    blocks.append(
        Table("Accuracy of the strong and the composed model. The search chose on validation images.", headings, rows)
    )
    return blocks


def patching_answer(data: ReportData) -> list[Block]:
    """The mean change by every calibration, of every kind of weak model that was patched."""
    rows: list[Sequence[Any]] = []
    absent: list[Block] = []
    for kind, name in KIND_NAMES.items():
        try:
            models = data.patched(kind)
            means = {method: mean_metrics(models, method) for method in (BEFORE, *common_calibrations(models))}
        except UserError as error:
            absent.append(Note(f"No {name} model was patched here: {error}"))
            continue
        for method, mean in means.items():
            change = [f"{100 * value:+.1f}" for value in mean - means[BEFORE]] if method != BEFORE else [""] * 4
            cells = [
                f"{percent(value)} {f'({by})' if by else ''}".strip() for value, by in zip(mean, change, strict=True)
            ]
            rows.append((f"{name}, {method}", len(models), *cells))
    headings = ("weak models, method", "models", *METRIC_NAMES)
    caption = (
        "What patching did: means over the weak models, on test images, and in brackets the change in points. "
        "Precision, recall and F1 are those of the target class."
    )
    return ([Table(caption, headings, rows)] if rows else []) + absent


def mean_metrics(models: Sequence[PatchedWeakModel], method: str) -> np.ndarray:
    """(metrics,) float64: the mean of a method over weak models."""
    return np.mean([metrics_of(model.scores(method)) for model in models], axis=0)


def training_blocks(data: ReportData) -> list[Block]:
    """The training curves."""
    history = data.history
    drawing = training_figure(history, best_epoch(history), f"{data.config.name}: training of the strong model")
    reading = (
        "Left: training loss; right: accuracy on the training images as they are augmented, with dropout, and on "
        "validation images as they are, so that the second may be above the first. The weights of the dotted epoch "
        "were kept."
    )
    return [Picture("training", drawing, reading)]


def importance_blocks(data: ReportData) -> list[Block]:
    """The heat maps of importance."""
    drawing = importance_figure(data.importance, data.classes, f"{data.config.name}: kernel importance")
    reading = (
        "One map a conv layer, one row a class, one column a kernel; bright = important. Columns that are bright from "
        "top to bottom are kernels that all classes need, streaks in one row are a class's own."
    )
    blocks: list[Block] = [Picture("importance", drawing, reading)]
    if data.config.importance_mode == "random":
        blocks.append(
            Note("importance_mode is random: kernels in index order, the control experiment; nothing measured.")
        )
    return blocks


def sensitivity_blocks(data: ReportData) -> list[Block]:
    """The curves of the layers that were measured."""
    curves, config = data.sensitivity, data.config
    names = {layer: data.layer_names[layer] for layer in curves}
    chosen = {
        data.architecture.tied_to[layer] for layer in config.sensitive_layers if layer < len(data.architecture.convs)
    }
    drawing = sensitivity_figure(
        {names[layer]: curve for layer, curve in curves.items()},
        [names[layer] for layer in curves if layer in chosen],
        config.sensitivity_tolerance,
        f"{config.name}: accuracy while one layer loses kernels",
    )
    recommended = recommend_sensitive(curves, config.sensitivity_tolerance, config.sensitive_from)
    advice = ", ".join(names[layer] for layer in recommended) or "none"
    reading = (
        "One line a layer: every module keeps the given share of that layer's kernels, most important first, and all "
        "of the others. A line that falls far to the right is a sensitive layer. Marked are the sensitive layers of "
        f"the configuration; the analysis recommends conv {advice}."
    )
    blocks: list[Block] = [Picture("sensitivity", drawing, reading)]
    if absent := [name for layer, name in data.layer_names.items() if layer not in curves]:
        command = module_files.layer_sensitivity(data.artifacts, 0).made_by
        blocks.append(Note(f"Not measured yet: conv {', '.join(absent)}; first run: {command}"))
    return blocks


def search_section(data: ReportData) -> Section:
    """The genetic search, the gradient search, or both, as far as they were made."""
    artifacts = data.artifacts
    parts = (
        [lambda: genetic_blocks(data)]
        if genetic_files.log(artifacts).exists() or not gradient_files.log(artifacts).exists()
        else []
    )
    parts += [lambda: gradient_blocks(data)] if gradient_files.log(artifacts).exists() else []
    return section("search", "The search", *parts)


def gradient_blocks(data: ReportData) -> list[Block]:
    """The rounds of the gradient search."""
    drawing = rounds_figure(data.rounds, data.chosen_round, f"{data.config.name}: the gradient search")
    reading = (
        "One point a round: each goes on from the one before, and keeps fewer kernels of all modules together. Left: "
        "how much worse the composed model is than the strong model on all validation images, 0 = as good; right: how "
        "different the modules are."
    )
    return [Picture("gradient_search", drawing, reading)]


def genetic_blocks(data: ReportData) -> list[Block]:
    """The generations, and whether the search is over."""
    artifacts = data.artifacts
    rows, chosen = data.generations, data.chosen_generation
    blocks: list[Block] = [
        Picture(
            "search",
            search_figure(rows, chosen, f"{data.config.name}: the search"),
            "Above, the best ensemble of each generation, one module per class, on the search's validation images; its "
            "fitness weighs accuracy and Jaccard distance. The mean fitness is what the explorers select by: a "
            "chromosome that is in no surviving ensemble counts 0. The modules are taken from the dashed generation.",
        )
    ]
    if genetic_files.end(artifacts).load_if_there() is None and not _has_modules(data):
        command = artifacts.command("scripts/watch_search.py")
        blocks.append(Note(f"The search is not over: {len(rows)} generations are scored. Watch it with: {command}"))
    settings = search_settings(data)
    if settings and model_files.entire_model(artifacts).exists():
        expected = settings.get("strong_model_sha256")
        if isinstance(expected, str) and sha256_of(model_files.entire_model(artifacts).path) != expected:
            blocks.append(
                Note(
                    "The strong model on the disk is not the one that this search was made with; search again with: "
                    + artifacts.command("scripts/run_module_search.py", "--fresh")
                )
            )
    return blocks


def search_settings(data: ReportData) -> dict[str, Any]:
    """What the search wrote down of its settings; nothing where it wrote nothing. Raises UserError where damaged."""
    file = genetic_files.settings(data.artifacts)
    return file.load() if file.exists() else {}


def kernel_blocks(data: ReportData) -> list[Block]:
    """The kernels that modules keep and share."""
    masks, name = data.masks, data.config.name
    slices = [data.architecture.layer_slices[layer] for layer in data.layer_names]
    kept = kept_figure(masks, slices, list(data.layer_names.values()), data.classes, f"{name}: kernels kept")
    pairs = pairs_figure(
        masks, data.classes, f"{name}: how alike modules are, mean {mean_pairwise_distance(masks):.3f}"
    )
    return [
        Picture(
            "kernels_kept",
            kept,
            "One row a module, one column a conv layer; the number is the share of the layer's kernels that the "
            "module keeps.",
        ),
        Picture(
            "module_pairs",
            pairs,
            "Left: 0 = the same kernels, 1 = none in common. Right: how many kernels two modules have in common; on "
            "the diagonal, how many a module keeps.",
        ),
    ]


def cost_blocks(data: ReportData) -> list[Block]:
    """FLOPs and parameters."""
    drawing = cost_figure(*data.costs, data.classes, f"{data.config.name}: what a module costs")
    reading = (
        "One bar a module, in percent of the strong model. FLOPs are of one image, a multiply-accumulate counting 2, "
        "convolutions and matrix products only."
    )
    return [Picture("module_costs", drawing, reading)]


def accuracy_blocks(data: ReportData) -> list[Block]:
    """Confusions and accuracy per class."""
    confusions, name = data.confusions, f"{data.config.name}, test images"
    blocks: list[Block] = [
        Picture(
            "confusions",
            confusion_figure(confusions, data.classes, name),
            "Rows are true classes, columns what the model says; the diagonal is right. Numbers are images.",
        ),
        Picture(
            "class_accuracy",
            class_accuracy_figure(confusions, data.classes, f"{name}: accuracy of each class"),
            "From the circle, the strong model, to the square, the composed one; the number is the difference in "
            "points.",
        ),
    ]
    return blocks


def changed_network_blocks(data: ReportData) -> list[Block]:
    """A note, where the networks on the disk do not answer as the search said."""
    result, confusions = data.modularization, data.confusions
    now = [int(np.trace(confusion)) for confusion in confusions.values()]
    said, allowed = [result.test_right_strong, result.test_right_composed], 1 + result.test_images // 1000
    if any(abs(one - other) > allowed for one, other in zip(now, said, strict=True)):
        return [
            Note(
                f"{module_files.report(data.artifacts).path} says {said[0]} and {said[1]} right, the networks on the "
                f"disk give {now[0]} and {now[1]}: one of them has changed since; search again to be sure."
            )
        ]
    return []


def output_blocks(data: ReportData) -> list[Block]:
    """What the modules answer to their own class and to the others."""
    labels, composed = data.answers.labels, data.answers.composed
    classes = [c for c in range(data.config.num_classes) if 0 < (labels == c).sum() < len(labels)]
    drawing = outputs_figure(
        [composed[labels == c, c] for c in classes],
        [composed[labels != c, c] for c in classes],
        [data.classes[c] for c in classes],
        "images of all other classes",
        f"{data.config.name}, test images: each module's output",
    )
    reading = (
        "A patch trusts this one number: where the two bars of a module overlap, it cannot tell its class from "
        "others. In brackets the share of pairs of images, one of each kind, that the output puts in the right order."
    )
    return [Picture("module_outputs", drawing, reading)]


def patch_blocks(data: ReportData, kind: str) -> list[Block]:
    """Every weak model before and after, and all methods as a table."""
    models = data.patched(kind)
    methods = [BEFORE, *common_calibrations(models)]
    name = weak_network_name(data.config, kind)
    drawing = patch_figure(
        {label_of(model, models): {method: model.scores(method) for method in methods} for model in models},
        f"{data.config.name}: {len(models)} {KIND_NAMES[kind]} models ({name}), test images",
    )
    reading = (
        "One row a weak model, named by its target class. The hollow circle is the weak model as it was, the filled "
        "marks are what each calibration of the module's output makes of it; to the right is better."
    )
    rows = []
    for method in [method for method in models[0].results if all(method in model.results for model in models)]:
        mean = mean_metrics(models, method)
        change = mean - mean_metrics(models, BEFORE)
        cells = [percent(value) for value in mean]
        rows.append((method, *cells, *(f"{100 * value:+.1f}" if method != BEFORE else "0" for value in change)))
    caption = (
        f"Means over {len(models)} weak models, and changes in points. Controls: the learned rule without any module, "
        "and with the whole strong model in the module's place."
    )
    headings = ("method", *METRIC_NAMES, *(f"change of {metric}" for metric in METRIC_NAMES))
    return [Picture(f"patch_{kind}", drawing, reading), Table(caption, headings, rows)]


def patch_answer_blocks(data: ReportData, kind: str) -> list[Block]:
    """The images that the patch won and lost, and what the modules say about the weak models' images."""
    answers = data.patch_answers(kind)
    name = f"{data.config.name}, {KIND_NAMES[kind]} models, {answers.method}"
    classes = [changed.classes[-1] for changed in answers.changed]
    return [
        Picture(
            f"patch_{kind}_images",
            changed_images_figure(answers.changed, answers.method, f"{name}: test images won (left) and lost (right)"),
            "Above each image its true class, then the answer before and after the patch. Shown are up to six of "
            f"each for the calibration {answers.method}, whose mean F1 is the highest of those tried.",
        ),
        Picture(
            f"patch_{kind}_outputs",
            outputs_figure(
                answers.own_outputs,
                answers.other_outputs,
                classes,
                "images of the weak model's other classes",
                f"{data.config.name}: modules' outputs on test images of the {KIND_NAMES[kind]} models",
            ),
            "The same on the images that the weak model meets, whose other classes the module may never have seen: "
            "where the bars overlap, a patch must lose images.",
        ),
    ]


def provenance_blocks(data: ReportData) -> list[Block]:
    """Settings, seeds, versions, machine, commands and times."""
    stage = data.stage
    rows: list[tuple[str, str]] = [
        ("seed now", str(stage.seed)),
        ("device and precision now", f"{stage.device}, {str(stage.dtype).removeprefix('torch.')}"),
    ]
    notes: list[Block] = []
    try:
        settings = search_settings(data)
        for name, key in (
            ("seed of the search", "seed"),
            ("precision of the search", "precision"),
            ("strong model of the search, SHA-256", "strong_model_sha256"),
        ):
            rows.append((name, str(settings.get(key, "not recorded"))))
    except UserError as error:
        notes.append(Note(str(error)))
    return [
        Table(
            "Stages: the command of each, when it ended and how long it took, as far as its log tells.",
            ("stage", "command", "ended", "took"),
            stage_rows(stage_runs(data)),
        ),
        Table(
            "Seeds, and the versions and machine that made this report.", ("what", "value"), [*rows, *machine_rows()]
        ),
        *notes,
        Table(
            f"All settings of `configures/{data.config.name}.py`, with `--set` as given to the report.",
            ("setting", "value", "default, where it differs", "what it does"),
            setting_rows(data.config),
            folded=True,
        ),
    ]


def stage_runs(data: ReportData) -> list[StageRun]:
    """All stages of the configuration in order."""
    files, config = data.artifacts, data.config
    seconds = _optional(lambda: sum(epoch.seconds for epoch in data.history))
    last_layer = module_files.layer_sensitivity(files, list(data.layer_names)[-1])
    search = _optional(lambda: sum(row.seconds for row in data.generations))
    runs = [
        StageRun("training", model_files.entire_model(files).made_by, model_files.entire_model(files).path, seconds),
        StageRun(
            "kernel importance",
            module_files.kernel_importance(files).made_by,
            module_files.kernel_importance(files).path,
        ),
        StageRun("layer sensitivity", last_layer.made_by, last_layer.path),
        StageRun(
            "module search", files.command("scripts/run_module_search.py"), module_files.report(files).path, search
        ),
        StageRun(
            "module outputs",
            module_files.module_outputs(files, 0).made_by,
            module_files.module_outputs(files, config.num_classes - 1).path,
        ),
    ]
    for kind, name in KIND_NAMES.items() if config.weak_classes else ():
        command = patch_files.weak_model_command(files, kind, 0).replace("--target_class 0", "--target_class all")
        logs = [patch_files.weak_model_log(files, kind, target_class) for target_class in range(config.num_classes)]
        there = [log for log in logs if log.exists()]
        took = _optional(lambda there=there: sum(e.seconds for log in there for e in log.load()))
        runs.append(StageRun(f"{name} models", command, (there or logs)[-1].path, took if there else None))
        reports = sorted(patch_files.weak_models_folder(files, kind).glob("target_class_*/patch_epoch_*.json"))
        absent = patch_files.weak_models_folder(files, kind) / "target_class_0"
        newest = max(reports, key=lambda path: path.stat().st_mtime, default=absent / "patch.json")
        runs.append(StageRun(f"patching {name} models", patch_command(files, kind), newest))
    return runs


def _optional(read: Callable[[], float]) -> float | None:
    try:
        return read()
    except UserError:
        return None


def _has_modules(data: ReportData) -> bool:
    return module_files.report(data.artifacts).exists()


def _counts(search: dict[str, Any]) -> bool:
    return all(isinstance(search.get(name), int) for name in ("generation", "generations"))


def _points(right: int, other_right: int, images: int) -> float:
    return 100 * (right - other_right) / images
