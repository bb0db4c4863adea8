"""What a strong model's network is, as it stands beside its weights: later stages take it from there, or refuse."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from configures.base import Config


@dataclass(frozen=True)
class NetworkSettings:
    """The network of a strong model and how it is given images."""

    network: str  # as `models.names` knows it
    num_classes: int
    image_side: int  # in pixels
    resize: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, config: Config) -> "NetworkSettings":
        """Those of a configuration."""
        return cls(config.network_name, *(getattr(config, field.name) for field in fields(cls)[1:]))

    def settings(self) -> dict[str, Any]:
        """The settings of a configuration that has them."""
        return asdict(self)
