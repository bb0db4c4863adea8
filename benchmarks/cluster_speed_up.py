"""How many times faster a genetic search is on 1 to 1,024 workers: predicted from costs that are measured here.

    python benchmarks/cluster_speed_up.py --model simcnn --dataset cifar10 --untrained

Measured are what a module takes, alone and in chunks whose modules share their beginnings, in processor seconds of one
core; breeding, writing and scoring of a generation; and what a task on Ray costs the driver. A simulation of the driver
and its workers, which cuts generations by the search's own function, puts them together for the published scale: 100
chromosomes x 10 classes x 10,000 images, 200 generations. It is checked on Ray clusters of 1, 2 and 4 workers on this
machine, with tasks that wait instead of computing, so that workers do not share its cores. Modules are timed on fewer
images and scaled up. Writes data/benchmark/MODEL_DATASET/cluster_speed_up.json, and .csv, .png and .svg with the
predictions.
"""

import heapq
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from answering import answer
from matplotlib.ticker import FixedLocator
from measuring import Benchmark, Size, add_options, open_benchmark, save_benchmark
from subjects import first_masks, model_to_measure, resident, scoring_instance

from dataset.splits import load_split
from engines.engine import Engine
from engines.opening import check_ray_is_there
from models.graph import Graph
from models.opening import stage_parser
from modules.population_outputs import population_outputs
from report.figures import PALETTE, Drawing, new_figure, save_drawing, styled
from search.genetic.chunks import block_chunks, image_blocks
from search.genetic.kernel_groups import genome_layout
from search.genetic.operators import next_generation
from search.genetic.tournament import score_population
from utils.errors import run
from utils.files import save_array
from utils.seeds import generator

SIZES = {
    "images": Size(200, 4, "images that modules are timed on"),
    "modules": Size(32, 4, "modules of one class that are timed, alone and in chunks"),
    "generations": Size(201, 3, "generations of the published scale, the first one included"),
    "chromosomes": Size(100, 8, "chromosomes per class of the published scale"),
    "scored_images": Size(10_000, 40, "images of the published scale"),
    "tasks": Size(400, 20, "empty tasks, which show what a task costs"),
    "check_modules": Size(160, 12, "modules of the searches on Ray that the simulation is checked with"),
}
NUM_CLASSES, KNOWN = 10, 0.2  # the share of a generation that is known: the elites
CHECKED_WORKERS = (1, 2, 4)
CHECK_SECONDS = 0.25  # that a module waits on average in the check


@dataclass(frozen=True)
class Costs:
    """What a search is made of; seconds."""

    modules: np.ndarray  # (samples,) one module on all images, evaluated alone
    set_up: float  # of that, what a module takes before its first image
    kept: np.ndarray  # (samples,) the units that it keeps, by which the driver expects what it takes
    in_chunks: dict[int, float]  # modules of a chunk -> what one takes of what it takes alone
    serial: float  # of a generation: breeding, writing, scoring
    submit: float  # a task, of the driver's time
    receive: float  # a task and its answer, of the driver's time
    per_byte: float  # of an answer, in addition to that
    latency: float  # from a worker that is free to its next task
    answer_bytes: int  # of one module


def main() -> None:
    parser = stage_parser(__doc__)
    add_options(parser, {name: size.sentence for name, size in SIZES.items()})
    arguments = parser.parse_args()
    check_ray_is_there("cluster_speed_up.py")
    benchmark = open_benchmark(arguments, "cluster_speed_up", SIZES)
    graph = model_to_measure(benchmark.stage, untrained=arguments.untrained)
    costs = measure(benchmark, graph)
    sizes = benchmark.sizes
    rows = predictions(costs, sizes["generations"], sizes["chromosomes"] * NUM_CLASSES)
    checks = checked(benchmark, costs)
    path = benchmark.stage.artifacts.root_dir / "data" / "benchmark" / benchmark.stage.config.name
    measured = {**asdict(costs), "modules": costs.modules.tolist(), "kept": costs.kept.tolist()}
    save_drawing(drawing(rows, costs), path / benchmark.name)
    save_benchmark(benchmark, {"predicted": rows, "checks": checks, "costs": [measured]})


# What is measured
def measure(benchmark: Benchmark, graph: Graph) -> Costs:
    """All costs, those of modules scaled to as many images as are scored."""
    stage, sizes = benchmark.stage, benchmark.sizes
    torch.set_num_threads(1)  # as a worker
    images = load_split(stage.config).valid.first(sizes["images"])
    masks = first_masks(stage, graph, images, sizes["modules"])[0]
    masks = masks[np.lexsort(masks.T[::-1])]  # as the search hands them out
    pixels = resident(images, stage, stage.dtype)
    alone, half = (
        np.array([seconds_of(graph, masks[place : place + 1], some) for place in range(len(masks))])
        for some in (pixels, pixels[: len(pixels) // 2])
    )
    set_up = float(np.clip(2 * half.sum() - alone.sum(), 0, half.sum())) / len(masks)
    in_chunks = {1: 1.0}
    while (size := 2 * max(in_chunks)) <= len(masks):
        chunked = sum(seconds_of(graph, masks[start : start + size], pixels) for start in range(0, len(masks), size))
        in_chunks[size] = chunked / alone.sum()
    per_module = sizes["scored_images"] * np.dtype(np.float32).itemsize
    submit, receive, latency, per_byte = engine_costs(sizes["tasks"], per_module)
    scale = sizes["scored_images"] / len(images)
    torch.set_num_threads(benchmark.threads)
    serial = serial_seconds(benchmark, graph)
    return Costs(
        modules=set_up + (alone - set_up) * scale,
        set_up=set_up,
        kept=masks.sum(1),
        in_chunks=in_chunks,
        serial=serial,
        submit=submit,
        receive=receive,
        per_byte=per_byte,
        latency=latency,
        answer_bytes=per_module,
    )


def seconds_of(graph: Graph, masks: np.ndarray, pixels: torch.Tensor) -> float:
    """What a chunk of modules takes, in processor seconds: other work on the machine does not count."""
    start = time.process_time()
    population_outputs(graph, masks, [0] * len(masks), pixels)
    return time.process_time() - start


def serial_seconds(benchmark: Benchmark, graph: Graph) -> float:
    """Breeding, writing and scoring a generation of the published scale: what the driver does alone."""
    config, sizes = benchmark.stage.config, benchmark.sizes
    chromosomes, num_images = sizes["chromosomes"], sizes["scored_images"]
    instance = scoring_instance(NUM_CLASSES, chromosomes, num_images, graph.units.num_kernels, 0)
    num_genes = genome_layout(graph.units, config).num_genes
    population = generator(0, "population").integers(0, 2, (chromosomes, num_genes), np.uint8)
    folder = benchmark.stage.artifacts.root_dir / "data" / "benchmark" / "written"
    start = time.perf_counter()
    for target_class in range(NUM_CLASSES):
        next_generation(population, np.arange(chromosomes, dtype=float), config, 0, target_class, 1)
        save_array(folder / f"{target_class}.npy", instance.outputs[target_class])
    score_population(instance.outputs, instance.masks, instance.labels, instance.rules, seed=0, generation=0)
    return time.perf_counter() - start


def ray_engine(count: int) -> Engine:
    """A Ray cluster on this machine."""
    from engines.on_ray import RayEngine  # an extra: not everybody has it

    return RayEngine(count=count)


def engine_costs(tasks: int, num_bytes: int) -> tuple[float, float, float, float]:
    """Seconds to submit a task, to receive its answer, between two tasks on a worker, and of an answer's byte."""
    with ray_engine(1) as engine:
        answer_all(engine, [0.0] * 4, 8)  # starts the worker
        submit, small = answer_all(engine, [0.0] * tasks, 8)
        _, large = answer_all(engine, [0.0] * tasks, num_bytes)
        _, waiting = answer_all(engine, [0.02] * (tasks // 4), 8)
    # Of tasks that wait, what is beyond the waiting passes between the end of one and the start of the next.
    latency = max(0.0, waiting / (tasks // 4) - 0.02)
    return submit / tasks, small / tasks, latency, max(0.0, large - small) / (tasks * num_bytes)


def answer_all(engine: Engine, seconds: list[float], num_bytes: int) -> tuple[float, float]:
    """What submitting, and then receiving, tasks that wait takes."""
    start = time.perf_counter()
    for key, waits in enumerate(seconds):
        engine.submit(key, answer, waits, num_bytes)
    submitted = time.perf_counter()
    for _ in engine.results():
        pass
    return submitted - start, time.perf_counter() - submitted


# What is predicted
def generation_seconds(
    costs: Costs, workers: int, seconds: np.ndarray, expected: np.ndarray, *, serial: float
) -> float:
    """A generation whose modules take `seconds` (modules,) alone and are expected to take `expected`."""
    free, ends = [0.0] * workers, []
    tasks = waits(costs, workers, seconds, expected)
    for number, (work, num_bytes) in enumerate(tasks, 1):
        end = max(heapq.heappop(free), number * costs.submit) + costs.latency + work
        heapq.heappush(free, end)
        ends.append((end, num_bytes))
    driver = len(tasks) * costs.submit
    for end, num_bytes in sorted(ends):  # one after the other
        driver = max(driver, end) + costs.receive + num_bytes * costs.per_byte
    return driver + serial


def waits(costs: Costs, workers: int, seconds: np.ndarray, expected: np.ndarray) -> list[tuple[float, int]]:
    """The tasks of a generation, cut as the search does: seconds, and bytes of the answer."""
    blocks, tasks = image_blocks(expected, workers), []
    sizes, shares = zip(*sorted(costs.in_chunks.items()), strict=True)
    for _, chunk in block_chunks(expected, workers, blocks):
        size = chunk.stop - chunk.start
        work = size * costs.set_up + (seconds[chunk].sum() - size * costs.set_up) / blocks
        share = np.interp(np.log2(size), np.log2(sizes), shares)
        tasks.append((float(work * share), size * costs.answer_bytes // blocks))
    return tasks


def predictions(costs: Costs, generations: int, population: int) -> list[dict[str, Any]]:
    """A row for each number of workers."""
    rows: list[dict[str, Any]] = []
    for workers in 2 ** np.arange(11):
        random = generator(0, "cluster speed-up")  # the same modules for any number of workers
        total = 0.0
        for generation in range(generations):
            count = population if generation == 0 else round(population * (1 - KNOWN))
            drawn = random.integers(len(costs.modules), size=count)
            expected = costs.kept[drawn] * (costs.modules.mean() / costs.kept.mean())
            total += generation_seconds(costs, int(workers), costs.modules[drawn], expected, serial=costs.serial)
        speed_up = (rows[0]["hours"] * 3600 if rows else total) / total
        rows.append(
            {
                "workers": int(workers),
                "hours": total / 3600,
                "speed-up": speed_up,
                "efficiency": speed_up / float(workers),
                "of which the driver alone": costs.serial * generations / total,
            }
        )
    return rows


def checked(benchmark: Benchmark, costs: Costs) -> list[dict[str, Any]]:
    """Predicted and measured seconds of a generation of tasks that wait, by the number of workers."""
    random, count = generator(0, "cluster check"), benchmark.sizes["check_modules"]
    drawn = random.integers(len(costs.modules), size=count)
    costs = replace(costs, set_up=0.0)
    seconds = costs.modules[drawn] * (CHECK_SECONDS / costs.modules.mean())
    expected = costs.kept[drawn] * (CHECK_SECONDS / costs.kept.mean())
    rows = []
    for workers in (1,) if benchmark.options.quick else CHECKED_WORKERS:
        with ray_engine(workers) as engine:
            answer_all(engine, [0.5] * workers, 8)  # starts the workers
            tasks = waits(costs, workers, seconds, expected)
            submitting, receiving = answer_all(engine, [work for work, _ in tasks], costs.answer_bytes)
        measured = submitting + receiving
        predicted = generation_seconds(costs, workers, seconds, expected, serial=0.0)
        rows.append(
            {
                "workers": workers,
                "tasks": len(tasks),
                "waiting s": sum(work for work, _ in tasks) / workers,
                "predicted s": predicted,
                "measured s": measured,
            }
        )
    return rows


@styled
def drawing(rows: list[dict[str, Any]], costs: Costs) -> Drawing:
    """Speed-up by the number of workers."""
    figure = new_figure(5.5, 4)
    axes = figure.subplots()
    workers = [row["workers"] for row in rows]
    axes.loglog(workers, workers, color=PALETTE[7], linestyle="--", base=2, label="as many times as workers")
    axes.loglog(workers, [row["speed-up"] for row in rows], "o-", color=PALETTE[0], base=2, label="predicted")
    bound = rows[-1]["speed-up"] / rows[-1]["of which the driver alone"]
    axes.axhline(bound, color=PALETTE[3], linestyle=":", label="breeding, writing and scoring alone")
    axes.set(xlabel="workers", ylabel="times as fast as one", title="A search of the published scale")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator(workers))
        axis.set_major_formatter(lambda count, _: f"{count:,.0f}")
    axes.tick_params(axis="x", labelrotation=60)
    axes.grid()
    axes.legend(loc="lower right")
    last = rows[-1]
    finding = (
        f"On {last['workers']:,} workers the search is predicted to be {last['speed-up']:.0f} times as fast as on one. "
        f"A module takes {costs.modules.mean():.1f} s, the driver {costs.serial:.1f} s of each generation."
    )
    return Drawing(figure, finding, tuple(rows[0]), [list(row.values()) for row in rows])


if __name__ == "__main__":
    run(main)
