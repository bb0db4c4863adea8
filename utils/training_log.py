"""training_log.csv: one row an epoch."""

import csv
import dataclasses
import io
from pathlib import Path

from utils.files import damaged, read_text, save_text
from utils.training import Epoch


def save_training_log(path: Path, history: list[Epoch]) -> None:
    """Write the log whole."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in dataclasses.fields(Epoch)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(dataclasses.asdict(epoch) for epoch in history)
    save_text(path, text.getvalue())


def read_training_log(path: Path, made_by: str) -> list[Epoch]:
    """The epochs of a training. Raises UserError where the log is missing or not one."""
    rows = csv.DictReader(io.StringIO(read_text(path, made_by)))
    kinds = {field.name: field.type for field in dataclasses.fields(Epoch)}
    try:
        history = [Epoch(**{name: kinds[name](text) for name, text in row.items()}) for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path, made_by, f"not a training log: {error}") from None
    if not history:
        raise damaged(path, made_by, "it has no epochs")
    return history


def best_epoch(history: list[Epoch]) -> int:
    """The first epoch of the best validation accuracy."""
    return max(history, key=lambda epoch: epoch.valid_accuracy).number
