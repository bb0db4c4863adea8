"""Damage every kind of file that the stages write, and see that it is found out or made again.

    python tests/faults/damage_files.py --count 200 --runs 2 --seed 0

Each file is cut at a random length, has a single bit flipped, is emptied or, with a checksum that fits, gets another
shape, dtype, width or a NaN. `--count` damages of each kind of file go through the loader that the stages read it with:
it must refuse the file with one line, or give what was there before (a decoded dataset is decoded again). `--runs` of
them go through the script that reads the file: it must end with one line and exit code 2, or make the file again byte
for byte and go on to what it finds with whole files.
"""

import contextlib
import dataclasses
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from faults import (
    COLLECTOR,
    GRADIENT,
    IMPORTANCE,
    LOOK_EVERY,
    PATCH,
    SEARCH,
    SENSITIVITY,
    SETTINGS,
    TRAIN,
    WEAK_TRAIN,
    Finding,
    Script,
    conclude,
    copy,
    fault_parser,
    faults_of,
    result_of,
    run_to_end,
    stage_in,
    start_forked,
    workshop,
)

from dataset.splits import load_split
from models import files as model_files
from models.opening import Stage
from models.strong_model import (
    build_strong_network,
    check_trained_on,
    graph_of,
    load_strong_model,
    strong_model_training,
)
from models.training import train
from modules import files as module_files
from modules.kernel_importance import check_importance_fits
from modules.module import extract_modules
from modules.module_sets import RECORD, collected_outputs, latest_name, open_set, read_set
from patching import files as patch_files
from patching.data import of_class
from patching.on_disk import kept_epochs, load_patched_weak_models, load_weak_model
from patching.weak_models import WeakKind
from search.genetic import files as genetic_files
from search.genetic import generations
from search.gradient import files as gradient_files
from utils.errors import UserError, run
from utils.files import load_checkpoint, save_array, save_checkpoint
from utils.recorded_settings import record_or_compare

# One generation more than was searched: so the last generation's files are read.
ONE_MORE = tuple(Script(script.path, script.arguments, (*SETTINGS, "generations=4")) for script in SEARCH)
RELATED = 1  # the class whose files are damaged


@dataclass(frozen=True)
class Kind:
    """One kind of file: where one of it is, how it is loaded, and which scripts read it."""

    path: Path
    load: Callable[[], Any]
    scripts: Sequence[Script]


def kinds_in(stage: Stage) -> dict[str, Kind]:
    """Every kind of file of the pipeline, in the root_dir of `stage`."""
    return {**kinds_of_networks(stage), **kinds_of_searches(stage), **kinds_of_patches(stage), **kinds_of_data(stage)}


def kinds_of_networks(stage: Stage) -> dict[str, Kind]:
    """Those of the strong model, what is measured on it, and its modules."""
    config, artifacts, cpu = stage.config, stage.artifacts, stage.device
    classes, kernels = config.num_classes, graph_of(config).units.num_kernels
    strong, state = model_files.entire_model(artifacts), model_files.training_state(artifacts)
    images = model_files.trained_on(artifacts)
    importance, settings = module_files.kernel_importance(artifacts), module_files.importance_settings(artifacts)
    sensitivity = module_files.layer_sensitivity(artifacts, 0)
    modules, of_related = open_set(config, artifacts), of_class(load_split(config).valid, RELATED)
    outputs = module_files.module_outputs(artifacts, RELATED, modules.name)

    def training_state() -> list[Any]:
        """As a training that has nothing left to do takes it up."""
        model, split = build_strong_network(config), load_split(config)
        options = {"device": cpu, "dtype": stage.dtype, "seed": stage.seed, "state_file": state}
        with contextlib.redirect_stdout(io.StringIO()):
            training = train(model, split.train, split.valid, strong_model_training(config), **options)
        return [model.state_dict(), training.best_weights, training.best_epoch, training.history]

    return {
        "strong model": Kind(
            strong.path, lambda: load_strong_model(config, artifacts, cpu).network.state_dict(), [IMPORTANCE]
        ),
        "strong model's images": Kind(
            images.path, lambda: check_trained_on(load_split(config), artifacts), [IMPORTANCE]
        ),
        "training state": Kind(state.path, training_state, [TRAIN]),
        "kernel importance": Kind(importance.path, lambda: importance.load(classes, kernels), [SENSITIVITY]),
        "kernel importance's settings": Kind(settings.path, lambda: check_importance_fits(artifacts), [SENSITIVITY]),
        "layer sensitivity": Kind(
            sensitivity.path, lambda: sensitivity.load(len(config.sensitivity_ratios), 2), [SENSITIVITY]
        ),
        "module": Kind(modules.file(RELATED).path, lambda: modules.module(RELATED, cpu).state_dict(), [PATCH]),
        "module's kernels": Kind(modules.kernels_file(RELATED).path, lambda: modules.mask(RELATED), [PATCH]),
        "module set": Kind(modules.folder / RECORD, lambda: read_set(config, artifacts, modules.name), [PATCH]),
        "latest module set": Kind(module_files.latest_set(artifacts).path, lambda: latest_name(artifacts), [PATCH]),
        "module outputs": Kind(outputs.path, lambda: collected_outputs(stage, modules, RELATED, of_related), [PATCH]),
    }


def kinds_of_searches(stage: Stage) -> dict[str, Kind]:
    """Those of the genetic and of the gradient search."""
    config, artifacts = stage.config, stage.artifacts
    classes, last = config.num_classes, config.generations
    search = generations.open_search(stage)
    population, outputs = (file(artifacts, last, RELATED) for file in (genetic_files.population, genetic_files.outputs))
    fitness, end = genetic_files.fitness(artifacts, last), genetic_files.end(artifacts)
    strong = load_strong_model(config, artifacts, stage.device)
    of_gradient = gradient_files.of_search(artifacts)
    log, settings = of_gradient.log, of_gradient.settings
    num_rounds, made_with = len(log.load()), settings.load()
    masks, weights = of_gradient.kernels(num_rounds - 1), of_gradient.weights(num_rounds - 1, 0)
    num_kernels = search.layout.units.num_kernels

    def gradient_modules() -> list[dict[str, Any]]:
        """As the modules of the last round are written."""
        kept, of_modules = of_gradient.load(num_rounds - 1, strong, range(classes))
        return [module.state_dict() for module in extract_modules(strong, kept, weights=of_modules)]

    return {
        "gradient search's masks": Kind(masks.path, lambda: masks.load(classes, num_kernels), [GRADIENT]),
        "gradient search's weights of a module": Kind(weights.path, gradient_modules, [GRADIENT]),
        "gradient search's log": Kind(log.path, log.load, [GRADIENT]),
        "gradient search's settings": Kind(settings.path, lambda: record_or_compare(settings, made_with), [GRADIENT]),
        "population": Kind(
            population.path, lambda: population.load(config.population, search.layout.num_genes), ONE_MORE
        ),
        "outputs": Kind(outputs.path, lambda: outputs.load(config.population, len(search.images)), ONE_MORE),
        "fitness": Kind(fitness.path, lambda: fitness.load(classes, config.population), ONE_MORE),
        "search_log.csv": Kind(
            genetic_files.log(artifacts).path, lambda: search.resume(checkpoint=None, patience=None), ONE_MORE
        ),
        "settings.json": Kind(genetic_files.settings(artifacts).path, search.record_settings, ONE_MORE),
        "end.json": Kind(end.path, end.load_if_there, ONE_MORE),
    }


def kinds_of_patches(stage: Stage) -> dict[str, Kind]:
    """Those of the weak models."""
    config, artifacts = stage.config, stage.artifacts
    epoch = kept_epochs(artifacts, WeakKind.SIMPLE, RELATED)[-1]
    log = patch_files.weak_model_log(artifacts, WeakKind.SIMPLE, RELATED)
    settings = patch_files.weak_model_settings(artifacts, WeakKind.SIMPLE, RELATED)
    made_with = settings.load()
    configured = made_with.pop("configured")
    (report,) = patch_files.weak_model_folder(artifacts, WeakKind.SIMPLE, RELATED).glob("patch_*.json")
    return {
        "weak model": Kind(
            patch_files.weak_model(artifacts, WeakKind.SIMPLE, RELATED, epoch).path,
            lambda: load_weak_model(config, artifacts, WeakKind.SIMPLE, RELATED, epoch, stage.device).state_dict(),
            [Script(PATCH.path, (*PATCH.arguments, "--target_epoch", str(epoch)))],
        ),
        "weak model's log": Kind(log.path, log.load, [PATCH]),
        "weak model's settings": Kind(
            settings.path, lambda: record_or_compare(settings, made_with, configured), [WEAK_TRAIN]
        ),
        "patch report": Kind(report, lambda: load_patched_weak_models(artifacts, WeakKind.SIMPLE), []),
    }


def kinds_of_data(stage: Stage) -> dict[str, Kind]:
    """Those of a decoded dataset, whose source is still there."""
    folder = stage.artifacts.root_dir / "data" / "decoded_dataset" / "tiny"
    names = {"images": "train_images.npy", "labels": "train_labels.npy", "description": "description.json"}
    return {
        f"decoded {what}": Kind(folder / name, lambda: load_split(stage.config), [IMPORTANCE])
        for what, name in names.items()
    }


def damage(path: Path, random: np.random.Generator) -> str:
    """Damage a file in place, and say how."""
    ways = {"cut": cut, "bit flipped": flip_bit, "emptied": empty}
    if path.suffix == ".npy":
        ways |= {"another shape": reshape, "another dtype": retype, "another width": widen, "NaN": spoil}
    if path.suffix == ".pth":
        ways |= {"another shape": reshape_weights, "another dtype": retype_weights, "NaN": spoil_weights}
    whole = path.read_bytes()
    while True:
        way = str(random.choice(list(ways)))
        ways[way](path, random)
        if path.read_bytes() != whole:
            return way


def cut(path: Path, random: np.random.Generator) -> None:
    """Keep the first bytes alone."""
    content = path.read_bytes()
    path.write_bytes(content[: random.integers(len(content))])


def flip_bit(path: Path, random: np.random.Generator) -> None:
    """Change one bit."""
    content = bytearray(path.read_bytes())
    content[random.integers(len(content))] ^= 1 << int(random.integers(8))
    path.write_bytes(content)


def empty(path: Path, random: np.random.Generator) -> None:
    """Keep nothing."""
    path.write_bytes(b"")


def reshape(path: Path, random: np.random.Generator) -> None:
    """One entry fewer along the first axis."""
    save_array(path, np.load(path)[:-1])


def retype(path: Path, random: np.random.Generator) -> None:
    """The same values in another dtype."""
    array = np.load(path)
    save_array(path, array.astype(np.float16 if array.dtype != np.float16 else np.float32))


def widen(path: Path, random: np.random.Generator) -> None:
    """Twice as long along the last axis, as a file of a wider network."""
    save_array(path, np.repeat(np.load(path), 2, axis=-1))


def spoil(path: Path, random: np.random.Generator) -> None:
    """A NaN at a random place; other kinds of numbers have none."""
    array = np.load(path)
    if array.dtype.kind == "f":
        array.flat[random.integers(array.size)] = np.nan
        save_array(path, array)


def _change_weights(path: Path, random: np.random.Generator, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    state = load_checkpoint(path, "the pipeline")
    tensors = list(_tensors_in(state["weights"] if "history" in state else state))
    holder, name = tensors[random.integers(len(tensors))]
    holder[name] = change(holder[name])
    save_checkpoint(path, state)


def _tensors_in(state: Any) -> Iterator[tuple[Any, Any]]:
    """Where the tensors are, at any depth: the dict or list, and the key or index."""
    for name, value in state.items() if isinstance(state, dict) else enumerate(state):
        if isinstance(value, torch.Tensor):
            yield state, name
        elif isinstance(value, dict | list):
            yield from _tensors_in(value)


def reshape_weights(path: Path, random: np.random.Generator) -> None:
    """One tensor of another width."""
    _change_weights(path, random, lambda tensor: torch.cat([tensor, tensor]))


def retype_weights(path: Path, random: np.random.Generator) -> None:
    """One tensor of another dtype."""
    _change_weights(path, random, torch.Tensor.double)


def spoil_weights(path: Path, random: np.random.Generator) -> None:
    """A NaN in one tensor."""

    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.clone()
        tensor.flatten()[0] = torch.nan
        return tensor

    _change_weights(path, random, change)


def is_same(first: Any, second: Any) -> bool:
    """Whether two loaded values are equal, arrays and tensors within them too."""
    if dataclasses.is_dataclass(first):
        return type(first) is type(second) and is_same(vars(first), vars(second))
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, np.ndarray):
        return first.dtype == second.dtype and np.array_equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(is_same(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(is_same, first, second))
    return bool(first == second)


def main() -> None:
    parser = fault_parser(
        __doc__,
        count=(200, "damages of each kind of file that go through its loader"),
        runs=(2, "damages of each kind that go through the script"),
    )
    arguments = parser.parse_args()
    stages = ([TRAIN], [IMPORTANCE], [SENSITIVITY], [GRADIENT], SEARCH, [COLLECTOR], [WEAK_TRAIN], [PATCH])
    with workshop(*stages) as place:
        root = place / "start"
        through_loaders = load_damaged(copy(root, "loaders"), arguments.count, arguments.seed)
        through_scripts = run_damaged(root, arguments.runs, arguments.seed)
    conclude(
        "damage_files",
        [finding("damaged, loader", through_loaders), finding("damaged, script", through_scripts)],
        {"loaders": through_loaders, "scripts": through_scripts},
    )


def finding(what: str, rows: list[dict[str, Any]]) -> Finding:
    """The table's row over all kinds of files."""
    total = {key: sum(row[key] for row in rows) for key in ("damaged", "refused", "same", "wrong")}
    figures = f"{len(rows)} kinds; {total['refused']} refused with one line, {total['same']} made again or harmless"
    return Finding(what, total["damaged"], total["damaged"] - total["wrong"], figures)


def load_damaged(root: Path, count: int, seed: int) -> list[dict[str, Any]]:
    """Per kind: how many damaged files were refused, loaded as what was there before, and loaded as something else."""
    stage = stage_in(root)
    rows = []
    for what, kind in kinds_in(stage).items():
        random, expected = faults_of(seed, f"damage {what}"), kind.load()
        before = {path: path.read_bytes() for path in kind.path.parent.iterdir() if path.is_file()}
        row: dict[str, Any] = {"kind": what, "damaged": count, "refused": 0, "same": 0, "wrong": 0, "ways": {}}
        for _ in range(count):
            way = damage(kind.path, random)
            verdict = verdict_of(kind, expected)
            row[verdict] += 1
            if verdict == "wrong":
                row["ways"][way] = row["ways"].get(way, 0) + 1
            for path, content in before.items():
                if not path.exists() or path.read_bytes() != content:
                    path.write_bytes(content)
        rows.append(row)
        print(", ".join(f"{name}: {value}" for name, value in row.items()), flush=True)
    return rows


def verdict_of(kind: Kind, expected: Any) -> str:
    """`refused` with a message that names a file there, `same` as before, or `wrong`."""
    try:
        return "same" if is_same(kind.load(), expected) else "wrong"
    except UserError as error:
        return "refused" if str(kind.path.parent) in str(error) else "wrong"


def run_damaged(root: Path, count: int, seed: int) -> list[dict[str, Any]]:
    """Per kind: how many damaged files a script refused, or made again and ended as with whole files."""
    expected: dict[tuple[Script, ...], dict[str, bytes]] = {}
    rows = []
    for what, kind in kinds_in(stage_in(root)).items():
        if not kind.scripts:
            continue
        scripts = tuple(kind.scripts)
        if scripts not in expected:
            undisturbed = copy(root, "undisturbed")
            run_to_end(scripts, undisturbed)
            expected[scripts] = result_of(undisturbed)
        random = faults_of(seed, f"damage {what} on disk")
        row: dict[str, Any] = {"kind": what, "damaged": count, "refused": 0, "same": 0, "wrong": 0, "said": []}
        for _ in range(count):
            damaged = copy(root, "damaged")
            file = damaged / kind.path.relative_to(root)
            way = damage(file, random)
            verdict, said = outcome_of(scripts, damaged, expected[scripts], file)
            row[verdict] += 1
            row["said"].append(f"{way}: {said}")
        rows.append(row)
        print(", ".join(f"{name}: {value}" for name, value in row.items()), flush=True)
    return rows


def outcome_of(scripts: Sequence[Script], root: Path, expected: dict[str, bytes], file: Path) -> tuple[str, str]:
    """What became of scripts on a damaged file: `refused`, `same` or `wrong`, and the line that they ended with.

    The same without the file is `same` too: outputs that spare the next generation some work are not missed.
    """
    processes = [start_forked(script, root) for script in scripts]
    while any(process.exit_code is None for process in processes) and not any(p.exit_code for p in processes):
        processes[0].process.join(LOOK_EVERY)
    failed = [process for process in processes if process.exit_code]
    if not failed:
        needed = {name: content for name, content in expected.items() if file.exists() or root / "data" / name != file}
        return ("same" if result_of(root) == needed else "wrong"), ""
    for process in processes:
        process.process.kill()
        process.wait()
    lines = [line for line in failed[0].said().splitlines() if line]
    one_line = failed[0].exit_code == 2 and sum(line.startswith("error:") for line in lines) == 1
    return ("refused" if one_line and "Traceback" not in failed[0].said() else "wrong"), lines[-1]


if __name__ == "__main__":
    run(main)
