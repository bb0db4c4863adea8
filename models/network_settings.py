"""What a strong model's network is, as it stands beside its weights: later stages take it from there, or refuse."""

from dataclasses import asdict, dataclass, fields, replace

from configures.base import Config
from models.names import anchored, are_same
from utils.recorded_settings import differences


@dataclass(frozen=True)
class NetworkSettings:
    """The network of a strong model and how it is given images; its fields are called like the settings."""

    network: str  # as `models.names` knows it
    num_classes: int
    image_side: int  # in pixels
    resize: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, config: Config) -> "NetworkSettings":
        """Those of a configuration."""
        return cls(anchored(config.network_name), *(getattr(config, field.name) for field in fields(cls)[1:]))

    def difference_from(self, now: "NetworkSettings") -> str:
        """What differs, as there and now; nothing where both are of the same network and form of images."""
        there = replace(self, network=now.network) if are_same(self.network, now.network) else self
        return differences(asdict(there), asdict(now))
