"""How fast the fast parts are, each compared with a plain version of itself, which must compute the same.

    python benchmarks/compare.py --model simcnn_x0_25 --dataset cifar10
    python benchmarks/compare.py evaluation --model simcnn --dataset cifar10 --untrained --images 1000
    python benchmarks/compare.py scoring importance --model simcnn_x0_25 --dataset cifar10 --threads 1

Without a name all are measured. Both sides take turns in one process, so their ratio is meaningful on a busy machine.
The naive side (naive.py) runs in float32 and may be given a part of the work: times are per unit. Needs the strong
model, unless --untrained. Prints tables, and writes data/benchmark/MODEL_DATASET/NAME.json.
"""

import argparse
import dataclasses
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import naive
import numpy as np
import torch
from torch import Tensor, nn

from dataset.images import Images, Split, normalise, to_device
from dataset.splits import load_split
from models.graph import Graph
from models.opening import Stage, open_stage, stage_parser
from models.rescnn import ResCNN
from models.simcnn import SimCNN
from models.strong_model import build_strong_network, load_strong_model, strong_graph, strong_model_training
from models.training import train
from modules.fast.compiled import compiler
from modules.kernel_importance import kernel_importance
from modules.layer_sensitivity import layer_sensitivity, top_ratio_masks
from modules.population_outputs import population_outputs
from search.genetic.kernel_groups import genome_layout, kernel_groups
from search.genetic.operators import first_population
from search.genetic.tournament import ScoringRules, score_population
from utils.device import PRECISIONS, device_name, is_fast_in, machine_facts, num_cores
from utils.errors import UserError, run
from utils.files import save_text
from utils.seeds import generator, torch_seed
from utils.tables import show_table

TOLERANCE = {"cpu": 1e-4, "cuda": 2e-2}  # relative; on CUDA float32 convolutions take TF32
KEPT = 0.5  # of the kernels of made-up modules, at random
HEADINGS = ("what", "unit", "ratio", "lowest", "highest", "naive ms", "fast ms", "naive units", "fast units")


@dataclass(frozen=True)
class Work:
    """Something to time, and how many of the counted things one run does."""

    run: Callable[[], Any]
    units: int = 1


@dataclass(frozen=True)
class Comparison:
    """What is timed; `check`, given the results of the naive and of each fast side, says whether they agree."""

    what: str
    unit: str
    naive: Work
    fast: Mapping[str, Work]
    check: Callable[[Any, dict[str, Any]], bool]


@dataclass(frozen=True)
class Bench:
    """What is measured on."""

    stage: Stage
    sizes: dict[str, int]
    threads: int
    precisions: dict[str, torch.dtype]  # of the fast side: float32, and bfloat16 where the device is fast in it
    options: argparse.Namespace

    @cached_property
    def graph(self) -> Graph:
        """The strong model, or the configuration's network with random weights."""
        config = self.stage.config
        if not self.options.untrained:
            return load_strong_model(config, self.stage.artifacts, self.stage.device)
        return strong_graph(config, self.untrained().to(self.stage.device), self.stage.device)

    @cached_property
    def network(self) -> SimCNN | ResCNN:
        """The strong network as naive.py runs it. Raises UserError for networks that naive.py does not know."""
        network = build_strong_network(self.stage.config)
        if not isinstance(network, SimCNN | ResCNN):
            name = self.stage.config.network_name
            raise UserError(f"network {name}: expected SimCNN or ResCNN, which the naive side knows; use simcnn_x0_25")
        network.load_state_dict(self.graph.network.state_dict())
        return network.to(self.stage.device).to(memory_format=torch.channels_last).eval()

    @cached_property
    def split(self) -> Split:
        """All images."""
        return load_split(self.stage.config)

    def untrained(self) -> nn.Module:
        """The configuration's network with the same random weights each time."""
        torch.manual_seed(torch_seed(self.stage.seed, "initial weights"))
        return build_strong_network(self.stage.config)

    def resident(self, images: Images, dtype: torch.dtype) -> Tensor:
        """Normalised images (n, 3, side, side) on the device, as the search holds them."""
        return normalise(to_device(images, self.stage.device)[0][:], images.normalisation, dtype)

    def importance(self, images: Images) -> np.ndarray:
        """Kernel importance (classes, K)."""
        on_device, confidence = to_device(images, self.stage.device), self.stage.config.importance_confidence
        return kernel_importance(self.graph, *on_device, confidence, images.normalisation)[0]

    def alike(self, found: np.ndarray, expected: np.ndarray) -> bool:
        """Whether results differ by no more than rounding, compared with the largest one."""
        tolerance = TOLERANCE[self.stage.device.type] * max(1.0, float(np.abs(expected).max()))
        return float(np.abs(found - expected).max()) <= tolerance


def evaluation(bench: Bench) -> Iterator[Comparison]:
    """Chromosomes as a search begins with, compared with a network and a DataLoader for one of them."""
    config, count = bench.stage.config, bench.sizes["chromosomes"]
    images = bench.split.valid.first(bench.sizes["images"])
    layout = genome_layout(bench.graph.units, config)
    enough = dataclasses.replace(config, population=max(count, config.population))
    genes = first_population(layout, enough, bench.stage.seed, 0)[:count]
    masks = kernel_groups(layout, bench.importance(images.first(1000))[0]).decode(genes)

    def fast(dtype: torch.dtype) -> Work:
        pixels = bench.resident(images, dtype)
        return Work(lambda: population_outputs(bench.graph, masks, [0] * count, pixels), count)

    def slow() -> np.ndarray:
        return naive.module_outputs(
            bench.network, bench.graph.units.spread(masks[0]), 0, naive.batches(images, bench.stage.device)
        )

    works = {name: fast(dtype) for name, dtype in bench.precisions.items()}
    check = lambda expected, found: bench.alike(found["float32"][0], expected)  # noqa: E731
    yield Comparison("evaluation", "chromosome", Work(slow), works, check)


def scoring(bench: Bench) -> Iterator[Comparison]:
    """A generation's ensembles, compared with a Python loop over those of a smaller one; the most survive each round.

    The modules are made up: good ones, whose errors have nothing in common, so harder to score than those of a search.
    """
    seed, sizes = bench.stage.seed, bench.sizes

    def made_up(population: int, num_images: int) -> dict[str, Any]:
        rng, classes = generator(seed, "scoring", population, num_images), range(bench.stage.config.num_classes)
        labels = rng.integers(len(classes), size=num_images)
        skill = rng.uniform(2.5, 3.5, (len(classes), population, 1)).astype(np.float32)
        shape = (population, num_images)
        outputs = [rng.standard_normal(shape, np.float32) + skill[c] * np.float32(labels == c) for c in classes]
        masks = [rng.random((population, bench.graph.units.num_kernels)) < KEPT for _ in classes]
        rules = ScoringRules({}, survivors_min=50, survivors_max=500, accuracy_weight=0.9, distance_weight=0.1)
        return {"outputs": outputs, "masks": masks, "labels": labels, "rules": rules, "seed": seed, "generation": 0}

    small = made_up(sizes["naive_population"], sizes["naive_images"])
    full = made_up(sizes["population"], sizes["images"])
    score = partial(score_population, threads=bench.threads)
    naive_count, count = (score(**instance).num_scored for instance in (small, full))
    works = {"same": Work(lambda: score(**small), naive_count), "full size": Work(lambda: score(**full), count)}
    check = lambda expected, found: naive.same_scores(expected, found["same"])  # noqa: E731
    yield Comparison("scoring", "ensemble", Work(lambda: naive.tournament(**small), naive_count), works, check)


def importance(bench: Bench) -> Iterator[Comparison]:
    """Kernel importance, compared with one image after the other."""
    images, config = bench.split.valid.first(bench.sizes["images"]), bench.stage.config
    part, rest = images.first(bench.sizes["naive_images"]), (config.num_classes, config.importance_confidence)

    def slow() -> np.ndarray:
        return naive.kernel_importance(bench.network, naive.batches(part, bench.stage.device, 1), part.labels, *rest)[0]

    works = {"float32": Work(lambda: bench.importance(images), len(images))}
    check = lambda expected, _: bench.alike(bench.importance(part), expected)  # noqa: E731
    yield Comparison("importance", "image", Work(slow, len(part)), works, check)


def sensitivity(bench: Bench) -> Iterator[Comparison]:
    """The sensitivity of all layers, compared with a network per layer, ratio and class, at some of the points."""
    images, shares = bench.split.valid.first(bench.sizes["images"]), bench.stage.config.sensitivity_ratios
    units, kernels = bench.graph.units, bench.importance(images)
    points = [(layer, index) for layer in units.tied_layers for index in range(len(shares))]
    count = min(bench.sizes["naive_points"], len(points))
    chosen = [points[place] for place in np.linspace(0, len(points), count, endpoint=False, dtype=int) + 1]

    def slow() -> list[float]:
        masks = [units.spread(top_ratio_masks(kernels, units, layer, shares[index])) for layer, index in chosen]
        return [naive.composed_accuracy(bench.network, each, images, bench.stage.device) for each in masks]

    def fast(pixels: Tensor) -> dict[int, np.ndarray]:
        layers = units.tied_layers
        return {c: layer_sensitivity(bench.graph, kernels, c, shares, pixels, images.labels) for c in layers}

    def check(expected: list[float], found: dict[str, Any]) -> bool:
        fast_ones = [found["float32"][layer][index, 1] for layer, index in chosen]
        return float(np.abs(np.subtract(expected, fast_ones)).max()) * len(images) < 1.5  # one image may be a tie

    resident = {name: bench.resident(images, dtype) for name, dtype in bench.precisions.items()}
    works = {name: Work(partial(fast, pixels), len(points)) for name, pixels in resident.items()}
    yield Comparison("sensitivity of all layers", "point", Work(slow, count), works, check)


def training(bench: Bench) -> Iterator[Comparison]:
    """An epoch of training, compared with a DataLoader with Pillow transforms and a plain loop."""
    stage, config, images = bench.stage, bench.stage.config, bench.split.train.first(bench.sizes["images"])
    rate = config.learning_rate / 10  # that of the first steps of a schedule that rises
    batch_size = min(config.batch_size, len(images))
    few: dict[str, Any] = {"epochs": 1, "schedule": "step", "batch_size": batch_size, "learning_rate": rate}
    settings, steps = dataclasses.replace(strong_model_training(config), **few), -(-len(images) // batch_size)

    def slow() -> float:
        network = bench.untrained().to(stage.device)
        return naive.train(network, images, settings, stage.device, stage.seed)[0][0]

    def fast(dtype: torch.dtype) -> float:
        network = bench.untrained().to(stage.device).to(memory_format=torch.channels_last)
        options: dict[str, Any] = {"device": stage.device, "dtype": dtype, "seed": stage.seed}
        return train(network, images, bench.split.valid.first(10), settings, **options).history[0].train_loss

    works = {name: Work(partial(fast, dtype), steps) for name, dtype in bench.precisions.items()}
    check = lambda expected, found: all(abs(x - expected) < expected / 4 for x in found.values())  # noqa: E731
    yield Comparison("training", "step", Work(slow, steps), works, check)


# Each row's function, and its sizes: (full, with --quick).
ROWS: dict[str, tuple[Callable[[Bench], Iterator[Comparison]], dict[str, tuple[int, int]]]] = {
    "evaluation": (evaluation, {"images": (10_000, 40), "chromosomes": (20, 2)}),
    "scoring": (
        scoring,
        {"naive_population": (10, 4), "naive_images": (2_000, 100), "population": (100, 8), "images": (10_000, 300)},
    ),
    "importance": (importance, {"images": (10_000, 60), "naive_images": (500, 30)}),
    "sensitivity": (sensitivity, {"images": (2_000, 30), "naive_points": (3, 1)}),
    "training": (training, {"images": (6_400, 64)}),
}


def measured(comparison: Comparison, repetitions: int, device: torch.device) -> Iterator[dict[str, Any]]:
    """A row for each fast side; the ratio is that of the medians, lowest and highest are over the same turns.

    Raises RuntimeError where the sides do not compute the same: their times would mean nothing.
    """
    works = {"": comparison.naive, **comparison.fast}
    seconds: dict[str, list[float]] = {name: [] for name in works}
    results = {name: work.run() for name, work in works.items()}  # warm
    for _ in range(repetitions):
        for name, work in works.items():
            start = time.perf_counter()
            results[name] = work.run()
            if device.type != "cpu":
                torch.accelerator.synchronize(device)
            seconds[name].append((time.perf_counter() - start) / work.units)
    if not comparison.check(results.pop(""), results):
        raise RuntimeError(f"the naive and the fast side disagree: {comparison.what}")
    for name, work in comparison.fast.items():
        turns = [slow / fast for slow, fast in zip(seconds[""], seconds[name], strict=True)]
        both = [statistics.median(seconds[each]) for each in ("", name)]
        times = (*(1e3 * each for each in both), comparison.naive.units, work.units)
        row = (f"{comparison.what}, {name}", comparison.unit, both[0] / both[1], min(turns), max(turns), *times)
        yield dict(zip(HEADINGS, row, strict=True))


def compare(name: str, stage: Stage, options: argparse.Namespace) -> None:
    """Measure, print and save one row of the table of comparisons."""
    make, defaults = ROWS[name]
    sizes = {key: getattr(options, key) or size[options.quick] for key, size in defaults.items()}
    of_device = {key: dtype for key, dtype in PRECISIONS.items() if options.bfloat16 or is_fast_in(dtype, stage.device)}
    threads, repetitions = options.threads or num_cores(), options.repetitions or (1 if options.quick else 5)
    torch.set_num_threads(threads)
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    compiled_by = " ".join(compiler() or ["none"])
    machine = {**machine_facts("torch"), "device": device_name(stage.device), "threads": threads, "load before": load}
    facts: dict[str, Any] = {**machine, "C++ compiler": compiled_by}
    print(f"\n{name}: {', '.join(f'{key}: {value}' for key, value in {**facts, **sizes}.items())}")
    bench = Bench(stage, sizes, threads, of_device, options)
    rows = [row for comparison in make(bench) for row in measured(comparison, repetitions, stage.device)]
    texts = [[f"{cell:,.4g}" if isinstance(cell, float) else str(cell) for cell in row.values()] for row in rows]
    show_table(list(HEADINGS), texts)
    path = stage.artifacts.root_dir / "data" / "benchmark" / stage.config.name / f"{name}.json"
    made_with = {"command": " ".join(["python", *sys.argv]), "machine": facts, "sizes": sizes}
    save_text(path, json.dumps({**made_with, "repetitions": repetitions, "comparison": rows}, indent=1))
    print(f"saved {path}", flush=True)


def count(text: str) -> int:
    """A number of the command line."""
    if not text.isdecimal() or not 1 <= int(text) < 2**31:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, given {text}")
    return int(text)


def main() -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(ROWS)}; default: all")
    parser.add_argument("--threads", type=count, help="CPU threads, of both sides; default: one per core")
    parser.add_argument("--repetitions", type=count, help="measurements of each; default 5, with --quick 1")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything runs")
    parser.add_argument("--bfloat16", action="store_true", help="measure it without instructions for it, too")
    parser.add_argument("--untrained", action="store_true", help="random weights instead of the strong model's")
    for size in dict.fromkeys(key for _, sizes in ROWS.values() for key in sizes):
        defaults = ", ".join(f"{sizes[size][0]} ({name})" for name, (_, sizes) in ROWS.items() if size in sizes)
        parser.add_argument(f"--{size}", type=count, help=f"how many; default: {defaults}")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in ROWS]:
        raise UserError(f"{unknown[0]}: expected one of {', '.join(ROWS)}")
    stage, failed = open_stage(options), []
    for name in options.names or ROWS:
        try:
            compare(name, stage, options)
        except UserError as error:
            failed.append(f"{name}: {error}")
    if failed:
        raise UserError("; ".join(failed))


if __name__ == "__main__":
    run(main)
