"""The outputs of one patch's networks on its images; the same code runs in this process and on an engine's worker."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from configures.base import Config
from dataset.images import Images
from models.evaluation import cpu_state, predict
from models.graph import GraphNetwork
from models.strong_model import graph_of
from modules.evaluation_inputs import StrongInputs, strong_on_worker
from modules.module import as_answers, module_of_weights
from patching.comparison import Answers
from patching.members import Logits
from patching.weak_models import WeakKind, build_weak_network


@dataclass(frozen=True)
class PatchImages:
    """What one patch is fitted and measured on, besides the weak classes' images, which all patches share."""

    target_class: int  # of the strong model
    own: dict[str, Images]  # by part: the target class's, labelled as the weak model's last class
    of_class: Images  # all validation images that the strong model has of the class
    shared_strong: dict[str, np.ndarray]  # by part: what a perfect module gives for the weak classes' images
    answer: str  # what the module gives: a logit or log-odds
    collected: np.ndarray  # (images of the class,) float32: the module's outputs for `of_class`


@dataclass(frozen=True)
class PatchNetworks:
    """A weak model and a module as plain data."""

    config: Config
    kind: WeakKind
    kernels: np.ndarray  # (K,) bool: those that the module keeps
    weak: Mapping[str, np.ndarray]  # weights
    module: Mapping[str, np.ndarray]

    @staticmethod
    def of(config: Config, kind: WeakKind, weak: nn.Module, module: nn.Module, kernels: np.ndarray) -> "PatchNetworks":
        """The networks' weights, for workers."""
        weights = ({name: value.numpy() for name, value in cpu_state(network).items()} for network in (weak, module))
        return PatchNetworks(config, kind, kernels, *weights)

    def build(self, target_class: int, device: torch.device) -> tuple[nn.Module, GraphNetwork]:
        """The weak model and the module, as they are read from the disk: channels-last, in evaluation mode."""
        of_weak, of_module = (
            {name: torch.tensor(value) for name, value in weights.items()} for weights in (self.weak, self.module)
        )
        weak = build_weak_network(self.config, self.kind)
        weak.load_state_dict(of_weak)
        module = module_of_weights(graph_of(self.config), self.kernels, target_class, of_module)
        layout = torch.channels_last
        return weak.to(device).to(memory_format=layout).eval(), module.to(device).to(memory_format=layout)


def answers(
    weak: nn.Module,
    module: nn.Module,
    strong: nn.Module,
    shared: Mapping[str, Images],
    images: PatchImages,
    device: torch.device,
) -> dict[str, Answers]:
    """By part the outputs of networks on the device: for the weak classes' images, `shared`, then the patch's own."""

    def strong_logit(of: Images) -> np.ndarray:
        return as_answers(predict(strong, of, device), images.answer)[:, images.target_class].numpy()

    target = int(images.own["test"].labels[0])  # the weak model's last class
    weak = Logits(weak, target + 1)
    of_class, found = {target: images.collected}, {}
    strong_of_class = {target: strong_logit(images.of_class)}
    for part, own in images.own.items():
        both = joined(shared[part], own)
        found[part] = Answers(
            both.labels,
            predict(weak, both, device).numpy(),
            {target: predict(module, both, device)[:, 0].numpy()},
            {target: np.concatenate([images.shared_strong[part], strong_logit(own)])},
            of_class,
            strong_of_class,
        )
    return found


def answers_on_worker(
    networks: PatchNetworks, strong: StrongInputs, shared: Mapping[str, Images], images: PatchImages, device: str
) -> dict[str, Answers]:
    """A task: `answers` of networks that are made again."""
    where = torch.device(device)
    weak, module = networks.build(images.target_class, where)
    return answers(weak, module, strong_on_worker(strong, device).network, shared, images, where)


def joined(weak: Images, own: Images) -> Images:
    """The images of the weak classes, then the target class's."""
    pixels, labels = (np.concatenate([getattr(part, name) for part in (weak, own)]) for name in ("pixels", "labels"))
    return replace(weak, pixels=pixels, labels=labels)
