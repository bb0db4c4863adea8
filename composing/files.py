"""The records of composed classifiers, below `data/composed`."""

from pathlib import Path

from composing.report import ComposedRecord
from utils.artifacts import Artifacts, RecordFile

MADE_BY = "python scripts/compose.py --take MODEL:DATASET:CLASSES"


def record(artifacts: Artifacts, name: str) -> RecordFile[ComposedRecord]:
    """What is known of a composed classifier: what it is made of, and how it compares with its controls."""
    return RecordFile(artifacts.root_dir / "data" / "composed" / f"{name}.json", MADE_BY, ComposedRecord)


def records(artifacts: Artifacts) -> list[RecordFile[ComposedRecord]]:
    """Those that are there, by name."""
    folder = artifacts.root_dir / "data" / "composed"
    return [record(artifacts, path.stem) for path in sorted(folder.glob("*.json"))]


def sub_tasks(artifacts: Artifacts, modules: str) -> Path:
    """The accuracy of classifiers of some of the classes, composed of a module set, as CSV."""
    return artifacts.folder / f"sub_tasks_{modules}.csv"
