"""What the benchmarks share: sizes and options, timing in turns, the machine, tables and JSON."""

import json
import os
import platform
import statistics
import sys
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from models.opening import Stage, open_stage
from modules.fast.compiled import compiler
from utils.device import PRECISIONS, is_fast_in, num_cores, processor
from utils.files import save_text
from utils.tables import show_table

Row = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """How much a benchmark measures on."""

    full: int
    quick: int  # with --quick
    sentence: str


@dataclass(frozen=True)
class Benchmark:
    """One run of one benchmark."""

    name: str
    stage: Stage
    sizes: dict[str, int]
    threads: int
    repetitions: int
    precisions: dict[str, torch.dtype]  # of the fast side: float32, and bfloat16 where the device is fast in it
    options: Namespace


def add_options(parser: ArgumentParser, sizes: Mapping[str, str]) -> None:
    """What all benchmarks take, with one option per size (its name -> what it is)."""
    parser.add_argument("--threads", type=_positive, help="CPU threads, of both sides; default: one per core")
    parser.add_argument("--repetitions", type=_positive, help="measurements of each; default 5, with --quick 1")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything runs")
    parser.add_argument(
        "--bfloat16", action="store_true", help="measure it where the device has no instructions for it, too"
    )
    parser.add_argument("--untrained", action="store_true", help="random weights instead of the strong model's")
    for name, sentence in sizes.items():
        parser.add_argument(f"--{name}", type=_positive, help=sentence)


def _positive(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) < 2**31:
        raise ArgumentTypeError(f"expected a whole number of at least 1, given {text}")
    return int(text)


def open_benchmark(arguments: Namespace, name: str, sizes: dict[str, Size]) -> Benchmark:
    """Settings, files and device; torch uses the asked threads from here on. Prints what is measured on."""
    stage, threads = open_stage(arguments), arguments.threads or num_cores()
    torch.set_num_threads(threads)
    resolved = {
        key: getattr(arguments, key) or (size.quick if arguments.quick else size.full) for key, size in sizes.items()
    }
    precisions = {
        precision: dtype
        for precision, dtype in PRECISIONS.items()
        if arguments.bfloat16 or is_fast_in(dtype, stage.device)
    }
    repetitions = arguments.repetitions or (1 if arguments.quick else 5)
    benchmark = Benchmark(name, stage, resolved, threads, repetitions, precisions, arguments)
    print(f"\n{name}: {', '.join(f'{key}: {value}' for key, value in {**machine(benchmark), **resolved}.items())}")
    return benchmark


def machine(benchmark: Benchmark) -> dict[str, Any]:
    """What a figure must travel with."""
    device = benchmark.stage.device
    return {
        "processor": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "cores": num_cores(),
        "threads": benchmark.threads,
        "precisions": " ".join(benchmark.precisions),
        "load before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "C++ compiler": " ".join(compiler() or ["none"]),
    }


@dataclass(frozen=True)
class Work:
    """Something to time."""

    run: Callable[[], Any]
    units: int = 1  # how many of the counted things one run does


@dataclass(frozen=True)
class Timing:
    """What timing it gave."""

    seconds: tuple[float, ...]  # of each repetition
    units: int
    result: Any  # of the last repetition

    @property
    def per_unit(self) -> float:
        """Median seconds of one unit."""
        return statistics.median(self.seconds) / self.units


def time_in_turns(
    works: dict[str, Work], repetitions: int, device: torch.device, *, warm_up: bool = True
) -> dict[str, Timing]:
    """Time each work `repetitions` times, taking turns, so that a busy moment of the machine meets all of them."""
    if warm_up:
        for work in works.values():
            work.run()
    seconds: dict[str, list[float]] = {name: [] for name in works}
    results: dict[str, Any] = {}
    for _ in range(repetitions):
        for name, work in works.items():
            _synchronize(device)
            start = time.perf_counter()
            results[name] = work.run()
            _synchronize(device)
            seconds[name].append(time.perf_counter() - start)
    return {name: Timing(tuple(seconds[name]), works[name].units, results[name]) for name in works}


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def exact_results(
    works: dict[str, Work], timings: dict[str, Timing], device: torch.device, *names: str
) -> dict[str, Any]:
    """What the named give in float32 proper: CUDA convolves it in TF32, of ten bits, so there each is run once more."""
    if device.type != "cuda":
        return {name: timings[name].result for name in names}
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        return {name: works[name].run() for name in names}
    finally:
        torch.backends.cudnn.allow_tf32 = before


def compare(what: str, unit: str, naive: Timing, fast: Timing) -> Row:
    """One row: how many times faster, and what both sides take for one unit.

    The ratio is that of the medians; lowest and highest are over the repetitions of the two in the same turn. `units`
    says on how many each side was measured: the naive one may have been given a part.
    """
    turns = [
        (slow / naive.units) / (quick / fast.units) for slow, quick in zip(naive.seconds, fast.seconds, strict=False)
    ]
    return {
        "ratio": naive.per_unit / fast.per_unit,
        "lowest": min(turns),
        "highest": max(turns),
        "what": what,
        "unit": unit,
        "naive ms": naive.per_unit * 1e3,
        "fast ms": fast.per_unit * 1e3,
        "naive units": naive.units,
        "fast units": fast.units,
    }


def show_rows(title: str, rows: list[Row]) -> None:
    """Print rows, which have the same keys, as a table."""
    print(f"\n{title}")
    show_table(list(rows[0]), [[readable(value) for value in row.values()] for row in rows])
    sys.stdout.flush()


def readable(value: Any) -> str:
    """A number for people: three digits of a fraction, thousands marked."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if type(value) is int else str(value)


def save_benchmark(benchmark: Benchmark, tables: dict[str, list[Row]]) -> None:
    """Print the tables, and write data/benchmark/MODEL_DATASET/NAME.json: the machine, the sizes, and the tables."""
    for title, rows in tables.items():
        show_rows(title, rows)
    config, artifacts = benchmark.stage.config, benchmark.stage.artifacts
    path = artifacts.root_dir / "data" / "benchmark" / config.name / f"{benchmark.name}.json"
    content = {
        "command": " ".join(["python", *sys.argv]),
        "machine": machine(benchmark),
        "sizes": benchmark.sizes,
        "repetitions": benchmark.repetitions,
        **tables,
    }
    save_text(path, json.dumps(content, indent=1) + "\n")
    print(f"\nsaved {path}")


def must_agree(agree: bool, what: str) -> None:
    """Raises RuntimeError where the two sides do not compute the same: their times would mean nothing."""
    if not agree:
        raise RuntimeError(f"the naive and the fast side disagree: {what}")
