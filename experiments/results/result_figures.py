"""The figures of the published experiments: one to a table, of the numbers behind it."""

from collections.abc import Iterator, Sequence
from typing import Any

from matplotlib.axes import Axes
from result_commands import Command
from result_log import Results
from result_rows import NOTHING, SIMPLE, Search, compared_searches, patch_trade_offs, patched, trade_offs

import global_configure  # noqa: F401  (finds our packages before others of their names)
from patching.report import BEFORE, WHOLE_MODEL
from report.figures import INK, Drawing, curve_style, new_figure, styled
from report.figures_of_patching import patch_figure
from report.figures_of_trade_off import PAPER, PAPER_DATASETS, TradeOff, patch_trade_off_figure
from search.genetic.log import best_generation

SHOWN = (BEFORE, "min_max", "learned", WHOLE_MODEL.format("learned"))  # of a patch's methods


def figures_of(results: Results) -> Iterator[tuple[str, Drawing]]:
    """What can be drawn of what is done: (name, drawing)."""
    if searched := [(command, points) for command, _, points in trade_offs(results)]:
        yield "modules", modules_figure(searched)
    for command, _, words, models in patched(results):
        scores = {model.classes[-1]: {method: model.scores(method) for method in SHOWN} for model in models}
        title = f"{command.model} on {command.dataset}: {words} weak models, test images"
        yield f"patch_{'weak' if words == SIMPLE else words}_{command.model}", patch_figure(scores, title)
    for command, _, points in patch_trade_offs(results):
        title = f"{command.model} on {command.dataset}: {SIMPLE} weak models, test images"
        yield f"patch_sizes_{command.model}", patch_trade_off_figure(points, title)
    if searches := compared_searches(results):
        yield "heuristics", heuristics_figure(searches)


@styled
def modules_figure(searched: Sequence[tuple[Command, Sequence[TradeOff]]]) -> Drawing:
    """Accuracy lost by kernels kept: one colour per network, one line per seed; genetic searches are single marks.

    Lines of fine-tuned modules are dotted. The paper's mean is shown where it has the dataset.
    """
    figure = new_figure(10, 4.6)
    axes = figure.subplots()
    models = list(dict.fromkeys(command.model for command, _ in searched))
    rows, sentences = [], []
    for command, points in searched:
        number = models.index(command.model)
        for method, line in (("gradient", "-"), ("fine-tuned", ":"), ("genetic", "none")):
            own = sorted((point for point in points if point.method == method), key=lambda p: p.kernels_kept)
            if not own:
                continue
            style = curve_style(number) | ({"marker": "*", "markersize": 13} if line == "none" else {"markersize": 5})
            across, up = [100 * point.kernels_kept for point in own], [point.points_lost for point in own]
            seeds = sorted(
                {
                    other.seed
                    for other, found in searched
                    if other.model == command.model and method in methods_of(found)
                }
            )
            label = f"{command.model}, {method}, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
            axes.plot(across, up, linestyle=line, label=label, **style)
            rows += [
                (command.model, command.seed, method, point.target, point.kernels_kept, point.points_lost)
                for point in own
            ]
        within = [point for point in points if point.points_lost <= 1]
        if within:
            least = min(within, key=lambda point: point.kernels_kept)
            sentences.append(
                f"{command.model}, seed {command.seed}: with at most one point lost, {least.kernels_kept:.1%} of the "
                f"kernels are kept ({least.method})."
            )
    (dataset,) = {command.dataset for command, _ in searched}
    if dataset in PAPER_DATASETS:
        of_paper = {"marker": "X", "markersize": 10, "color": INK, "linestyle": "none", "label": "paper, genetic, mean"}
        axes.plot(100 * PAPER.kernels_kept, PAPER.points_lost, **of_paper)
    axes.axhline(0, color=INK, linewidth=0.8, linestyle="--")
    axes.set_yscale("symlog", linthresh=1)  # networks that lose a little and a lot in one picture
    axes.set_yticks(ticks := [-0.5, 0, 0.5, 1, 2, 5, 10, 20, 50], list(map(str, ticks)))
    lost = [points_lost for *_, points_lost in rows]
    axes.set_ylim(min(lost) - 0.2, 1.2 * max(lost) + 0.2)
    axes.set_xlabel("kernels kept, % (mean over modules)")
    axes.set_ylabel("accuracy lost, percentage points\n(scale: linear up to 1, then logarithmic)")
    axes.grid()
    _legend(axes, loc="center left", bbox_to_anchor=(1, 0.5))  # next to the curves, which lie everywhere
    figure.suptitle(f"{dataset}, test images: accuracy of composed modules below the strong model (dashed)")
    columns = ("network", "seed", "method", "target", "kernels_kept", "points_lost")
    return Drawing(figure, " ".join(sentences) or "All lose more than one point.", columns, rows)


def methods_of(points: Sequence[TradeOff]) -> set[str]:
    """The methods that found these modules."""
    return {point.method for point in points}


@styled
def heuristics_figure(searches: Sequence[Search]) -> Drawing:
    """The best fitness so far by the chromosomes that were made: a colour a heuristic that was left out."""
    figure = new_figure(10, 4.6)
    axes = figure.subplots()
    ways = list(dict.fromkeys(search.without for search in searches))
    rows, ends = [], []
    for search in searches:
        number = ways.index(search.without)
        best = [best_generation(search.rows[: last + 1]).fitness for last in range(len(search.rows))]
        label = "all heuristics" if search.without == NOTHING else f"without {search.without}"
        axes.plot(search.chromosomes, best, label=label, **curve_style(number))
        made = zip(search.chromosomes.tolist(), best, strict=True)
        rows += [(search.command.model, search.command.seed, label, count, fitness) for count, fitness in made]
        ends.append(f"{label} (seed {search.command.seed}) {best[-1]:.4f}")
    axes.set(xlabel="chromosomes made, all classes together", ylabel="best fitness so far")
    axes.grid()
    _legend(axes)
    figure.suptitle("The genetic search with all heuristics and without one, on the search's validation images")
    columns = ("network", "seed", "heuristics", "chromosomes", "best_fitness")
    return Drawing(figure, f"Best fitness at the end: {', '.join(ends)}.", columns, rows)


def _legend(axes: Axes, **where: Any) -> None:
    """A legend in which the curves of several seeds stand once."""
    curves, labels = axes.get_legend_handles_labels()
    by_label = dict(zip(labels, curves, strict=True))
    axes.legend(list(by_label.values()), list(by_label), **where)
