"""From a network's name to the network: `simcnn` is models/simcnn.py, `simcnn_x0_25` the same a quarter as wide."""

import importlib
import re
from pathlib import Path

from configures.setting import SettingError
from models.cnn import CNN, Architecture

WIDTH_SUFFIX = re.compile(r"^(?P<base>\w+?)_x(?P<whole>\d+)_(?P<fraction>\d+)$")


def known_networks() -> list[str]:
    """The files of this folder that define an ARCHITECTURE, sorted."""
    folder = Path(__file__).resolve().parent
    return sorted(path.stem for path in folder.glob("*.py") if "\nARCHITECTURE" in path.read_text(encoding="utf-8"))


def architecture_of(name: str) -> Architecture:
    """The network called `name`, a suffix like `_x0_25` giving its width. Raises SettingError for an unknown one."""
    width_suffix = WIDTH_SUFFIX.match(name)
    base = width_suffix["base"] if width_suffix else name
    if base not in known_networks():
        raise SettingError(
            f"unknown network {name}: expected one of {', '.join(known_networks())}, "
            "or one of these with a width, like simcnn_x0_25"
        )
    architecture: Architecture = importlib.import_module(f"models.{base}").ARCHITECTURE
    if not width_suffix:
        return architecture
    width = float(f"{width_suffix['whole']}.{width_suffix['fraction']}")
    if width <= 0:
        raise SettingError(f"network {name}: expected a width above 0, given {width}")
    return architecture.scaled(width)


def build_network(name: str, num_classes: int, dropout: float | None = None) -> CNN:
    """A freshly initialised network; its weights come from torch's global generator."""
    return CNN(architecture_of(name), num_classes, dropout=dropout)
