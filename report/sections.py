"""What a report says, part by part. A part whose artifacts are missing or damaged says so, with the command to run."""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from models import files as model_files
from models.training import best_epoch
from modules import files as module_files
from modules.jaccard import mean_pairwise_distance
from modules.layer_sensitivity import recommend_sensitive
from modules.module_set import class_names
from modules.own_class import MOST_BELOW
from patching.metrics import METRICS
from patching.on_disk import is_outdated
from patching.report import BEFORE, NO_MODULE, common_calibrations, mean_metrics
from patching.weak_models import WeakKind, weak_network_name
from report.composed import composed_blocks
from report.data import ReportData
from report.figures_of_accuracy import class_accuracy_figure, confusion_figure, outputs_figure
from report.figures_of_model import importance_figure, sensitivity_figure, training_figure
from report.figures_of_patching import changed_images_figure, patch_figure
from report.figures_of_search import cost_figure, course_figure, kept_figure, pairs_figure
from report.page import Block, Note, Paragraph, Picture, Section, Table, section
from report.patches import Patched, in_words, models_of, outcome_of, patches_of
from report.provenance import provenance_blocks
from report.words import METRIC_NAMES, counted, percent
from search.method import Method, check_strong_model
from search.methods import METHODS
from utils.errors import UserError
from utils.progress import progress

CHANGES = tuple(f"change of {metric}" for metric in METRIC_NAMES)


def report_sections(data: ReportData) -> list[Section]:
    """All sections after the answer, the last one with the stages that have not run in a fold of their own."""
    builders = patch_blocks, patch_answer_blocks
    patching = [
        (f"patch-{kind}", f"Patching {kind.words} models", *(partial(part, kind=kind) for part in builders))
        for kind in data.patched_kinds
    ]
    parts: tuple[Any, ...] = (
        ("training", "The strong model", training_blocks),
        ("importance", "Kernel importance", importance_blocks),
        ("sensitivity", "Layer sensitivity", sensitivity_blocks),
        ("search", "The search", search_blocks),
        ("modules", "The modules", set_blocks, kernel_blocks, own_class_blocks, cost_blocks),
        ("composed", "The composed model", accuracy_blocks, output_blocks),
        *patching,
        ("patch-own", "Patching your own weak models", partial(patch_blocks, kind=None)),
        ("composed-models", "Composed classifiers", composed_blocks),
        ("provenance", "How it was made", provenance_blocks),
    )
    found = [
        section(name, heading, *(partial(build, data) for build in builders))
        for name, heading, *builders in progress(parts, "drawing the report, sections")
    ]
    absent = [(part.heading, message) for part in found for message in part.absent]
    if absent:
        caption = "What more this page shows once it was made"
        more = Table(caption, ("section", "what it needs"), absent, folded=True)
        found[-1] = replace(found[-1], blocks=[*found[-1].blocks, more])
    return found


def training_blocks(data: ReportData) -> Iterator[Block]:
    """The training curves; a sentence where there are none, since the model was imported."""
    trained = model_files.training_log(data.artifacts).exists() or not model_files.entire_model(data.artifacts).exists()
    if not trained:
        yield Paragraph("This model was trained elsewhere, and taken over by scripts/import_model.py.")
        return
    title = f"{data.config.name}: training of the strong model"
    yield Picture(
        "training",
        training_figure(data.history, best_epoch(data.history), title),
        "Left: training loss; right: accuracy on the training images as they are augmented, with dropout, and on "
        "validation images as they are, so that the second may be above the first. The weights of the dotted epoch "
        "were kept.",
    )


def importance_blocks(data: ReportData) -> Iterator[Block]:
    """The heat maps of importance."""
    yield Picture(
        "importance",
        importance_figure(data.importance, data.classes, f"{data.config.name}: kernel importance"),
        "One map a conv layer, one row a class, one column a kernel; bright = important. Columns that are bright from "
        "top to bottom are kernels that all classes need, streaks in one row are a class's own.",
    )
    if data.config.importance_mode == "random":
        yield Note("importance_mode is random: kernels in index order, the control experiment; nothing measured.")


def sensitivity_blocks(data: ReportData) -> Iterator[Block]:
    """The curves of the layers that were measured."""
    config, names = data.config, data.layer_names
    curves = data.sensitivity
    tied = data.units.tied_layers
    used = data.set_setting("genetic", "sensitive_layers")
    sensitive = config.sensitive_layers if used is None else used
    marked = [names[layer] for layer in curves if set(tied[layer]) & set(sensitive)]
    tolerance, early = config.sensitivity_tolerance, config.sensitive_from
    recommended = [names[layer] for layer in recommend_sensitive(curves, tolerance, early)]
    whose = "configured as sensitive" if used is None else "sensitive for the genetic search"
    advice = "the same layers" if recommended == marked else f"conv {', '.join(recommended)}" if recommended else "none"
    named = {names[layer]: curve for layer, curve in curves.items()}
    title = f"{config.name}: accuracy while one layer loses kernels, validation images"
    yield Picture(
        "sensitivity",
        sensitivity_figure(named, marked, tolerance, title, whose),
        "One line a layer: every module keeps the given share of that layer's kernels, most important first, and all "
        "of the others. A line that falls far to the right is a sensitive layer. Marked are the layers of the setting "
        f"sensitive_layers, which is chosen by hand. This measurement recommends {advice}: the layers whose accuracy "
        f"is more than {100 * tolerance:g} points down at {100 * early:g} % of their kernels or more.",
    )
    if absent := [name for layer, name in names.items() if layer not in curves]:
        command = module_files.layer_sensitivity(data.artifacts, 0).made_by
        yield Note(f"Not measured yet: conv {', '.join(absent)}; first run: {command}")


def search_blocks(data: ReportData) -> Iterator[Block]:
    """The course of every method's search for modules of the set's classes, or of all classes where it has none."""
    logs = {}
    for method in METHODS.values():
        for classes in ((), data.searched_classes):
            if method.files(data.artifacts, classes).log.exists():
                logs[method] = classes
    if not logs:
        METHODS["genetic"].files(data.artifacts).log.check_is_there()
    for method, classes in logs.items():
        yield from course_blocks(data, method, classes)


def course_blocks(data: ReportData, method: Method, classes: tuple[int, ...]) -> Iterator[Block]:
    """One search's log, and whether the search is over."""
    files, course = method.files(data.artifacts, classes), method.course
    rows = files.log.load()
    chosen = data.chosen_row(method, rows) if classes == data.searched_classes else None
    yield Picture(
        f"{method.name}_search",
        course_figure(rows, course, chosen, f"{data.config.name}: the {method.name} search"),
        f"{course.reading}{'' if chosen is None else ' Dashed: the modules of this page.'}",
    )
    if all(each.record.method != method.name for each in data.sets):
        yield Note(
            f"The {method.name} search has not written a module set yet: {counted(len(rows), course.row)} so far. "
            f"To go on, run: {data.artifacts.command(method.script)}"
        )
    if files.settings.exists() and model_files.entire_model(data.artifacts).exists():
        try:
            check_strong_model(files.settings, data.artifacts)
        except UserError as error:
            yield Note(str(error))


def set_blocks(data: ReportData) -> Iterator[Block]:
    """All module sets, where there is more than the one of this page."""
    if len(data.sets) > 1:
        yield Table(
            f"The module sets of this strong model. This page shows {data.module_set.name}; another one's is made with "
            "`--modules SET`. Percentage points lost are of validation images.",
            ("set", "classes", "method", "made from", "kernels kept", "points lost", "mean AUC"),
            [
                (
                    each.name,
                    class_names(each.record),
                    each.record.method,
                    each.record.parent or "the strong model",
                    percent(each.record.kernel_share),
                    f"{each.record.points_lost:.2f}" if each.record.valid_right_strong else "",
                    f"{np.nanmean(each.record.valid_auc_modules):.4f}" if each.record.valid_auc_modules else "",
                )
                for each in data.sets
            ],
        )


def kernel_blocks(data: ReportData) -> Iterator[Block]:
    """The kernels that modules keep and share."""
    masks, name, classes = data.masks, data.config.name, data.targets
    slices = [data.units.layers[layer].kernels for layer in data.layer_names]
    yield Picture(
        "kernels_kept",
        kept_figure(masks, slices, list(data.layer_names.values()), classes, f"{name}: kernels kept"),
        "One row a module, one column a conv layer (1=3: layers 1 and 3, which are cut alike); the number is the share "
        "of the layer's kernels that the module keeps. The last column counts every kernel of every conv layer.",
    )
    if len(masks) > 1:
        yield Picture(
            "module_pairs",
            pairs_figure(masks, classes, f"{name}: how alike modules are, mean {mean_pairwise_distance(masks):.3f}"),
            "Left: 0 = the same kernels, 1 = none in common. Right: how many kernels two modules have in common; on "
            "the diagonal, how many a module keeps.",
        )


def own_class_blocks(data: ReportData) -> Iterator[Block]:
    """How well each module knows its own class; nothing where an earlier version wrote the modules."""
    record = data.record
    columns = record.valid_auc_modules, record.valid_auc_strong, record.explained
    if record.valid_auc_modules:
        unknown = (math.nan,) * len(data.targets)
        aucs = zip(data.targets, *(column or unknown for column in columns), strict=True)
        yield Table(
            "The chance that a validation image of the class has a larger logit of it than one of another class (AUC): "
            f"1 = always, 0.5 = it knows nothing of its class. A module that is more than {MOST_BELOW:g} below the "
            "strong model leaves its class to the others. Last: the share of the variance of the strong model's logit "
            "that the module explains.",
            ("class", "module's AUC", "strong model's AUC", "logit explained"),
            [
                (name, f"{module:.4f}", f"{strong:.4f}", "" if math.isnan(explained) else percent(explained))
                for name, module, strong, explained in aucs
            ],
        )


def cost_blocks(data: ReportData) -> Iterator[Block]:
    """FLOPs and parameters."""
    yield Picture(
        "module_costs",
        cost_figure(*data.costs, data.targets, f"{data.config.name}: what a module costs"),
        "One bar a module, in percent of the strong model. FLOPs are of one image, a multiply-accumulate counting 2, "
        "convolutions and matrix products only.",
    )


def accuracy_blocks(data: ReportData) -> Iterator[Block]:
    """Confusions and accuracy per class."""
    name = f"{data.config.name}, test images"
    yield Picture(
        "confusions",
        confusion_figure(data.confusions, data.classes, name),
        "Rows are true classes, columns what the model says; the diagonal is right. Numbers are images.",
    )
    yield Picture(
        "class_accuracy",
        class_accuracy_figure(data.confusions, data.classes, f"{name}: accuracy of each class"),
        "From the circle, the strong model, to the square, the composed one; the number is the difference in points.",
    )


def output_blocks(data: ReportData) -> Iterator[Block]:
    """What the modules answer to their own class and to the others."""
    labels, outputs = data.answers.labels, data.answers.modules
    shown = [(number, c) for number, c in enumerate(data.target_classes) if 0 < (labels == c).sum() < len(labels)]
    yield Picture(
        "module_outputs",
        outputs_figure(
            [outputs[labels == c, number] for number, c in shown],
            [outputs[labels != c, number] for number, c in shown],
            [data.classes[c] for _, c in shown],
            "images of all other classes",
            f"{data.config.name}, test images: each module's output",
        ),
        "A patch trusts this one number: where the two bars of a module overlap, it cannot tell its class from "
        "others. In brackets the share of pairs of images, one of each kind, that the output puts in the right order.",
    )


def patch_blocks(data: ReportData, kind: WeakKind | None) -> Iterator[Block]:
    """Every weak model of a kind, or of the user's own, before and after, and all methods as a table."""
    if patched := patches_of(data, kind):
        yield from _patched_blocks(data, kind, patched)
    if kind is None:
        if unchanged := [name for name, model in data.own_patches.items() if not model.targets]:
            yield Paragraph(f"No module helped, so nothing was changed: {', '.join(unchanged)}.")
        if outdated := [name for name, model in data.own_patches.items() if is_outdated(data.artifacts, model)]:
            yield Note(
                f"{', '.join(outdated)}: patched with another module set than the one of that name now; patch again "
                f"with: {data.artifacts.command('scripts/patch_weak_model.py')}"
            )


def _patched_blocks(data: ReportData, kind: WeakKind | None, patched: Patched) -> Iterator[Block]:
    models = models_of(patched)
    methods = common_calibrations(models)
    shown = [BEFORE, *methods, NO_MODULE]
    count = counted(len(patched), "target class", "target classes")
    which = f"weak models of your own, {count}"
    if kind is not None:
        which = f"{counted(len(models), f'{kind.words} model')} ({weak_network_name(data.config, kind)})"
    sets = ", ".join(sorted({model.modules for model in models}))
    scores = {label: {method: of[0].scores(method, of[1]) for method in shown} for label, of in patched.items()}
    yield Picture(
        f"patch_{kind or 'own'}",
        patch_figure(scores, f"{data.config.name}: {which}, test images", NO_MODULE),
        "One row a target class of a weak model. The hollow circle is the weak model as it was, the filled marks are "
        "what each calibration of the module's output makes of it, and what the learned one makes of the weak model "
        f"alone, without any module; to the right is better. Module sets: {sets}.",
    )
    before = mean_metrics(models, BEFORE)
    rows = []
    for method in models[0].methods:
        if all(method in model.methods for model in models):
            mean = mean_metrics(models, method)
            changes = ["0" if method == BEFORE else f"{100 * change:+.1f}" for change in mean - before]
            rows.append((method, *map(percent, mean), *changes))
    yield Table(
        f"Means over {count}, and changes in points. Controls: the learned rule without any module, and with the whole "
        "strong model instead of the module.",
        ("method", *METRIC_NAMES, *CHANGES),
        rows,
    )
    rows = []
    for label, (model, number) in patched.items():
        for method in methods:
            outcome = outcome_of(model, number, method, label)
            change = outcome.change
            changes = [in_words(change, metric) for metric in METRICS]
            rows.append((label, method, outcome.added_in_words, *changes, f"{change.others_p:.2g}"))
    yield Table(
        "Which changes are significant: 95 % intervals in points by a paired bootstrap over the test images, and the "
        "p-value of McNemar's exact test for the others' accuracy.",
        ("target class", "method", "F1 above no module", *CHANGES, "McNemar's p"),
        rows,
    )


def patch_answer_blocks(data: ReportData, kind: WeakKind) -> Iterator[Block]:
    """The images that the patch won and lost, and what the modules say about the weak models' images."""
    method, answers = data.patch_answers(kind)
    name = f"{data.config.name}, {kind.words} models, {method}"
    yield Picture(
        f"patch_{kind}_images",
        changed_images_figure(answers, method, f"{name}: test images won (left) and lost (right)"),
        "Above each image its true class, then the answer before and after the patch. Shown are up to six of each for "
        f"the calibration {method}, whose mean F1 is the highest of those tried.",
    )
    yield Picture(
        f"patch_{kind}_outputs",
        outputs_figure(
            [answer.module_outputs[answer.of_target_class] for answer in answers],
            [answer.module_outputs[~answer.of_target_class] for answer in answers],
            [answer.target_name for answer in answers],
            "images of the weak model's other classes",
            f"{data.config.name}: modules' outputs on test images of the {kind.words} models",
        ),
        "The same on the images that the weak model meets, whose other classes the module may never have seen: where "
        "the bars overlap, a patch must lose images.",
    )
