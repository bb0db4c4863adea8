"""Every fast part next to a plain version of it: what is timed, and that both compute the same.

A comparison takes a `Benchmark` and returns tables by name. The naive side runs in float32.
"""

import dataclasses
import math
import multiprocessing
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import convolutions
import in_processes
import naive
import numpy as np
import torch
from measuring import Benchmark, Row, Size, Timing, Work, compare, exact_results, must_agree, time_in_turns
from subjects import first_masks, model_to_measure, naive_network, resident, searched_instance
from torch import Tensor, nn

from dataset.images import Images, normalise, to_device
from dataset.splits import load_split
from models import files as model_files
from models.evaluation import count_right, predict
from models.graph import Graph
from models.strong_model import build_strong_network, graph_of, strong_model_training
from models.training import train
from modules.kernel_importance import kernel_importance
from modules.layer_sensitivity import layer_sensitivity, top_ratio_masks
from modules.module import extract_modules
from modules.population_outputs import outputs_with_known, population_outputs
from search.genetic import files as genetic_files
from search.genetic.generations import GeneticSearch, open_search
from search.genetic.scoring import places_of, scoring_rules
from search.genetic.tournament import Scores, score_population
from search.gradient.goal import goal_of
from search.gradient.trainer import ModuleTrainingSettings, Trainer
from utils.device import core_threads
from utils.errors import UserError
from utils.seeds import torch_seed

Tables = dict[str, list[Row]]

OUTPUT_TOLERANCE = 1e-4  # of float32 outputs; relative to the largest one where that is above 1
IMPORTANCE_TOLERANCE = 1e-4  # relative
LOSS_TOLERANCE = 1e-2  # relative, after steps of Adam, which go the same way however small a gradient is
KEPT = 0.5  # of the units, at random, where the training of modules is timed


def ratios(what: str, unit: str, timings: dict[str, Timing], names: list[str]) -> list[Row]:
    """A row for each of the named timings, compared with the naive one."""
    return [compare(f"{what}, {name}", unit, timings["naive"], timings[name]) for name in names]


def check_outputs(found: np.ndarray, expected: np.ndarray) -> None:
    """Raises RuntimeError where float32 outputs differ by more than rounding."""
    difference = float(np.abs(found - expected).max())
    must_agree(difference <= OUTPUT_TOLERANCE * max(1.0, float(np.abs(expected).max())), f"outputs by {difference}")


def evaluation(benchmark: Benchmark) -> Tables:
    """Chromosomes, next to a network and a DataLoader per chromosome; and what bfloat16 does to outputs."""
    stage = benchmark.stage
    graph = model_to_measure(stage, untrained=benchmark.options.untrained)
    network = naive_network(stage, graph)
    images = load_split(stage.config).valid.first(benchmark.sizes["images"])
    first = first_masks(stage, graph, images, benchmark.sizes["chromosomes"])
    masks = first[0]

    def evaluate(dtype: torch.dtype, count: int) -> Work:
        pixels = resident(images, stage, dtype)
        return Work(lambda: population_outputs(graph, masks[:count], [0] * count, pixels), count)

    def evaluate_naively() -> np.ndarray:
        return naive.module_outputs(network, graph.units.spread(masks[0]), 0, naive.batches(images, stage.device))

    works = {"naive": Work(evaluate_naively)}
    for name, dtype in benchmark.precisions.items():
        works[f"one {name}"] = evaluate(dtype, 1)
        works[f"all {name}"] = evaluate(dtype, len(masks))
    timings = time_in_turns(works, benchmark.repetitions, stage.device)
    exact = exact_results(works, timings, stage.device, "naive", "one float32", "all float32")
    for name in ("one float32", "all float32"):
        check_outputs(exact[name][0], exact["naive"])
    rows = ratios("evaluation", "chromosome", timings, [name for name in works if name != "naive"])
    tables = {"comparison": rows}
    if "bfloat16" in benchmark.precisions:
        tables["effect_of_bfloat16"] = [effect_of_bfloat16(graph, first[:, 0], images, benchmark)]
    return tables


def effect_of_bfloat16(graph: Graph, masks: np.ndarray, images: Images, benchmark: Benchmark) -> Row:
    """How much bfloat16 changes the outputs of one module per class, unit masks (classes, U), and what they decide."""
    exact, rounded = (
        population_outputs(graph, masks, list(range(len(masks))), resident(images, benchmark.stage, dtype))
        for dtype in (torch.float32, torch.bfloat16)
    )
    difference, decisions = np.abs(rounded - exact), (exact.argmax(0), rounded.argmax(0))
    return {
        "bfloat16 - float32, mean": float(difference.mean()),
        "max": float(difference.max()),
        "standard deviation of outputs": float(exact.std()),
        "decisions changed": int((decisions[0] != decisions[1]).sum()),
        "right, float32": int((decisions[0] == images.labels).sum()),
        "right, bfloat16": int((decisions[1] == images.labels).sum()),
        "images": len(images),
    }


def scoring(benchmark: Benchmark) -> Tables:
    """A generation's ensembles, next to a Python loop over them; the full size, made up, in a process of its own.

    The most ensembles survive each round. Both sides score modules of the strong model as a search begins with them.
    """
    stage, sizes = benchmark.stage, benchmark.sizes
    small = searched_instance(stage, sizes["naive_population"], sizes["naive_images"])

    def fast() -> Scores:
        return score_population(**vars(small), seed=stage.seed, generation=0, threads=benchmark.threads)

    def slow() -> Scores:
        return naive.tournament(**vars(small), seed=stage.seed, generation=0)

    num_scored = fast().num_scored
    works = {"naive": Work(slow, num_scored), "float32": Work(fast, num_scored)}
    timings = time_in_turns(works, min(3, benchmark.repetitions), stage.device, warm_up=False)
    must_agree(naive.same_scores(timings["naive"].result, timings["float32"].result), "scores, to the last bit")
    num_kernels = graph_of(stage.config).units.num_kernels
    full = (sizes["classes"], sizes["population"], sizes["images"], num_kernels, stage.seed, benchmark.threads)
    runs = []
    for _ in range(benchmark.repetitions):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), in_processes.end_with_parent) as alone:
            runs.append(alone.submit(in_processes.score_alone, *full).result())
    runs.sort(key=lambda row: row["seconds"])
    median = {**runs[len(runs) // 2], "peak GiB": max(row["peak GiB"] for row in runs)}
    return {"comparison": ratios("scoring", "ensemble", timings, ["float32"]), "alone": [median]}


def generation(benchmark: Benchmark) -> Tables:
    """A whole generation of a search that is there, with its elites, duplicates and shared prefixes.

    The naive side evaluates a part of the chromosomes, all from scratch, and scores all ensembles.
    """
    stage, config = benchmark.stage, benchmark.stage.config
    search = open_search(stage)
    number = chosen_generation(search, benchmark.options.generation)
    graph = model_to_measure(stage, untrained=False)
    network, spread = naive_network(stage, graph), graph.units.spread
    images, classes = search.images, range(config.num_classes)
    last_masks, masks = ([search.masks(each, c) for c in classes] for each in (number - 1, number))
    row = genetic_files.log(stage.artifacts).load()[number - 1]
    kernel_masks = [spread(of_class) for of_class in masks]
    protected = places_of([spread(last_masks[c][row.ensemble[c]]) for c in classes], kernel_masks)
    rules = scoring_rules(config, row.accuracy)
    count = min(benchmark.sizes["naive_chromosomes"], config.population)

    def known_of(target_class: int, pixels: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """What the explorer finds on disk: masks of the last generation, here those that return, and their outputs."""
        of_last, now = last_masks[target_class], masks[target_class]
        returning = np.stack([mask for mask in of_last if (now == mask).all(axis=1).any()] or [of_last[0]])
        return returning, population_outputs(graph, returning, [target_class] * len(returning), pixels)

    def evaluate(dtype: torch.dtype) -> Work:
        pixels = resident(images, stage, dtype)
        known = [known_of(c, pixels) for c in classes]
        return Work(lambda: [outputs_with_known(graph, masks[c], c, pixels, known[c]) for c in classes])

    def evaluate_naively() -> np.ndarray:
        outputs = [
            naive.module_outputs(network, kernel_masks[c][chromosome], c, naive.batches(images, stage.device))
            for c in classes
            for chromosome in range(config.population - count, config.population)  # elites stand in front
        ]
        return np.stack(outputs).reshape(len(classes), count, -1)

    def score(outputs: list[np.ndarray], *, fast: bool) -> Scores:
        arguments = (outputs, kernel_masks, images.labels, rules)
        options: dict[str, Any] = {"seed": stage.seed, "generation": number, "protected": protected}
        if fast:
            return score_population(*arguments, threads=benchmark.threads, **options)
        return naive.tournament(*arguments, **options)

    works = {name: evaluate(dtype) for name, dtype in benchmark.precisions.items()}
    timings = time_in_turns({"naive": Work(evaluate_naively), **works}, benchmark.repetitions, stage.device)
    outputs = {name: [rows for rows, _ in timings[name].result] for name in works}
    for target_class in classes:
        check_outputs(outputs["float32"][target_class][-count:], timings["naive"].result[target_class])
    scorings = {name: Work(partial(score, outputs[name], fast=True)) for name in works}
    scored = time_in_turns(scorings, benchmark.repetitions, stage.device)
    naive_work = {"naive": Work(lambda: score(outputs["float32"], fast=False))}
    scored |= time_in_turns(naive_work, 1, stage.device, warm_up=False)
    must_agree(naive.same_scores(scored["naive"].result, scored["float32"].result), "scores, to the last bit")
    # The part's seconds, counted up to the whole.
    whole = tuple(seconds * config.population / count for seconds in timings["naive"].seconds)
    timings["naive"] = dataclasses.replace(timings["naive"], seconds=whole)
    both = {name: added(timings[name], scored[name]) for name in timings}
    parts = {"evaluation": timings, "scoring": scored, "both": both}
    rows = [row for what, of_part in parts.items() for row in ratios(what, "generation", of_part, list(works))]
    scores, recorded = scored["float32"].result, genetic_files.fitness(stage.artifacts, number)
    life = {
        "generation": number,
        "chromosomes": sum(map(len, kernel_masks)),
        "had to run": sum(run for _, run in timings["float32"].result),
        "of which naively": count * len(classes),
        "ensembles": scores.num_scored,
        "as recorded": bool(np.array_equal(scores.fitness, recorded.load(config.num_classes, config.population))),
    }
    return {"generation": [life], "comparison": rows}


def chosen_generation(search: GeneticSearch, asked: int | None) -> int:
    """The generation to measure: scored, and not the first. Raises UserError where there is none."""
    last, artifacts = search.num_scored() - 1, search.stage.artifacts
    number = last if asked is None else asked
    if not 1 <= number <= last:
        wanted = f"a scored generation from 1 to {last}" if last >= 1 else "a search of two generations at least"
        command = artifacts.command("scripts/run_module_search.py")
        raise UserError(f"generation {number}: expected {wanted} in {genetic_files.folder(artifacts)}; run {command}")
    return number


def added(timing: Timing, other: Timing) -> Timing:
    """Two steps after each other; the shorter list of repetitions is gone through again and again."""
    turns = max(len(timing.seconds), len(other.seconds))
    seconds = (timing.seconds[t % len(timing.seconds)] + other.seconds[t % len(other.seconds)] for t in range(turns))
    return Timing(tuple(seconds), 1, None)


def importance(benchmark: Benchmark) -> Tables:
    """Kernel importance, next to one image after the other."""
    stage, config = benchmark.stage, benchmark.stage.config
    graph = model_to_measure(stage, untrained=False)
    network = naive_network(stage, graph)
    images = load_split(config).valid.first(benchmark.sizes["images"])
    part, confidence = images.first(benchmark.sizes["naive_images"]), config.importance_confidence

    def fast(some: Images) -> np.ndarray:
        return kernel_importance(graph, *to_device(some, stage.device), confidence, some.normalisation)[0]

    def slow() -> np.ndarray:
        single = naive.batches(part, stage.device, batch_size=1)
        return naive.kernel_importance(network, single, part.labels, config.num_classes, confidence)[0]

    works = {"naive": Work(slow, len(part)), "float32": Work(lambda: fast(images), len(images))}
    timings = time_in_turns(works, benchmark.repetitions, stage.device)
    agree = np.allclose(timings["naive"].result, fast(part), rtol=IMPORTANCE_TOLERANCE, atol=IMPORTANCE_TOLERANCE)
    must_agree(agree, f"importance on {len(part)} images")
    return {"comparison": ratios("importance", "image", timings, ["float32"])}


def sensitivity(benchmark: Benchmark) -> Tables:
    """The sensitivity of all layers, next to a network per layer, ratio and class, at a few points spread over all."""
    stage, config = benchmark.stage, benchmark.stage.config
    graph = model_to_measure(stage, untrained=False)
    network, units, ratios_to_keep = naive_network(stage, graph), graph.units, config.sensitivity_ratios
    images = load_split(config).valid.first(benchmark.sizes["images"])
    measured = to_device(images, stage.device)
    kernels, _ = kernel_importance(graph, *measured, config.importance_confidence, images.normalisation)
    points = [(layer, index) for layer in units.tied_layers for index in range(len(ratios_to_keep))]
    count = min(benchmark.sizes["naive_points"], len(points))
    chosen = [points[place] for place in np.linspace(0, len(points), count, endpoint=False, dtype=int) + 1]

    def slow() -> list[float]:
        masks = [units.spread(top_ratio_masks(kernels, units, layer, ratios_to_keep[i])) for layer, i in chosen]
        return [naive.composed_accuracy(network, of_point, images, stage.device) for of_point in masks]

    def fast(pixels: Tensor) -> dict[int, np.ndarray]:
        layers = units.tied_layers
        return {c: layer_sensitivity(graph, kernels, c, ratios_to_keep, pixels, images.labels) for c in layers}

    works = {"naive": Work(slow, count)}
    for name, dtype in benchmark.precisions.items():
        works[name] = Work(partial(fast, resident(images, stage, dtype)), len(points))
    timings = time_in_turns(works, min(3, benchmark.repetitions), stage.device, warm_up=False)
    for (layer, index), accuracy in zip(chosen, timings["naive"].result, strict=True):
        difference = abs(accuracy - float(timings["float32"].result[layer][index, 1])) * len(images)
        must_agree(difference < 1.5, f"conv {layer} at point {index} by {difference:.1f} images")  # one may be a tie
    return {"comparison": ratios("all layers", "point", timings, list(benchmark.precisions))}


def gradient(benchmark: Benchmark) -> Tables:
    """A training step of half-cut modules, next to whole strong models whose maps are multiplied by masks."""
    stage, steps = benchmark.stage, benchmark.sizes["steps"]
    graph = model_to_measure(stage, untrained=benchmark.options.untrained)
    images = load_split(stage.config).train.first(benchmark.sizes["images"])
    pixels, labels = to_device(images, stage.device)
    random = np.random.default_rng(stage.seed).random((graph.num_classes, graph.num_units))
    masks, goal = graph.units.repair(random < KEPT), goal_of(stage.config)
    # No round is that long: so the step size stays, and nothing is dropped.
    settings = ModuleTrainingSettings(10**9, len(images), stage.config.mask_step_size, mirror=False)
    plain = [
        naive.MaskedModule(graph, torch.as_tensor(mask).float().to(stage.device), target_class, settings.step_size)
        for target_class, mask in enumerate(masks)
    ]

    def slow() -> list[float]:
        losses = []
        for _ in range(steps):
            (batch,) = naive.batches(images, stage.device, len(images))
            with torch.no_grad():
                loss = partial(goal.loss, labels=labels, strong_logits=graph.forward(batch))
            losses.append(statistics.mean(module.step(batch, loss) for module in plain))
        return losses

    with core_threads(stage.device) as workers:

        def fast(dtype: torch.dtype) -> Work:
            normalised = normalise(pixels, images.normalisation).permute(0, 2, 3, 1)
            classes = range(graph.num_classes)
            options: dict[str, Any] = {"normalisation": None, "dtype": dtype, "seed": stage.seed, "workers": workers}
            trainer = Trainer(graph, classes, goal, normalised, labels, settings, **options)
            kernel_masks = graph.units.spread(masks)
            trainer.begin_with(kernel_masks, extract_modules(graph, kernel_masks))
            return Work(lambda: [trainer.step(1.0, 1.0) for _ in range(steps)], steps)

        works = {"naive": Work(slow, steps), **{name: fast(dtype) for name, dtype in benchmark.precisions.items()}}
        timings = time_in_turns(works, benchmark.repetitions, stage.device)
        exact = exact_results(works, timings, stage.device, "naive", "float32")
    agree = np.allclose(exact["float32"], exact["naive"], rtol=LOSS_TOLERANCE)
    must_agree(agree, f"losses {exact['float32']} and {exact['naive']}")
    return {"comparison": ratios("training step of all modules", "step", timings, list(benchmark.precisions))}


def training(benchmark: Benchmark) -> Tables:
    """An epoch of training, next to a DataLoader with Pillow transforms and a plain loop; validation is not counted."""
    stage, config, sizes = benchmark.stage, benchmark.stage.config, benchmark.sizes
    split = load_split(config)
    images, valid = split.train.first(sizes["images"]), split.valid.first(sizes["valid_images"])
    settings = dataclasses.replace(
        strong_model_training(config),
        epochs=1,
        schedule="step",
        batch_size=min(config.batch_size, len(images)),
        learning_rate=config.learning_rate / 10,  # that of the first steps of a schedule that rises
    )

    def untrained(memory_format: torch.memory_format) -> nn.Module:
        torch.manual_seed(torch_seed(stage.seed, "initial weights"))
        return build_strong_network(config).to(stage.device).to(memory_format=memory_format)

    def slow() -> tuple[float, float]:
        return naive.train(untrained(torch.contiguous_format), images, settings, stage.device, stage.seed)[0]

    def fast(dtype: torch.dtype) -> tuple[float, float]:
        model = untrained(torch.channels_last)
        (epoch,) = train(model, images, valid, settings, device=stage.device, dtype=dtype, seed=stage.seed).history
        return epoch.train_loss, epoch.seconds

    ways: dict[str, Callable[[], tuple[float, float]]] = {
        "naive": slow,
        **{name: partial(fast, dtype) for name, dtype in benchmark.precisions.items()},
    }
    measured = [{name: way() for name, way in ways.items()} for _ in range(benchmark.repetitions + 1)][1:]  # warm
    steps = math.ceil(len(images) / settings.batch_size)
    timings = {name: Timing(tuple(turn[name][1] for turn in measured), steps, None) for name in ways}
    rows = ratios("training", "step", timings, list(benchmark.precisions))
    for row, name in zip(rows, benchmark.precisions, strict=True):
        row["loss"], row["naive loss"] = measured[-1][name][0], measured[-1]["naive"][0]
        must_agree(abs(row["loss"] - row["naive loss"]) < 0.25 * row["naive loss"], "the loss of the first epoch")
    return {"comparison": rows}


def training_accuracy(benchmark: Benchmark) -> Tables:
    """Whether the fast training is as good as the plain one: from the same first weights of several seeds."""
    stage, config, sizes = benchmark.stage, benchmark.stage.config, benchmark.sizes
    split = load_split(config)
    images = split.train.first(sizes["images"])
    settings = dataclasses.replace(strong_model_training(config), epochs=sizes["epochs"])

    def slow(model: nn.Module, seed: int) -> None:
        naive.train(model, images, settings, stage.device, seed)

    def fast(dtype: torch.dtype) -> Callable[[nn.Module, int], None]:
        def train_fast(model: nn.Module, seed: int) -> None:
            model.to(memory_format=torch.channels_last)
            train(model, images, split.valid, settings, device=stage.device, dtype=dtype, seed=seed)

        return train_fast

    ways = {"naive": slow, **{name: fast(dtype) for name, dtype in benchmark.precisions.items()}}
    rows = []
    for what, train_one in ways.items():
        right = []
        for seed in range(sizes["seeds"]):
            torch.manual_seed(torch_seed(seed, "initial weights"))
            model = build_strong_network(config).to(stage.device)
            train_one(model, seed)
            right.append(count_right(predict(model.eval(), split.test, stage.device), split.test.labels))
        rows.append({"what": what, "mean %": 100 * statistics.mean(right) / len(split.test)})
        rows[-1] |= {f"seed {seed}": count for seed, count in enumerate(right)}
    return {"accuracy": [{**row, "test images": len(split.test)} for row in rows]}


def cores(benchmark: Benchmark) -> Tables:
    """The same chromosomes by one process per core, by one process with all cores, and by both at once."""
    stage, count = benchmark.stage, benchmark.threads
    model_files.entire_model(stage.artifacts).check_is_there()
    rows: list[Row] = []
    for processes, threads in dict.fromkeys(((count, 1), (1, count), (count, count))):
        seconds = in_processes.evaluation_seconds(benchmark, processes, threads)
        for name, times in seconds.items():
            rate = benchmark.sizes["chromosomes"] / statistics.median(times)
            row = {"processes": processes, "threads each": threads, "precision": name, "chromosomes/s": rate}
            rows.append({**row, "lowest s": min(times), "highest s": max(times)})
    return {"arrangements": rows}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A comparison, and what it measures on."""

    measure: Callable[[Benchmark], Tables]
    sizes: dict[str, Size]


COMPARISONS = {
    "evaluation": Comparison(
        evaluation,
        {"images": Size(10_000, 40, "validation images"), "chromosomes": Size(20, 2, "size of the population")},
    ),
    "scoring": Comparison(
        scoring,
        {
            "naive_population": Size(10, 4, "chromosomes per class that both sides score"),
            "naive_images": Size(2_000, 100, "validation images for the naive side"),
            "classes": Size(10, 5, "classes of the full size"),
            "population": Size(100, 8, "its chromosomes per class"),
            "images": Size(10_000, 300, "its images"),
        },
    ),
    "generation": Comparison(
        generation, {"naive_chromosomes": Size(2, 1, "chromosomes per class that the naive side evaluates")}
    ),
    "importance": Comparison(
        importance,
        {
            "images": Size(10_000, 60, "validation images"),
            "naive_images": Size(500, 30, "validation images for the naive side"),
        },
    ),
    "sensitivity": Comparison(
        sensitivity,
        {
            "images": Size(2_000, 30, "validation images"),
            "naive_points": Size(3, 1, "points (a layer at a ratio) that the naive side is given"),
        },
    ),
    "gradient": Comparison(
        gradient, {"images": Size(64, 8, "training images of the step"), "steps": Size(4, 1, "steps at a time")}
    ),
    "training": Comparison(
        training,
        {
            "images": Size(6_400, 64, "training images"),
            "valid_images": Size(500, 10, "validation images, whose evaluation is not counted"),
        },
    ),
    "training_accuracy": Comparison(
        training_accuracy,
        {
            "seeds": Size(3, 2, "trainings of each kind"),
            "epochs": Size(30, 1, "epochs of each"),
            "images": Size(50_000, 64, "training images"),
        },
    ),
    "convolution": Comparison(
        convolutions.convolution,
        {
            "percent": Size(65, 65, "of its kernels that each layer keeps"),
            "images": Size(convolutions.BATCH, 32, "images in a batch"),
        },
    ),
    "cores": Comparison(
        cores,
        {
            "images": Size(2_000, 10, "validation images"),
            "chromosomes": Size(24, 2, "chromosomes, shared among the processes"),
        },
    ),
}
