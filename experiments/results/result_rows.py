"""The rows of the tables of results, from what the scripts wrote.

Each function takes what was run, and gives the cells of row after row; what was not run is left out.
"""

import csv
import typing
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from result_commands import ABLATIONS, FINE_TUNER, GENETIC, PATCH, PATCH_SIZES, TRADE_OFF, Command
from result_log import Ran, Results

import global_configure  # noqa: F401  (finds our packages before others of their names)
from configures.base import load
from models.training import best_epoch
from patching import files as patch_files
from patching.metrics import METRICS, metrics_of
from patching.report import BEFORE, NO_MODULE, WHOLE_MODEL, PatchedWeakModel, common_calibrations, mean_metrics
from patching.weak_models import WeakKind
from report import figures_of_trade_off as of_sizes
from report import files as report_files
from report.figures_of_trade_off import PatchTradeOff, TradeOff
from search.genetic import files as genetic_files
from search.genetic.log import Generation, best_generation
from utils.files import damaged, read_text

Row = TypeVar("Row")
Cells = list[Any]

SHARES = (0.6, 0.5, 0.4, 0.3)  # of the kernels, at which the gradient search's rounds are shown
SIMPLE = WeakKind.SIMPLE.words
NOTHING = "nothing"
IN_WORDS = ("kernel importance", "a first population by sensitivity", "pruning by accuracy")
HEURISTICS = dict(zip(ABLATIONS, IN_WORDS, strict=True))
# Published figures, and ours that were measured by hand, on a GPU.
NOT_MADE_HERE = tuple(Path(__file__).with_name(f"{name}.csv") for name in ("published", "published_width"))


def read_rows(path: Path, kind: type[Row], made_by: str) -> list[Row]:
    """The dataclass instances of a CSV file whose columns are its fields. Raises UserError where it holds others."""
    kinds = typing.get_type_hints(kind)
    lines = csv.DictReader(read_text(path, made_by).splitlines())
    try:
        return [kind(**{name: kinds[name](text) for name, text in line.items()}) for line in lines]
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path, made_by, f"expected the columns {', '.join(kinds)} ({error})") from None


# How well modules do
def nearest_rounds(points: Sequence[TradeOff]) -> list[tuple[str, TradeOff]]:
    """What is shown of a trade-off, with its name: per share of SHARES the round that keeps nearest to it; the others.

    Of rounds that keep as much the last one counts, in which the masks settled.
    """
    rounds = [point for point in points if point.method == "gradient"]

    def nearest(share: float) -> TradeOff:
        return min(reversed(rounds), key=lambda point: round(abs(point.kernels_kept - share), 3))

    shown = dict.fromkeys(map(nearest, SHARES if rounds else ()))
    found = [(f"gradient, {point.target}", point) for point in shown]
    for point in points:
        if point.method == "genetic":
            bred = point.target.split(" of ")[-1]  # behind the generation of the best ensemble
            found.append((f"genetic, {bred} generations", point))
    found += [(f"fine-tuned, {point.target}", point) for point in points if point.method == "fine-tuned"]
    return found


def trade_offs(results: Results) -> Iterator[tuple[Command, Ran, list[TradeOff]]]:
    """All sets of modules of each network and seed."""
    for command, ran in results.of(TRADE_OFF):
        path = report_files.trade_off(command.artifacts(results.roots), "test")
        yield command, ran, read_rows(path, TradeOff, results.made_by)


def _shown(results: Results) -> Iterator[tuple[Command, Ran, str, TradeOff]]:
    for command, ran, points in trade_offs(results):
        for name, point in nearest_rounds(points):
            yield command, ran, name, point


def module_rows(results: Results) -> Iterator[Cells]:
    """A row per network, seed and set of modules; the seconds are the search's."""
    for command, ran, name, point in _shown(results):
        right = [point.right + round(point.points_lost * point.images / 100), point.right]
        yield [
            *(command.model, name, f"{100 * point.kernels_kept:.1f}", f"{100 * point.flops:.1f}"),
            *(*right, point.images, f"{point.points_lost:.2f}", f"{point.distance:.4f}"),
            *(f"{point.auc_mean:.4f}", f"{point.auc_least:.4f}"),
            *(command.seed, f"{point.seconds:.0f}", ran.commit),
        ]


def seed_rows(results: Results) -> Iterator[Cells]:
    """A row per network and set of modules that several seeds have."""
    yield from over_seeds((command.model, name, point) for command, _, name, point in _shown(results))


def over_seeds(trade_offs: Iterable[tuple[str, str, TradeOff]]) -> Iterator[Cells]:
    """Mean, lowest and highest over what has the same two names, where that is more than one."""
    found = defaultdict(list)
    for model, name, point in trade_offs:
        found[model, name].append(point)
    for names, points in found.items():
        if len(points) > 1:
            kept, lost = ([100 * point.kernels_kept for point in points], [point.points_lost for point in points])
            strong = [100 * point.right / point.images + point.points_lost for point in points]
            yield [*names, len(points), f"{np.mean(kept):.1f}", spread(strong), spread(lost)]


def spread(values: Sequence[float]) -> str:
    """`mean (lowest to highest)`."""
    return f"{np.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


# Whether patching helps
def patched(results: Results) -> Iterator[tuple[Command, Ran, str, list[PatchedWeakModel]]]:
    """The weak models of each network and kind, which stands before them in words."""
    for command, ran in results.of(PATCH):
        kind = next(kind for kind in WeakKind if kind.option == command.option("--exp_type"))
        artifacts, wanted = command.artifacts(results.roots), command.option("--target_epoch")
        modules = command.option("--modules")
        words = SIMPLE if kind is WeakKind.SIMPLE else "overfitted" if wanted == "best" else "underfitted"
        models = []
        for target_class in range(load(command.model, command.dataset).num_classes):
            history = patch_files.weak_model_log(artifacts, kind, target_class).load()
            epoch = int(wanted) if wanted.isdecimal() else best_epoch(history)
            models.append(patch_files.report(artifacts, modules, kind, target_class, epoch, "all").load())
        yield command, ran, words, models


def patching_rows(results: Results) -> Iterator[Cells]:
    """A row per network, kind of weak models, and rule or control of the learned one: means over the target classes."""
    for command, ran, words, models in patched(results):
        before = mean_metrics(models, BEFORE)
        for method in (BEFORE, *common_calibrations(models), NO_MODULE, WHOLE_MODEL.format("learned")):
            yield [
                *(command.model, words, method, len(models), sum(model.test_images for model in models)),
                *changes(mean_metrics(models, method), before if method != BEFORE else None),
                *(["", ""] if method == BEFORE else better_and_worse(models, method)),
                *(command.seed, f"{ran.seconds:.0f}", ran.commit),
            ]


def changes(values: np.ndarray, before: np.ndarray | None) -> list[str]:
    """Metrics in percent, with the change in points where they are not those before."""
    texts = [f"{100 * value:.1f}" for value in values]
    if before is None:
        return texts
    return [f"{text} ({100 * (new - old):+.1f})" for text, new, old in zip(texts, values, before, strict=True)]


def better_and_worse(models: Sequence[PatchedWeakModel], method: str) -> list[str]:
    """In how many target classes F1 rose and fell: `all / by more than chance`."""
    gains = np.array([model.scores(method).f1 - model.scores(BEFORE).f1 for model in models])
    sure = [(change := model.change(method)) is not None and change.is_significant("f1") for model in models]
    return [f"{(way * gains > 0).sum()} / {(way * gains[sure] > 0).sum()}" for way in (1, -1)]


def patch_rows(results: Results) -> Iterator[Cells]:
    """A row per weak model and method, with the counts and with the interval of F1's change."""
    for command, ran, words, models in patched(results):
        for model in models:
            for method in model.methods:
                scores, change = model.scores(method), model.change(method)
                low, high = change.f1 if change else (np.nan, np.nan)
                yield [
                    *(command.model, words, model.target_class, model.classes[-1], model.epoch, method),
                    *(f"{100 * value:.2f}" for value in metrics_of(scores)),
                    *(scores.true_positives, scores.false_positives, scores.false_negatives),
                    *(scores.others_right, scores.others),
                    *([f"{100 * low:+.1f}", f"{100 * high:+.1f}"] if change else ["", ""]),
                    *(command.seed, f"{ran.seconds:.0f}", ran.commit),
                ]


def patch_trade_offs(results: Results) -> Iterator[tuple[Command, Ran, list[PatchTradeOff]]]:
    """The patches of each network, by modules of all rounds of a search, and by fine-tuned sets."""
    tuned = {f"set {command.option('--as')}" for command in results.commands if command.script == FINE_TUNER}
    for command, ran in results.of(PATCH_SIZES):
        path = patch_files.trade_off(command.artifacts(results.roots), WeakKind.SIMPLE, "test")
        points = read_rows(path, PatchTradeOff, results.made_by)
        # Other sets are of a search's rounds.
        yield command, ran, [p for p in points if not p.method.startswith("set ") or p.method in tuned]


def patch_size_rows(results: Results) -> Iterator[Cells]:
    """A row per network and size of modules: means over the target classes, and how many lose by the patch."""
    for command, ran, points in patch_trade_offs(results):
        for cells in patch_sizes(points):
            yield [command.model, *cells, command.seed, f"{ran.seconds:.0f}", ran.commit]


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
    """A genetic search with all of its heuristics or without one, over the generations that all of them did."""

    command: Command
    ran: Ran
    rows: list[Generation]
    chromosomes: np.ndarray  # (generations,) how many had been made at the end of each

    @property
    def without(self) -> str:
        """The heuristic, in words, or NOTHING."""
        return HEURISTICS.get(self.command.root.removeprefix(f"seed_{self.command.seed}_"), NOTHING)


def compared_searches(results: Results) -> list[Search]:
    """The genetic searches of the seeds that have some without a heuristic."""
    logs = [(*of, genetic_files.log(of[0].artifacts(results.roots)).load()) for of in results.of(GENETIC)]
    ablated = {(command.model, command.seed) for command, *_ in logs if command.table == "heuristics"}
    shortest = min((len(rows) for command, _, rows in logs if command.table == "heuristics"), default=0)
    return [
        Search(command, ran, list(rows[:shortest]), _chromosomes(results, command, shortest))
        for command, ran, rows in logs
        if (command.model, command.seed) in ablated
    ]


def _chromosomes(results: Results, command: Command, generations: int) -> np.ndarray:
    config = load(command.model, command.dataset)
    made_with = genetic_files.settings(command.artifacts(results.roots)).load()
    population, elites = made_with["population"], made_with["elites"]
    return config.num_classes * (population + (population - elites) * np.arange(generations))


def heuristic_rows(results: Results) -> Iterator[Cells]:
    """A row per genetic search with all of its heuristics and without one, each over the same generations."""
    for search in compared_searches(results):
        rows = search.rows
        yield [
            *(search.command.model, search.without, len(rows), search.chromosomes[-1]),
            *(sum(row.ensembles_scored for row in rows), *course(rows), search.command.seed),
            *(f"{sum(row.seconds for row in rows):.0f}", search.ran.commit),
        ]


def course(rows: Sequence[Generation]) -> Cells:
    """The best fitness after the first generation, a quarter, half and all of them; and what the last best one is."""
    ends = [1 + part * (len(rows) - 1) // 4 for part in (0, 1, 2, 4)]
    best = best_generation(list(rows))
    texts = [f"{best_generation(list(rows[:end])).fitness:.4f}" for end in ends]
    return [*texts, f"{100 * best.accuracy:.2f}", f"{100 * best.kernels_kept:.1f}", f"{best.distance:.4f}"]


# Beside the others
def literature_rows(results: Results) -> Iterator[Cells]:
    """Published figures, ours of the published width, and of the first seed of each network, patched by `learned`."""
    for path in NOT_MADE_HERE:
        yield from list(csv.reader(read_text(path, "git checkout").splitlines()))[1:]
    patches = {}
    for command, _, words, models in patched(results):
        if words == SIMPLE:
            change = mean_metrics(models, "learned") - mean_metrics(models, BEFORE)
            patches[command.root, command.model] = [f"{100 * value:+.2f}" for value in change]
    for command, ran, name, point in _shown(results):
        if name.startswith(("gradient, keep 50%", "fine-tuned, keep_30", "genetic")) and command.seed == 0:
            none = [""] * len(METRICS)
            gains = patches.get((command.root, command.model), none) if point.method == "gradient" else none
            yield [
                *(f"here: {name}", f"{command.model}, {command.dataset}", f"{point.points_lost:.2f}"),
                *(f"{100 * point.kernels_kept:.1f}", "kernels", f"{100 * point.flops:.1f}"),
                f"{100 * point.distance:.2f}",
                *gains,
                *(f"commit {ran.commit}", f"{point.right} of {point.images} composed"),
            ]
