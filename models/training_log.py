"""training_log.csv: one row an epoch."""

import dataclasses
import math
from pathlib import Path

from models.training import Epoch
from utils.checked_text import load_table, save_table
from utils.files import damaged

KINDS = {field.name: field.type for field in dataclasses.fields(Epoch)}


def save_training_log(path: Path, history: list[Epoch]) -> None:
    """Write the log whole."""
    save_table(path, list(KINDS), [dataclasses.asdict(epoch) for epoch in history])


def read_training_log(path: Path, made_by: str) -> list[Epoch]:
    """The epochs of a training. Raises UserError where the log is missing or not one."""
    try:
        rows = load_table(path, list(KINDS), made_by)
        history = [Epoch(**{name: KINDS[name](text) for name, text in row.items()}) for row in rows]
        for number, epoch in enumerate(history):
            if epoch.number != number or not all(map(math.isfinite, dataclasses.astuple(epoch))):
                raise ValueError(f"expected finite numbers of epoch {number} in row {number}")
    except (ValueError, OverflowError) as error:
        raise damaged(path, made_by, f"not a training log: {error}") from None
    return history


def best_epoch(history: list[Epoch]) -> int:
    """The first epoch of the best validation accuracy."""
    return max(history, key=lambda epoch: epoch.valid_accuracy).number
