"""The genetic search's files, below `ga/`: what the recorder and the explorers write to each other."""

from pathlib import Path

from search.files import SearchFiles
from search.genetic.log import Generation, SearchEnd
from utils.artifacts import ArrayFile, Artifacts, JsonFile, RecordFile, Role, TableFile


def folder(artifacts: Artifacts) -> Path:
    """`ga`."""
    return artifacts.folder / "ga"


def launcher_role(artifacts: Artifacts) -> Role:
    """Starting a recorder and its explorers."""
    return artifacts.role("the module search", "module_search")


def recorder_role(artifacts: Artifacts) -> Role:
    """Scoring the generations."""
    names = ("gen_*_fitness.npy", "search_log.csv", "end.json")
    return artifacts.role("the recorder", "recorder", *(folder(artifacts) / name for name in names))


def explorer_role(artifacts: Artifacts, target_class: int) -> Role:
    """Evolving one class's population."""
    writes = folder(artifacts) / f"gen_*_exp_{target_class}_*"
    return artifacts.role(f"the explorer of class {target_class}", f"explorer_{target_class}", writes)


def of_search(artifacts: Artifacts) -> SearchFiles[Generation]:
    """What it has like other searches: settings, and a log of one row a generation."""
    command = artifacts.command("scripts/run_module_search.py", "--fresh")
    return SearchFiles(folder(artifacts), recorder_role(artifacts), command, Generation)


def settings(artifacts: Artifacts) -> JsonFile:
    """Settings, seed and strong model that the search's files were made with."""
    return of_search(artifacts).settings


def log(artifacts: Artifacts) -> TableFile[Generation]:
    """One row a generation."""
    return of_search(artifacts).log


def end(artifacts: Artifacts) -> RecordFile[SearchEnd]:
    """Written by the recorder when the search is over."""
    return RecordFile(folder(artifacts) / "end.json", artifacts.command("module_recorder.py"), SearchEnd)


def population(artifacts: Artifacts, generation: int, target_class: int) -> ArrayFile:
    """(population, genes) uint8."""
    return _of_explorer(artifacts, generation, target_class, "pop", "uint8")


def outputs(artifacts: Artifacts, generation: int, target_class: int) -> ArrayFile:
    """(population, valid images) float32."""
    return _of_explorer(artifacts, generation, target_class, "outputs", "float32")


def fitness(artifacts: Artifacts, generation: int) -> ArrayFile:
    """(classes, population) float64."""
    back = ("--fresh",) if generation == 0 else ("--checkpoint", str(generation - 1))
    path = folder(artifacts) / f"gen_{generation:03d}_fitness.npy"
    return ArrayFile(path, artifacts.command("module_recorder.py", *back), "float64")


def _of_explorer(artifacts: Artifacts, generation: int, target_class: int, what: str, dtype: str) -> ArrayFile:
    path = folder(artifacts) / f"gen_{generation:03d}_exp_{target_class}_{what}.npy"
    return ArrayFile(path, artifacts.command("module_explorer.py", "--target_class", str(target_class)), dtype)
