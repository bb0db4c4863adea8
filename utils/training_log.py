"""training_log.csv: one row an epoch."""

import dataclasses
from pathlib import Path

from utils.checked_text import csv_text, read_csv
from utils.files import damaged, save_text
from utils.training import Epoch


def save_training_log(path: Path, history: list[Epoch]) -> None:
    """Write the log whole."""
    columns = [field.name for field in dataclasses.fields(Epoch)]
    save_text(path, csv_text(columns, map(dataclasses.asdict, history)))


def read_training_log(path: Path, made_by: str) -> list[Epoch]:
    """The epochs of a training. Raises UserError where the log is missing or not one."""
    rows = read_csv(path, made_by)
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
