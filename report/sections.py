"""What a report says, part by part. A part whose artifacts are missing or damaged says so, with the command to run."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from composing import files as composing_files
from composing.outdated import changed_sources
from composing.report import HEADINGS
from models import files as model_files
from models.training import best_epoch
from modules import files as module_files
from modules.kernel_importance import check_importance_fits
from modules.layer_sensitivity import recommend_sensitive
from modules.module_set import class_names
from modules.own_class import MOST_BELOW
from patching.on_disk import is_outdated
from patching.report import BEFORE, NO_MODULE, common_calibrations, mean_metrics
from patching.weak_models import WeakKind
from report.data import ReportData
from report.figures import extremes
from report.figures_of_accuracy import confusion_figure, outputs_figure
from report.figures_of_model import importance_figure, sensitivity_figure, training_figure
from report.figures_of_patching import changed_images_figure, patch_figure
from report.figures_of_search import course_figure, kept_figure
from report.made_with import IMPORTANCE
from report.page import Block, Note, Paragraph, Picture, Section, Table, section
from report.patches import Patched, models_of, outcome_of, patches_of
from report.provenance import provenance_blocks
from report.words import METRIC_NAMES, counted, percent
from search.method import Method, check_strong_model
from search.methods import METHODS
from utils.errors import UserError
from utils.progress import progress
from utils.tables import known

CHANGES = tuple(f"change of {metric}" for metric in METRIC_NAMES)
FORMS = (".1%", ".4f", ".4f", ".1%")
Part = tuple[str, str, Sequence[Callable[..., Iterator[Block]]]]  # name, heading, what gives its blocks


def report_sections(data: ReportData) -> list[Section]:
    """Return all sections after the results, the last one with the stages that have not run, folded.

    Sections on patches and composed classifiers are open: somebody asked for them.
    """
    builders = patch_blocks, patch_answer_blocks
    patching = [
        (f"patch-{kind}", f"Patching {kind.words} models", [partial(part, kind=kind) for part in builders])
        for kind in data.patched_kinds
    ]
    own: list[Callable[..., Iterator[Block]]] = [partial(patch_blocks, kind=None), own_weak_model_blocks]
    asked_for: Sequence[Part] = (
        *patching,
        ("patch-own", "Patching your own weak models", own),
        ("composed-models", "Composed classifiers", [composed_blocks]),
    )
    others: Sequence[Part] = (
        ("modules", "The modules", [set_blocks, kernel_blocks, class_blocks]),
        ("composed", "The composed model", [accuracy_blocks, output_blocks]),
        ("search", "The search", [search_blocks]),
        ("training", "The strong model", [training_blocks]),
        ("importance", "Kernel importance", [importance_blocks]),
        ("sensitivity", "Layer sensitivity", [sensitivity_blocks]),
        ("provenance", "Commands, settings, versions", [provenance_blocks]),
    )
    found = [
        section(name, heading, *(partial(build, data) for build in builders), folded=number >= len(asked_for))
        for number, (name, heading, builders) in enumerate(
            progress((*asked_for, *others), "drawing the report, sections")
        )
    ]
    if absent := [(part.heading, message) for part in found for message in part.absent]:
        more = Table("Stages that have not run", ("section", "what it needs"), absent, folded=True)
        found[-1] = replace(found[-1], blocks=[*found[-1].blocks, more])
    return found


def training_blocks(data: ReportData) -> Iterator[Block]:
    """The training curves; a sentence where there are none, because the model was imported."""
    trained = model_files.training_log(data.artifacts).exists() or not model_files.entire_model(data.artifacts).exists()
    if not trained:
        yield Paragraph("This model was trained elsewhere and imported.")
        return
    title = f"{data.config.name}: training of the strong model"
    yield Picture(
        "training",
        training_figure(data.history, best_epoch(data.history), title),
        "Training images are augmented and pass through dropout, validation images do not: accuracy on them may be "
        "higher. The weights of the dotted epoch were kept.",
    )


def importance_blocks(data: ReportData) -> Iterator[Block]:
    """The heat maps of importance."""
    yield Picture(
        "importance",
        importance_figure(data.importance, data.classes, f"{data.config.name}: kernel importance"),
        "One map per conv layer, one row per class, one column per kernel; bright = important. Columns that are bright "
        "from top to bottom are kernels that all classes need.",
    )
    try:
        check_importance_fits(data.artifacts)
    except UserError as error:
        yield Note(str(error))
    if (data.recorded(IMPORTANCE, "importance_mode") or data.config.importance_mode) == "random":
        yield Note("importance_mode is random: kernels are ranked by their index, as a control; nothing was measured.")


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
        "Every module keeps the given share of one layer's kernels, the most important ones, and all kernels of the "
        "other layers. A row that turns dark far to the right is a sensitive layer. Marked (*) are the layers of the "
        f"setting sensitive_layers, which is chosen by hand. This measurement recommends {advice}: the layers whose "
        f"accuracy is more than {100 * tolerance:g} percentage points down at {100 * early:g} % of their kernels or "
        "more.",
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
    reading = course.reading
    if chosen is not None:
        is_parent = bool(data.module_set.record.parent)
        which = "that those of this page were fine-tuned from" if is_parent else "of this page"
        reading += f" Dashed: the modules {which}."
    yield Picture(
        f"{method.name}_search",
        course_figure(rows, course, chosen, f"{data.config.name}: the {method.name} search"),
        reading,
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
            "`--modules SET`. Percentage points of accuracy lost are of validation images.",
            ("set", "classes", "method", "made from", "kernels kept", "accuracy lost", "mean AUC"),
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
    """The kernels that modules keep and share, and what modules cost."""
    masks, name, classes = data.masks, data.config.name, data.targets
    slices = [data.units.layers[layer].kernels for layer in data.layer_names]
    try:
        costs = data.costs
    except UserError as error:
        costs = None
        yield Note(str(error))
    yield Picture(
        "kernels_kept",
        kept_figure(masks, slices, list(data.layer_names.values()), classes, f"{name}: size of the modules", costs),
        "One row per module, one column per conv layer (1=3: layers 1 and 3, which are cut alike), in percent of the "
        "strong model's kernels. `all` counts every kernel of every conv layer. FLOPs are of one image, a "
        "multiply-accumulate counts 2, convolutions and matrix products only.",
    )


def class_blocks(data: ReportData) -> Iterator[Block]:
    """Size, quality and accuracy of each module's class as a table; of many, those of extreme AUC first."""
    record, answer = data.record, data.record.answer_in_words
    unknown = (math.nan,) * len(data.targets)
    columns = [record.flops, record.valid_auc_modules, record.valid_auc_strong, record.explained]
    try:
        of_models = [100 * np.diagonal(each) / np.maximum(each.sum(1), 1) for each in data.confusions.values()]
        accuracies = [[f"{share[number]:.1f}" for share in of_models] for number in data.target_classes]
    except UserError:  # the composed model's section says so
        accuracies = [["", ""]] * len(data.targets)
    sizes = [f"{kept / record.kernels:.1%}" for kept in record.kernels_kept]
    quality = [map(known, values, FORMS) for values in zip(*(column or unknown for column in columns), strict=True)]
    headings = (
        *("class", "kernels kept", "FLOPs", "module's AUC", "strong model's AUC"),
        f"{answer} explained",
        *("accuracy, strong model", "accuracy, composed"),
    )
    rows = [
        (name, size, *values, *shares)
        for name, size, values, shares in zip(data.targets, sizes, quality, accuracies, strict=True)
    ]
    chosen = extremes(np.array(columns[1] or unknown))
    if is_long := len(chosen) < len(rows):
        ends = f"The {len(chosen) // 2} modules with the smallest AUC, and as many with the largest."
        yield Table(f"{ends} The next table has all.", headings, [rows[number] for number in chosen])
    yield Table(
        f"The modules, by class. AUC: the probability that a validation image of the class has a larger {answer} of "
        f"the class than another image; 0.5 = chance. More than {MOST_BELOW:g} below the strong model's: an "
        f"uninformative module. {answer.capitalize()} explained: the share of the variance of the strong model's "
        f"{answer} that the module explains. "
        "Accuracy: of the class's test images, in percent.",
        headings,
        rows,
        folded=is_long,
    )


def composed_blocks(data: ReportData) -> Iterator[Block]:
    """A table of each one: its methods, with intervals and costs. Raises UserError where a record is damaged."""
    for file in composing_files.records(data.artifacts):
        record = file.load()
        if all(source.get("configuration") != data.config.name for source in record.sources.values()):
            continue
        if changed := changed_sources(data.artifacts, record):
            yield Note(
                f"{file.path.stem}: the strong model or module set of {', '.join(changed)} was removed or made again "
                f"since it was composed; compose it again with scripts/compose.py, or move {file.path} away"
            )
            continue
        is_known = all("strong_model_sha256" in source for source in record.sources.values())
        yield Table(
            f"{file.path.stem}: {record.task}, {len(record.classes)} classes ({', '.join(record.classes)}) of "
            f"{', '.join(record.sources)}; {record.images.get('test')} test images. Differences are in percentage "
            "points, with 95 % intervals; FLOPs are of an image, as a share of the strong models' together."
            f"{'' if is_known else ' An earlier version did not record whether these are the strong models of now.'}",
            ("method", *HEADINGS[1:]),
            record.rows,
        )


def accuracy_blocks(data: ReportData) -> Iterator[Block]:
    """The confusion matrices of the strong and the composed model."""
    name = f"{data.config.name}, test images"
    yield Picture(
        "confusions",
        confusion_figure(data.confusions, data.classes, name),
        "Rows are true classes, columns are predicted classes. Numbers are images.",
    )


def output_blocks(data: ReportData) -> Iterator[Block]:
    """What the modules answer to their own class and to the others."""
    labels, outputs = data.answers.labels, data.answers.modules
    shown = [(number, c) for number, c in enumerate(data.target_classes) if 0 < (labels == c).sum() < len(labels)]
    if not shown:
        return
    yield Picture(
        "module_outputs",
        outputs_figure(
            [outputs[labels == c, number] for number, c in shown],
            [outputs[labels != c, number] for number, c in shown],
            [data.classes[c] for _, c in shown],
            "images of all other classes",
            f"{data.config.name}, test images: each module's output",
        ),
        "A patch trusts this one number: where the two distributions of a module overlap, it cannot tell its class "
        "from others. In brackets: AUC.",
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
                f"{', '.join(outdated)}: patched with a module set that was removed or made again since; patch again "
                f"with: {'; '.join(data.own_patches[name].details.get('command', '') for name in outdated)}"
            )


def _patched_blocks(data: ReportData, kind: WeakKind | None, patched: Patched) -> Iterator[Block]:
    models = models_of(patched)
    methods = common_calibrations(models)
    shown = [BEFORE, *methods, NO_MODULE]
    count = counted(len(patched), "target class", "target classes")
    which = f"weak models of your own, {count}"
    if kind is not None:
        networks = ", ".join(dict.fromkeys(model.weak_model for model in models))  # which `--set` may have given
        which = f"{counted(len(models), f'{kind.words} model')} ({networks})"
    sets = ", ".join(sorted({model.modules for model in models}))
    scores = {label: {method: of[0].scores(method, of[1]) for method in shown} for label, of in patched.items()}
    yield Picture(
        f"patch_{kind or 'own'}",
        patch_figure(scores, f"{data.config.name}: {which}, test images", NO_MODULE),
        "One row per target class of a weak model. Hollow circle: the weak model as it was; filled marks: patched, and "
        f"the control, fitted again without a module. Module sets: {sets}.",
    )
    before = mean_metrics(models, BEFORE)
    rows: list[Sequence[Any]] = []
    for method in models[0].methods:
        if all(method in model.methods for model in models):
            mean = mean_metrics(models, method)
            changes = ["0" if method == BEFORE else f"{100 * change:+.1f}" for change in mean - before]
            rows.append((method, *map(percent, mean), *changes))
    yield Table(
        f"Means over {count}, and changes in percentage points. Controls: the learned rule without a module, and with "
        "the whole strong model instead of the module.",
        ("method", *METRIC_NAMES, *CHANGES),
        rows,
        folded=True,
    )
    rows = []
    for label, (model, number) in patched.items():
        for method in methods:
            outcome = outcome_of(model, number, method, label)
            rows.append((label, method, outcome.added["f1"], *outcome.changes.values(), f"{outcome.others_p:.2g}"))
    yield Table(
        "All changes from the weak model as it was, in percentage points, with 95 % intervals by a paired bootstrap "
        "over the test images, and the p-value of McNemar's exact test for the others' accuracy.",
        ("target class", "method", "module adds to F1", *CHANGES, "McNemar's p"),
        rows,
        folded=True,
    )


def own_weak_model_blocks(data: ReportData) -> Iterator[Block]:
    """Of each weak model of the user's own: confusion matrices, and the images that the patch gained and lost."""
    for name, model in data.own_patches.items():
        if not model.targets or is_outdated(data.artifacts, model):
            continue
        confusions = {method: model.confusion(method) for method in (BEFORE, *model.calibrations)}
        yield Picture(
            f"own_{name}_confusions",
            confusion_figure(confusions, model.classes, f"{name}: test images before and after the patch"),
            "Rows are true classes, columns are predicted classes. Numbers are images.",
            folded=True,
        )
        try:
            changed = data.own_changed_images(name)
        except UserError as error:
            yield Note(f"{name}: no images are shown: {error}")
            continue
        yield Picture(
            f"own_{name}_images",
            changed_images_figure([changed], f"{name}: test images gained and lost"),
            "Above each image: the answer before and after the patch.",
        )


def patch_answer_blocks(data: ReportData, kind: WeakKind) -> Iterator[Block]:
    """The images that the patch gained and lost, and what the modules say about the weak models' images."""
    method, answers = data.patch_answers(kind)
    yield Picture(
        f"patch_{kind}_images",
        changed_images_figure(answers, f"{kind.words} models: test images gained and lost ({method})"),
        "Above each image: the answer before and after the patch. Shown are up to six of each for the calibration "
        f"{method}, whose mean F1 is the highest of those tried.",
        folded=True,
    )
    yield Picture(
        f"patch_{kind}_outputs",
        outputs_figure(
            [answer.outputs[answer.of_target_class] for answer in answers],
            [answer.outputs[~answer.of_target_class] for answer in answers],
            [answer.name for answer in answers],
            "images of the weak model's other classes",
            f"{data.config.name}: modules' outputs on test images of the {kind.words} models",
        ),
        "The module may never have seen the weak model's other classes: where the distributions overlap, a patch must "
        "lose images. In brackets: AUC.",
        folded=True,
    )
