"""The strong model's files, and what is recorded of its network, which later stages compare with theirs."""

import math
from dataclasses import dataclass, fields
from typing import Any

import torch

from configures.base import Config
from dataset.images import SplitRecord
from models.graph import Graph
from models.names import anchored, are_same
from models.training import Epoch
from utils.artifacts import ArrayFile, Artifacts, CheckpointFile, RecordFile, Role, TableFile
from utils.recorded_settings import differences

SETTINGS = 6  # the fields of NetworkSettings that are settings, which stand first
TOLERANCE = 1e-4  # of a constant's size: what processors round in another way


@dataclass(frozen=True)
class NetworkSettings:
    """The network of a strong model and how it is given images; the first fields have the names of the settings."""

    network: str  # as `models.names` knows it
    num_classes: int
    image_side: int  # in pixels
    resize: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digest: str = ""  # of the graph; unknown if the model is a published one
    torch: str = ""  # the version that traced the graph
    code_values: tuple[float, ...] = ()  # of the graph

    @classmethod
    def of(cls, config: Config, graph: Graph | None = None) -> "NetworkSettings":
        """Those of a configuration, and what is known of its code by its graph."""
        settings = (getattr(config, field.name) for field in fields(cls)[1:SETTINGS])
        code = () if graph is None else (graph.digest, torch_version(), graph.code_values)
        return cls(anchored(config.network_name), *settings, *code)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)[:SETTINGS]}

    def difference_from(self, now: "NetworkSettings") -> str:
        """What settings differ, as there and now; nothing where both are of the same network and form of images."""
        there = self.settings | ({"network": now.network} if are_same(self.network, now.network) else {})
        return differences(there, now.settings)

    def change_of_code(self, graph: Graph) -> str:
        """What shows that the network's code is another one by now; nothing where nothing does."""
        if not self.digest or self.torch != torch_version():
            return ""
        if changed := changed_graph(self.network, self.digest, graph.digest):
            return changed
        pairs = zip(self.code_values, graph.code_values, strict=False)
        if all(math.isclose(there, now, rel_tol=TOLERANCE, abs_tol=TOLERANCE) for there, now in pairs):
            return ""
        return f"the constants in the code of {self.network} have changed since, or are others every time"


def changed_graph(name: str, there: str, now: str) -> str:
    """That the code of a network has changed, where the digests of its graph differ; else nothing."""
    if there == now:
        return ""
    return f"the code of {name} has changed since (graph {there[:12]} there, {now[:12]} now)"


def torch_version() -> str:
    """The version of torch as far as it decides how a network is traced: major and minor number."""
    return ".".join(torch.__version__.split("+")[0].split(".")[:2])


def training_role(artifacts: Artifacts) -> Role:
    """Training the strong model."""
    names = ("entire_model.pth", "strong_model.json", "training_state.pth", "training_log.csv")
    return artifacts.role("the training", "training", *(artifacts.folder / name for name in names))


def entire_model(artifacts: Artifacts) -> CheckpointFile:
    """The strong model's state_dict."""
    return CheckpointFile(artifacts.folder / "entire_model.pth", artifacts.command("train.py"))


def network_settings(artifacts: Artifacts) -> RecordFile[NetworkSettings]:
    """Which network the strong model is, and how it is given images."""
    return RecordFile(artifacts.folder / "network.json", artifacts.command("train.py", "--fresh"), NetworkSettings)


def trained_on(artifacts: Artifacts) -> RecordFile[SplitRecord]:
    """The images that the strong model was trained on, or imported with."""
    return RecordFile(artifacts.folder / "strong_model.json", artifacts.command("train.py"), SplitRecord)


def image_order(artifacts: Artifacts) -> ArrayFile:
    """The `ImageOrder.hashes` (n,) of those images, where the strong model is a published one."""
    made_by = artifacts.command("scripts/take_published_model.py", "--fresh")
    return ArrayFile(artifacts.folder / "image_order.npy", made_by, "uint64")


def training_state(artifacts: Artifacts) -> CheckpointFile:
    """Everything that lets an interrupted training go on."""
    return CheckpointFile(artifacts.folder / "training_state.pth", artifacts.command("train.py"))


def training_log(artifacts: Artifacts) -> TableFile[Epoch]:
    """One row an epoch."""
    return TableFile(artifacts.folder / "training_log.csv", artifacts.command("train.py"), Epoch)
