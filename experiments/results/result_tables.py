"""The tables and figures of the results, made of the files that the commands wrote; what is not there is left out."""

import csv
import typing
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from matplotlib.axes import Axes

import global_configure  # noqa: F401  (finds our packages before others of their names)
from composing import files as composing_files
from configures.base import load
from models.training import best_epoch
from patching import files as patch_files
from patching.confidence import Change, better_and_worse
from patching.report import BEFORE, NO_MODULE, WHOLE_MODEL, PatchedWeakModel, common_calibrations, mean_metrics
from patching.weak_models import WeakKind
from report import figures_of_trade_off as of_sizes
from report import files as report_files
from report.figures import INK, Drawing, curve_style, new_figure, save_drawing, styled
from report.figures_of_patching import patch_figure
from report.figures_of_trade_off import PatchTradeOff, TradeOff, patch_trade_off_figure
from search.genetic import files as genetic_files
from search.genetic.log import Generation, best_generation
from utils.artifacts import Artifacts
from utils.files import damaged, read_text, save_text
from utils.tables import csv_table, markdown_table, read_csv

Row = TypeVar("Row")
Cells = list[Any]

END = "<!-- end -->"
SHARES = (0.6, 0.5, 0.4, 0.3)  # of the kernels, at which the gradient search's rounds are shown
# Behind the name of a seed's root_dir: the setting that replaces a heuristic by chance, and the heuristic in words.
HEURISTICS = {
    "_random_importance": ("importance_mode=random", "kernel importance"),
    "_random_population": ("init_pop_mode=random", "a first population by sensitivity"),
    "_random_survivors": ("survival=random", "pruning by accuracy"),
}
MODULAR = {"_moda": "by MODA", "_mwt": "by MwT"}  # likewise, of the strong models that are trained to be modular
STRONG_MODELS = {"": "", "_methods": "", **MODULAR}  # likewise; how the strong model is trained
SIMPLE = WeakKind.SIMPLE.words
SHOWN = (BEFORE, "min_max", "learned", WHOLE_MODEL.format("learned"))  # of a patch's methods, in figures


@dataclass(frozen=True)
class Ran:
    """One run of a command that succeeded."""

    number: int
    line: str  # the root_dir's name and the command line
    seconds: float
    ended: str  # UTC
    commit: str
    machine: str  # with versions and precision


@dataclass(frozen=True)
class Results:
    """Where the commands' files lie, and which commands have succeeded."""

    roots: Path  # the folder of the root_dirs
    dataset: str
    networks: Sequence[tuple[str, int]] = ()  # with their seeds
    early: str = ""  # the epoch at which weak models are underfitted
    made_by: str = ""  # the command that runs all of them
    lines: Mapping[str, str] = field(default_factory=dict)  # every command -> the table of what it writes
    ran: Mapping[str, Ran] = field(default_factory=dict)  # those of them that have succeeded

    def artifacts(self, model: str, root: str) -> Artifacts:
        """Where a network's files lie in a root_dir."""
        return Artifacts(self.roots / root, model, self.dataset)

    def each(self) -> Iterator[tuple[str, int, Artifacts]]:
        """Every network with each of its seeds."""
        for model, seed in self.networks:
            yield model, seed, self.artifacts(model, f"seed_{seed}")


def read_rows(path: Path, kind: type[Row], made_by: str) -> list[Row]:
    """The dataclass instances of a CSV file whose columns are its fields. Raises UserError where it holds others."""
    kinds = typing.get_type_hints(kind)
    lines = csv.DictReader(read_text(path, made_by).splitlines())
    try:
        return [kind(**{name: kinds[name](text) for name, text in line.items()}) for line in lines]
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path, made_by, f"expected the columns {', '.join(kinds)} ({error})") from None


# How good modules are
def trade_offs(results: Results) -> Iterator[tuple[str, int, list[TradeOff]]]:
    """All sets of modules of each network and seed."""
    for model, seed, artifacts in results.each():
        if (path := report_files.trade_off(artifacts, "test")).exists():
            yield model, seed, read_rows(path, TradeOff, results.made_by)


def _distance(point: TradeOff, share: float) -> float:
    return round(abs(point.kernels_kept - share), 3)


def nearest_rounds(points: Sequence[TradeOff]) -> list[tuple[str, TradeOff]]:
    """What is shown of a trade-off, with its name: per share of SHARES the round that keeps nearest to it; the others.

    Of rounds that keep as much the last one counts, in which the masks settled.
    """
    rounds = [point for point in points if point.method == "gradient"]
    nearest = [min(reversed(rounds), key=partial(_distance, share=share)) for share in (SHARES if rounds else ())]
    found = [(f"gradient, {point.target}", point) for point in dict.fromkeys(nearest)]
    for point in points:
        if point.method == "genetic":
            bred = point.target.split(" of ")[-1]  # behind the generation of the best ensemble
            found.append((f"genetic, {bred} generations", point))
    return found + [(f"fine-tuned, {point.target}", point) for point in points if point.method == "fine-tuned"]


def shown_modules(results: Results) -> Iterator[tuple[str, int, str, TradeOff]]:
    """The modules of the tables: network, seed, name."""
    for model, seed, points in trade_offs(results):
        for name, point in nearest_rounds(points):
            yield model, seed, name, point


def module_rows(results: Results) -> Iterator[Cells]:
    """A row per network, seed and set of modules; the seconds are the search's."""
    for model, seed, name, point in shown_modules(results):
        yield [
            *(model, name, f"{100 * point.kernels_kept:.1f}", f"{100 * point.flops:.1f}"),
            *(point.right + round(point.points_lost * point.images / 100), point.right, point.images),
            *(f"{point.points_lost:.2f}", f"{point.distance:.4f}", f"{point.auc_mean:.4f}", f"{point.auc_least:.4f}"),
            *(seed, f"{point.seconds:.0f}"),
        ]


def seed_rows(results: Results) -> Iterator[Cells]:
    """A row per network and set of modules that several seeds have: mean, lowest and highest."""
    found = defaultdict(list)
    for model, _, name, point in shown_modules(results):
        found[model, name].append(point)
    for names, points in found.items():
        if len(points) > 1:
            kept, lost = ([100 * point.kernels_kept for point in points], [point.points_lost for point in points])
            strong = [100 * point.right / point.images + point.points_lost for point in points]
            yield [*names, len(points), f"{np.mean(kept):.1f}", spread(strong), spread(lost)]


def spread(values: Sequence[float]) -> str:
    """`mean (lowest to highest)`."""
    return f"{np.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


# Search methods, compared at equal size
def method_rows(results: Results) -> Iterator[Cells]:
    """A row per network, seed, method and candidate; of module sets those that no log has a candidate of any more."""
    for model, seed in results.networks:
        for root, trained in STRONG_MODELS.items():
            path = report_files.trade_off(results.artifacts(model, f"seed_{seed}{root}"), "test")
            seen = set()
            for point in read_rows(path, TradeOff, results.made_by) if path.exists() else ():
                modules = point.kernels_kept, point.flops, point.right, point.auc_mean
                if modules in seen or not point.images:
                    continue
                seen.add(modules)
                shares = (f"{100 * each:.1f}" for each in (point.kernels_kept, point.weights, point.flops))
                right = point.right + round(point.points_lost * point.images / 100)
                yield [
                    *(model, trained, point.method, point.target, *shares, right, point.right, point.images),
                    *(f"{point.points_lost:.2f}", f"{point.auc_mean:.4f}", seed, f"{point.seconds:.0f}"),
                ]


def sub_task_rows(results: Results) -> Iterator[Cells]:
    """A row per network, seed and number of classes, as `sub_tasks.py` wrote it."""
    for model, seed, artifacts in results.each():
        if (path := composing_files.sub_tasks(artifacts, "keep_50")).exists():
            _, *rows = read_csv(read_text(path, results.made_by))
            for row in rows:
                yield [model, *row, seed]


# Whether patching helps
def patched(results: Results) -> Iterator[tuple[str, int, str, list[PatchedWeakModel]]]:
    """The weak models of each network and kind, which stands before them in words, where all are patched."""
    kinds = {
        SIMPLE: (WeakKind.SIMPLE, ""),
        "overfitted": (WeakKind.POOR, ""),
        "underfitted": (WeakKind.POOR, results.early),
    }
    for model, seed, artifacts in results.each():
        for words, (kind, epoch) in kinds.items():
            targets, files = range(load(model, results.dataset).num_classes), []
            for target_class in targets:
                if history := patch_files.weak_model_log(artifacts, kind, target_class).load_if_there():
                    of_epoch = int(epoch or best_epoch(history))
                    files.append(patch_files.report(artifacts, "keep_50", kind, target_class, of_epoch, "all"))
            if len(files) == len(targets) and all(file.exists() for file in files):
                yield model, seed, words, [file.load() for file in files]


def patching_rows(results: Results) -> Iterator[Cells]:
    """A row per network, kind of weak models, and rule or control of the learned one: means over the target classes."""
    for model, seed, words, models in patched(results):
        before = mean_metrics(models, BEFORE)
        for method in (BEFORE, *common_calibrations(models), NO_MODULE, WHOLE_MODEL.format("learned")):
            values, texts = mean_metrics(models, method), [f"{100 * each:.1f}" for each in mean_metrics(models, method)]
            if method != BEFORE:
                texts = [f"{text} ({100 * gain:+.1f})" for text, gain in zip(texts, values - before, strict=True)]
            better = ["", ""] if method == BEFORE else rose_and_fell(models, method)
            yield [model, words, method, len(models), sum(each.test_images for each in models), *texts, *better, seed]


def rose_and_fell(models: Sequence[PatchedWeakModel], method: str) -> list[str]:
    """In how many target classes F1 rose and fell: `all / significantly`."""
    gains = np.array([model.scores(method).f1 - model.scores(BEFORE).f1 for model in models])
    sure = better_and_worse((model.change(method) for model in models), "f1")
    return [f"{(way * gains > 0).sum()} / {count}" for way, count in zip((1, -1), sure, strict=True)]


def baseline_rows(results: Results) -> Iterator[Cells]:
    """A row per network and way to do without a patch: means over the target classes, of the best epochs.

    The last columns count target classes in which F1 of the patch is significantly higher, and lower.
    """
    for model, seed, artifacts in results.each():
        found: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for target_class in range(load(model, results.dataset).num_classes):
            if history := patch_files.weak_model_log(artifacts, WeakKind.SIMPLE, target_class).load_if_there():
                epoch = best_epoch(history)
                file = patch_files.baselines(artifacts, "keep_50", WeakKind.SIMPLE, target_class, epoch)
                for name, way in (file.load()["ways"] if file.exists() else {}).items():
                    found[name].append(way)
        for name, ways in found.items():
            scales = {"f1": 100, "others_accuracy": 100, "flops_per_image": 1e-6, "fit_flops": 1e-9, "fit_seconds": 1}
            means = (f"{scale * np.mean([way[of] for way in ways]):.1f}" for of, scale in scales.items())
            counts = better_and_worse((Change.from_json(way["patch_minus_this"]) for way in ways), "f1")
            yield [model, name, len(ways), *means, *counts, seed]


def patch_trade_offs(results: Results) -> Iterator[tuple[str, int, list[PatchTradeOff]]]:
    """The patches of each network, by modules of all rounds of a search, and by fine-tuned sets."""
    for model, seed, artifacts in results.each():
        if (path := patch_files.trade_off(artifacts, WeakKind.SIMPLE, "test")).exists():
            points = read_rows(path, PatchTradeOff, results.made_by)
            # Sets that were not fine-tuned are of a search's rounds.
            yield model, seed, [p for p in points if not p.method.startswith("set ") or p.method.endswith("_tuned")]


def patch_size_rows(results: Results) -> Iterator[Cells]:
    """A row per network and size of modules: means over the target classes, and how many lose by the patch."""
    for model, seed, points in patch_trade_offs(results):
        for cells in patch_sizes(points):
            yield [model, *cells, seed]


def patch_sizes(points: Sequence[PatchTradeOff]) -> Iterator[Cells]:
    """Per way to patch: how small its modules are, F1, and in how many classes it does worse than without a module."""
    ways: dict[str, dict[int, PatchTradeOff]] = defaultdict(dict)
    for point in points:
        name = f"{point.method}, {point.keep:.0%}" if 0 < point.keep < 1 else point.method
        ways[name][point.target_class] = point
    f1_of = {name: {target_class: point.f1 for target_class, point in way.items()} for name, way in ways.items()}
    before, without = f1_of[BEFORE], f1_of[of_sizes.NO_MODULE]
    columns = ("kernels_kept", "flops", "f1", "others_accuracy")
    for name, f1 in f1_of.items():
        means = [np.mean([getattr(point, column) for point in ways[name].values()]) for column in columns]
        worse = [sum(f1[c] < others[c] for c in f1) for others in (before, without)]
        gain = np.mean([f1[c] - without[c] for c in f1])
        yield [name, len(f1), *(f"{100 * mean:.1f}" for mean in means), f"{100 * gain:+.1f}", *worse]


# Which heuristics matter
@dataclass(frozen=True)
class Search:
    """A genetic search with all of its heuristics or without one, over the generations that all of them have."""

    model: str
    seed: int
    without: str  # the heuristic, or nothing
    rows: list[Generation]
    chromosomes: np.ndarray  # (generations,) the number made up to the end of each


def compared_searches(results: Results) -> list[Search]:
    """The genetic searches of the seeds that have some without a heuristic."""
    found, words = [], {"": "nothing", **{root: words for root, (_, words) in HEURISTICS.items()}}
    for model, seed, _ in results.each():
        places = {root: results.artifacts(model, f"seed_{seed}{root}") for root in words}
        places = {root: artifacts for root, artifacts in places.items() if genetic_files.log(artifacts).exists()}
        if places.keys() - {""}:
            found += [(model, seed, words[root], artifacts) for root, artifacts in places.items()]
    logs = [genetic_files.log(artifacts).load() for *_, artifacts in found]
    shortest = min(map(len, logs), default=0)
    searches = []
    for (model, seed, without, artifacts), rows in zip(found, logs, strict=True):
        made_with, num_classes = genetic_files.settings(artifacts).load(), load(model, results.dataset).num_classes
        bred = (made_with["population"] - made_with["elites"]) * np.arange(shortest)
        searches.append(Search(model, seed, without, rows[:shortest], num_classes * (made_with["population"] + bred)))
    return searches


def heuristic_rows(results: Results) -> Iterator[Cells]:
    """A row per genetic search with all of its heuristics and without one, each over the same generations."""
    for search in compared_searches(results):
        rows = search.rows
        yield [
            *(search.model, search.without, len(rows), search.chromosomes[-1]),
            *(sum(row.ensembles_scored for row in rows), *course(rows), search.seed),
            f"{sum(row.seconds for row in rows):.0f}",
        ]


def course(rows: Sequence[Generation]) -> Cells:
    """The best fitness after the first generation, a quarter, half and all of them; and what the last best one is."""
    ends = [1 + part * (len(rows) - 1) // 4 for part in (0, 1, 2, 4)]
    best = best_generation(list(rows))
    texts = [f"{best_generation(list(rows[:end])).fitness:.4f}" for end in ends]
    return [*texts, f"{100 * best.accuracy:.2f}", f"{100 * best.kernels_kept:.1f}", f"{best.distance:.4f}"]


# The figures
def figures_of(results: Results) -> Iterator[tuple[str, Drawing]]:
    """What can be drawn of what is done: (name, drawing)."""
    if searched := list(trade_offs(results)):
        yield "modules", modules_figure(searched, results.dataset)
    for model, _, words, models in patched(results):
        scores = {each.classes[-1]: {method: each.scores(method) for method in SHOWN} for each in models}
        title = f"{model} on {results.dataset}: {words} weak models, test images"
        yield f"patch_{'weak' if words == SIMPLE else words}_{model}", patch_figure(scores, title)
    for model, _, points in patch_trade_offs(results):
        title = f"{model} on {results.dataset}: {SIMPLE} weak models, test images"
        yield f"patch_sizes_{model}", patch_trade_off_figure(points, title)
    if searches := compared_searches(results):
        yield "heuristics", heuristics_figure(searches)


@styled
def modules_figure(searched: Sequence[tuple[str, int, Sequence[TradeOff]]], dataset: str) -> Drawing:
    """Accuracy lost by kernels kept: one colour per network, one line per seed; genetic searches are single marks.

    Lines of fine-tuned modules are dotted. The paper's mean is shown where it has the dataset.
    """
    figure = new_figure(10, 4.6)
    axes, models = figure.subplots(), list(dict.fromkeys(model for model, *_ in searched))
    rows, sentences = [], []
    for model, seed, points in searched:
        for method, line in (("gradient", "-"), ("fine-tuned", ":"), ("genetic", "none")):
            own = sorted((point for point in points if point.method == method), key=lambda p: p.kernels_kept)
            if not own:
                continue
            mark = {"marker": "*", "markersize": 13} if line == "none" else {"markersize": 5}
            style = curve_style(models.index(model)) | mark
            across, up = [100 * point.kernels_kept for point in own], [point.points_lost for point in own]
            seeds = sorted({each for name, each, found in searched if name == model and has_method(found, method)})
            label = f"{model}, {method}, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
            axes.plot(across, up, linestyle=line, label=label, **style)
            rows += [(model, seed, method, point.target, point.kernels_kept, point.points_lost) for point in own]
        if within := [point for point in points if point.points_lost <= 1]:
            least = min(within, key=lambda point: point.kernels_kept)
            sentences.append(
                f"{model}, seed {seed}: with at most one point lost, {least.kernels_kept:.1%} of the kernels are kept "
                f"({least.method})."
            )
    if dataset in of_sizes.PAPER_DATASETS:
        style = {"marker": "X", "markersize": 10, "color": INK, "linestyle": "none"}
        place = 100 * of_sizes.PAPER.kernels_kept, of_sizes.PAPER.points_lost
        axes.plot(*place, label="paper, genetic, mean", **style)
    axes.axhline(0, color=INK, linewidth=0.8, linestyle="--")
    axes.set_yscale("symlog", linthresh=1)  # networks that lose a little and a lot in one picture
    axes.set_yticks(ticks := [-0.5, 0, 0.5, 1, 2, 5, 10, 20, 50], list(map(str, ticks)))
    lost = [points_lost for *_, points_lost in rows]
    axes.set_ylim(min(lost) - 0.2, 1.2 * max(lost) + 0.2)
    axes.set_xlabel("kernels kept, % (mean over modules)")
    axes.set_ylabel("accuracy lost, percentage points\n(scale: linear up to 1, then logarithmic)")
    finish(axes, loc="center left", bbox_to_anchor=(1, 0.5))  # next to the curves, which lie everywhere
    figure.suptitle(f"{dataset}, test images: accuracy of composed modules below the strong model (dashed)")
    columns = ("network", "seed", "method", "target", "kernels_kept", "points_lost")
    return Drawing(figure, " ".join(sentences) or "All lose more than one point.", columns, rows)


def has_method(points: Sequence[TradeOff], method: str) -> bool:
    """Whether a method found one of these modules."""
    return any(point.method == method for point in points)


@styled
def heuristics_figure(searches: Sequence[Search]) -> Drawing:
    """The best fitness so far by the chromosomes that were made: a colour a heuristic that was left out."""
    figure = new_figure(10, 4.6)
    axes, ways = figure.subplots(), list(dict.fromkeys(search.without for search in searches))
    rows, ends = [], []
    for search in searches:
        best = [best_generation(search.rows[: last + 1]).fitness for last in range(len(search.rows))]
        label = "all heuristics" if search.without == "nothing" else f"without {search.without}"
        axes.plot(search.chromosomes, best, label=label, **curve_style(ways.index(search.without)))
        made = zip(search.chromosomes.tolist(), best, strict=True)
        rows += [(search.model, search.seed, label, count, fitness) for count, fitness in made]
        ends.append(f"{label} (seed {search.seed}) {best[-1]:.4f}")
    axes.set(xlabel="chromosomes made, all classes together", ylabel="best fitness so far")
    finish(axes)
    figure.suptitle("The genetic search with all heuristics and without one, on the search's validation images")
    columns = ("network", "seed", "heuristics", "chromosomes", "best_fitness")
    return Drawing(figure, f"Best fitness at the end: {', '.join(ends)}.", columns, rows)


def finish(axes: Axes, **where: Any) -> None:
    """A grid, and a legend that names the curves of several seeds once."""
    curves, labels = axes.get_legend_handles_labels()
    by_label = dict(zip(labels, curves, strict=True))
    axes.grid()
    axes.legend(list(by_label.values()), list(by_label), **where)


# The tables
@dataclass(frozen=True)
class ResultTable:
    """What one table is made of."""

    title: str
    of: tuple[str, ...]  # the lists of commands that it is made of
    columns: tuple[str, ...]
    rows: Callable[[Results], Iterator[Cells]]
    is_shown: Callable[[Cells], bool] = lambda _: True  # in the document, too; the others are written as CSV alone


METRIC_COLUMNS = ("precision", "recall", "F1", "others' accuracy")
TABLES = {
    "modules": ResultTable(
        "How good modules are, on test images (FLOPs and kernels: mean over modules, % of the strong model's). Other "
        "seeds than 0: modules.csv.",
        ("modules",),
        (
            *("network", "modules", "kernels %", "FLOPs %", "strong right", "composed right", "images"),
            *("points lost", "distance", "AUC mean", "AUC least", "seed", "seconds"),
        ),
        module_rows,
        is_shown=lambda cells: cells[-2] == 0,
    ),
    "seeds": ResultTable(
        "The same over seeds: mean (lowest to highest).",
        ("modules",),
        ("network", "modules", "seeds", "kernels %", "strong accuracy %", "points lost"),
        seed_rows,
    ),
    "methods": ResultTable(
        "Search methods at equal size, on test images (kernels, weights that are not 0, FLOPs: mean over modules, % of "
        "the strong model's). Other seeds than 0: methods.csv.",
        ("modules", "methods"),
        (
            *("network", "strong model trained", "method", "modules", "kernels %", "weights %", "FLOPs %"),
            *("strong right", "composed right", "images", "points lost", "AUC mean", "seed", "seconds"),
        ),
        method_rows,
        is_shown=lambda cells: cells[-2] == 0,
    ),
    "sub_tasks": ResultTable(
        "Classifiers of some of the classes, composed of modules of half of the kernels, on test images: means over "
        "choices of classes, accuracy in %, losses against the restricted strong model in percentage points.",
        ("sub_tasks",),
        (
            *("network", "classes", "choices", "restricted", "modules", "with the rule", "fitted on few"),
            *("largest loss: modules", "with the rule", "FLOPs %", "seed"),
        ),
        sub_task_rows,
    ),
    "patching": ResultTable(
        "What patching does, on test images: means over the target classes in %, changes in percentage points; in how "
        "many F1 rose and fell, all / significantly (95 %). The other rules: patching.csv.",
        ("patching",),
        (
            *("network", "weak models", "method", "target classes", "images", *METRIC_COLUMNS),
            *("F1 better", "F1 worse", "seed"),
        ),
        patching_rows,
        is_shown=lambda cells: cells[2] not in ("percentile", "outlier", "norm"),
    ),
    "patch_baselines": ResultTable(
        "Patches compared with what else the same images allow, on test images: overly simple weak models, means over "
        "the target classes in %; in how many F1 of the patch is significantly (95 %) higher and lower than this.",
        ("patch_baselines",),
        (
            *("network", "way", "target classes", "F1", "others' accuracy", "MFLOPs an image", "GFLOPs to fit"),
            *("seconds to fit", "patch better", "patch worse", "seed"),
        ),
        baseline_rows,
    ),
    "patch_sizes": ResultTable(
        "How small a module may be before its patch loses, on test images: overly simple weak models, the learned "
        "rule, means over the target classes in %; in how many F1 is below that before, and that without a module.",
        ("patch_sizes",),
        (
            *("network", "patched by", "target classes", "kernels %", "FLOPs %", "F1", "others' accuracy"),
            *("F1 above no module", "below before", "below no module", "seed"),
        ),
        patch_size_rows,
    ),
    "heuristics": ResultTable(
        "What the heuristics of the genetic search are worth: best fitness after the first generation, a quarter, half "
        "and all of them, on the search's validation images.",
        ("heuristics",),
        (
            *("network", "without", "generations", "chromosomes", "ensembles", "fitness, first", "quarter", "half"),
            *("all", "accuracy %", "kernels %", "distance", "seed", "seconds"),
        ),
        heuristic_rows,
    ),
}


def write_tables(results: Results, folder: Path) -> None:
    """Write tables/NAME.csv and figures/ below a folder, and every table between its marks in the folder's README.md.

    A table of which nothing has been measured here stays as it is. Where there is no README.md, one is made of the
    tables alone.
    """
    readme, texts = folder / "README.md", {}
    for name, table in TABLES.items():
        rows = list(table.rows(results))
        if rows:
            save_text(folder / "tables" / f"{name}.csv", csv_table(table.columns, rows))
        if rows or not readme.exists():
            texts[name] = markdown(results, table, list(filter(table.is_shown, rows)))
    for name, drawing in figures_of(results):
        save_drawing(drawing, folder / "figures" / name)
    text = read_text(readme, results.made_by) if readme.exists() else "\n".join(f"{mark(n)}\n{END}\n" for n in texts)
    save_text(readme, filled(text, texts))
    count = len(results.ran.keys() & results.lines)
    print(f"{count} of {len(results.lines)} commands have succeeded; tables in {folder / 'tables'} and {readme}")


def mark(name: str) -> str:
    """The line of a document behind which a table stands, up to END."""
    return f"<!-- table: {name} -->"


def filled(document: str, texts: Mapping[str, str]) -> str:
    """A document with every table in its place; a table that has no place is left out."""
    for name, text in texts.items():
        before, found, behind = document.partition(f"{mark(name)}\n")
        _, end, after = behind.partition(END)
        if end:
            document = f"{before}{found}{text}{end}{after}"
    return document


def markdown(results: Results, table: ResultTable, rows: list[Cells]) -> str:
    """A table, with the command, commits and machines that made it above, and what it lacks below."""
    lines = [line for line, name in results.lines.items() if name in table.of]
    runs = [results.ran[line] for line in lines if line in results.ran]
    made = dict.fromkeys(f"; commit {ran.commit}, {ran.machine}" for ran in runs)
    lacking = len(lines) - len(runs)
    left_out = f"Left out: {lacking} commands that have not succeeded yet (--list shows them).\n" if lacking else ""
    if not rows:
        return f"**{table.title}** Nothing to show yet.\n\n{left_out}"
    heading = f"**{table.title}** `{results.made_by}`{''.join(made)}\n\n"
    return "\n".join([heading + markdown_table(table.columns, rows), left_out])
