"""Which strong model modules were cut from: the network, its structure and its weights."""

from dataclasses import dataclass

from configures.base import Config
from models.files import changed_graph, torch_version
from models.graph import Graph
from models.names import anchored, are_same


@dataclass(frozen=True)
class SourceNetwork:
    """The network of the strong model, its structure and its weights."""

    network: str  # its name, as the configuration gives it
    num_classes: int
    image_side: int  # in pixels
    digest: str  # of the graph
    torch: str  # the version that traced it
    strong_model_sha256: str = ""  # of its checkpoint, if there is one

    @classmethod
    def of(cls, graph: Graph, config: Config, strong_model_sha256: str = "") -> "SourceNetwork":
        """What is written of a graph now, and of the checkpoint that its weights are from, if there is one."""
        form = graph.num_classes, graph.image_shape[1], graph.digest, torch_version()
        return cls(anchored(config.network_name), *form, strong_model_sha256)

    def difference_from(self, now: "SourceNetwork") -> str:
        """What differs, as there and now; nothing if modules of the one are modules of the other.

        Another version of torch may trace the same network to another graph: then masks and weights decide.
        """
        if not are_same(self.network, now.network):
            return f"network {self.network} there, {now.network} now"
        for name in ("num_classes", "image_side"):
            there, here = getattr(self, name), getattr(now, name)
            if there != here:
                return f"{name} {there} there, {here} now"
        if self.torch == now.torch and (changed := changed_graph(self.network, self.digest, now.digest)):
            return changed
        there, here = self.strong_model_sha256, now.strong_model_sha256
        if there and here and there != here:
            return f"the strong model's weights are others (SHA-256 {there[:12]} there, {here[:12]} now)"
        return ""
