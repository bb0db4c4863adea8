"""The two kinds of weak models: overly simple networks, and the strong architecture poorly fitted."""

from enum import Enum

from configures.base import Config
from models.cnn import CNN
from models.registry import build_network


class WeakKind(Enum):
    """How weak models are weak. As text, the name of a kind in paths, settings and seeds."""

    SIMPLE = "weak", "weak", "overly simple"
    POOR = "poor", "poor_fit", "poorly fitted"

    def __init__(self, folder: str, option: str, words: str) -> None:
        self.folder, self.option, self.words = folder, option, words

    def __str__(self) -> str:
        return self.folder


def weak_network_name(config: Config, kind: WeakKind) -> str:
    """The network of the weak models of a kind; poorly fitted ones are as the strong model."""
    return config.weak_model if kind is WeakKind.SIMPLE else config.model


def build_weak_network(config: Config, kind: WeakKind) -> CNN:
    """A freshly initialised weak model; a poorly fitted one has no dropout. Its last class is the target class."""
    dropout = None if kind is WeakKind.SIMPLE else 0.0
    return build_network(weak_network_name(config, kind), len(config.weak_classes) + 1, dropout)
