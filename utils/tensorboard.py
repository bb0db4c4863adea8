"""Numbers of a training or a search for TensorBoard: with `--tensorboard`, in event files; else nowhere."""

import argparse
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from utils.errors import UserError, reason

_folder: Path | None = None  # where event files go; None: nobody asked for them
_writer: Any = None  # torch's SummaryWriter, from the first number on


def add_tensorboard(parser: argparse.ArgumentParser) -> None:
    """The option `--tensorboard` of the scripts that train."""
    parser.add_argument("--tensorboard", action="store_true", help="write curves to the folder's subfolder tensorboard")


def check_tensorboard() -> None:
    """Raises UserError where TensorBoard is not installed."""
    _writer_class()


@contextmanager
def tensorboard(folder: Path, is_asked: bool) -> Iterator[None]:
    """Within it, `scalar` writes to `folder`/tensorboard, if that is asked for.

    The folder is made with the first number, so that a stage which is refused leaves none.
    """
    global _folder, _writer
    _folder = folder / "tensorboard" if is_asked else None
    try:
        yield
    finally:
        if _writer is not None:
            _writer.close()
        _folder = _writer = None


def scalar(name: str, value: float, step: int) -> float:
    """Write a number of a step, round or epoch, where that is asked for, and return it."""
    global _writer
    if _folder is not None:
        _writer = _writer or _writer_class()(str(_folder))
        _writer.add_scalar(name, value, step)
    return value


def _writer_class() -> Any:
    try:
        return importlib.import_module("torch.utils.tensorboard").SummaryWriter
    except ImportError as error:
        raise UserError(
            f"--tensorboard needs tensorboard ({reason(error)}); first run: pip install -e .[tensorboard]"
        ) from None
