"""A whole generation of a real search: evaluation and scoring together, beside the naive way.

    python benchmarks/generation.py --model simcnn_x0_25 --dataset cifar10
    python benchmarks/generation.py --model simcnn_x0_25 --dataset cifar10 --generation 12

Takes the populations of generation G and of the one before from data/MODEL_DATASET/ga, so elites, duplicates and shared
prefixes are as in life; run the search with the same --set. Both sides are one process with all threads. The naive
side runs every chromosome anew; it is given a part of them, and all of the ensembles. Writes
data/benchmark/MODEL_DATASET/generation.json.
"""

from typing import Any

import naive
import numpy as np
import torch
from measuring import (
    Size,
    Timing,
    Work,
    benchmark_parser,
    compare,
    must_agree,
    open_benchmark,
    save_benchmark,
    show_rows,
    time_in_turns,
)
from subjects import naive_network, resident

from models.graph import Graph
from models.strong_model import load_strong_model
from modules.population_outputs import outputs_with_known, population_outputs
from search.genetic import files as genetic_files
from search.genetic.generations import GeneticSearch, open_search
from search.genetic.scoring import places_of, scoring_rules
from search.genetic.tournament import Scores, score_population
from utils.errors import UserError, run
from utils.stage import Stage

SIZES = {"naive_chromosomes": Size(2, 1, "chromosomes per class that the naive side evaluates")}
TOLERANCE = 1e-4  # of float32 outputs; relative to the largest one where that is above 1


def main() -> None:
    parser = benchmark_parser(__doc__, SIZES)
    parser.add_argument("--generation", type=int, help="the generation; default: the last one that is scored")
    arguments = parser.parse_args()
    benchmark = open_benchmark(arguments, "generation", SIZES)
    stage, config = benchmark.stage, benchmark.stage.config
    search = open_search(stage)
    generation = chosen_generation(search, arguments.generation)
    graph = load_strong_model(config, stage.artifacts, stage.device)
    network, spread = naive_network(stage, graph), graph.units.spread
    images, classes = search.images, range(config.num_classes)
    last_masks, masks = ([search.masks(number, c) for c in classes] for number in (generation - 1, generation))
    row = genetic_files.log(stage.artifacts).load()[generation - 1]
    kernel_masks = [spread(of_class) for of_class in masks]
    protected = places_of([spread(last_masks[c][row.ensemble[c]]) for c in classes], kernel_masks)
    rules = scoring_rules(config, row.accuracy)

    def evaluate(dtype: torch.dtype) -> Work:
        pixels = resident(images, stage, dtype)
        known = [known_of(graph, last_masks[c], masks[c], c, pixels) for c in classes]
        return Work(lambda: [outputs_with_known(graph, masks[c], c, pixels, known[c]) for c in classes])

    def score(outputs: list[np.ndarray], *, fast: bool) -> Scores:
        arguments = {"seed": stage.seed, "generation": generation, "protected": protected}
        if fast:
            return score_population(outputs, kernel_masks, images.labels, rules, threads=benchmark.threads, **arguments)
        return naive.tournament(outputs, kernel_masks, images.labels, rules, **arguments)

    count = min(benchmark.sizes["naive_chromosomes"], config.population)

    def evaluate_naively() -> np.ndarray:
        outputs = [
            naive.module_outputs(network, kernel_masks[c][chromosome], c, naive.batches(images, stage.device))
            for c in classes
            for chromosome in range(config.population - count, config.population)  # elites stand in front
        ]
        return np.stack(outputs).reshape(len(classes), count, -1)

    works = {name: evaluate(dtype) for name, dtype in benchmark.precisions.items()}
    naive_share = count / config.population
    timings = time_in_turns({"naive": Work(evaluate_naively), **works}, benchmark.repetitions, stage.device)
    outputs = {name: [rows for rows, _ in timings[name].result] for name in benchmark.precisions}
    expected = timings["naive"].result
    difference = max(float(np.abs(outputs["float32"][c][-count:] - expected[c]).max()) for c in classes)
    must_agree(difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())), f"outputs by {difference}")

    fast_scoring = {
        name: time_in_turns(
            {"fast": Work(lambda n=name: score(outputs[n], fast=True))}, benchmark.repetitions, stage.device
        )["fast"]
        for name in benchmark.precisions
    }
    slow_scoring = time_in_turns(
        {"naive": Work(lambda: score(outputs["float32"], fast=False))}, 1, stage.device, warm_up=False
    )["naive"]
    scores, others = slow_scoring.result, fast_scoring["float32"].result
    must_agree(naive.same_scores(scores, others), "scores, to the last bit")

    naive_evaluation = scaled(timings["naive"], 1 / naive_share)
    rows = []
    for name in benchmark.precisions:
        rows += [
            compare(f"evaluation, {name}", "generation", naive_evaluation, timings[name]),
            compare(f"scoring, {name}", "generation", slow_scoring, fast_scoring[name]),
            compare(
                f"both, {name}",
                "generation",
                added(naive_evaluation, slow_scoring),
                added(timings[name], fast_scoring[name]),
            ),
        ]
    for row_of_table in rows:
        if not row_of_table["what"].startswith("scoring"):
            row_of_table["naive units"] = round(naive_share, 4)  # what was run of it
    life = [shared_in_life(graph, kernel_masks, [run for _, run in timings["float32"].result])]
    life[0]["ensembles"] = others.num_scored
    life[0]["best ensemble, float32"] = float(others.ensemble_accuracy[0])
    if "bfloat16" in fast_scoring:
        rounded = fast_scoring["bfloat16"].result
        life[0]["bfloat16"] = float(rounded.ensemble_accuracy[0])
        life[0]["same best"] = bool(np.array_equal(others.ensembles[0], rounded.ensembles[0]))
    life[0]["as recorded"] = bool(np.array_equal(others.fitness, recorded_fitness(stage, generation)))
    show_rows(f"generation {generation}: {config.num_classes} classes, {len(images)} images", life)
    show_rows(
        f"naive evaluation: {count} of {config.population} chromosomes per class, counted up; naive scoring: whole, "
        "once; fitness equal to the last bit",
        rows,
    )
    save_benchmark(benchmark, {"generation": life, "comparison": rows})


def chosen_generation(search: GeneticSearch, asked: int | None) -> int:
    """The generation to measure: scored, and not the first. Raises UserError where there is none."""
    last, stage = search.num_scored() - 1, search.stage
    generation = last if asked is None else asked
    if not 1 <= generation <= last:
        wanted = f"a scored generation from 1 to {last}" if last >= 1 else "a search of two generations at least"
        command = stage.artifacts.command("scripts/run_module_search.py")
        raise UserError(
            f"generation {generation}: expected {wanted} in {genetic_files.folder(stage.artifacts)}; run {command}"
        )
    return generation


def recorded_fitness(stage: Stage, generation: int) -> np.ndarray:
    """(classes, population), as the search found it."""
    return genetic_files.fitness(stage.artifacts, generation).load(stage.config.num_classes, stage.config.population)


def known_of(
    graph: Graph, last_masks: np.ndarray, masks: np.ndarray, target_class: int, images: torch.Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """What the explorer finds on disk: masks of the last generation with their outputs; here those that return."""
    returning = np.stack([mask for mask in last_masks if (masks == mask).all(axis=1).any()] or [last_masks[0]])
    return returning, population_outputs(graph, returning, [target_class] * len(returning), images)


def scaled(timing: Timing, factor: float) -> Timing:
    """The seconds of a part, counted up to the whole."""
    return Timing(tuple(seconds * factor for seconds in timing.seconds), timing.units, timing.result)


def added(timing: Timing, other: Timing) -> Timing:
    """Two steps after each other; the shorter list of repetitions is gone through again and again."""
    turns = max(len(timing.seconds), len(other.seconds))
    seconds = (timing.seconds[t % len(timing.seconds)] + other.seconds[t % len(other.seconds)] for t in range(turns))
    return Timing(tuple(seconds), 1, None)


def shared_in_life(graph: Graph, kernel_masks: list[np.ndarray], num_run: list[int]) -> dict[str, Any]:
    """How much of a generation need not be computed: known chromosomes, and conv layers with a shared prefix."""
    layer_slices = [layer.kernels for layer in graph.units.layers]
    prefixes = sum(
        len(np.unique(np.packbits(population[:, : layer.stop], axis=1), axis=0))
        for population in kernel_masks
        for layer in layer_slices
    )
    chromosomes = sum(map(len, kernel_masks))
    return {
        "chromosomes": chromosomes,
        "had to run": sum(num_run),
        "conv layers": chromosomes * len(layer_slices),
        "distinct prefixes": prefixes,
    }


if __name__ == "__main__":
    run(main)
