"""The two kinds of weak models: overly simple networks, and the strong architecture poorly fitted."""

from enum import Enum

from torch import nn

from configures.base import Config
from models.names import network_of

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


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
    return config.weak_model if kind is WeakKind.SIMPLE else config.network_name


def build_weak_network(config: Config, kind: WeakKind) -> nn.Module:
    """A freshly initialised weak model; a poorly fitted one has no dropout. Its last class is the target class."""
    network = network_of(weak_network_name(config, kind), len(config.weak_classes) + 1, config.image_side)
    if kind is WeakKind.POOR:
        for layer in network.modules():
            if isinstance(layer, DROPOUTS):
                layer.p = 0.0
    return network
