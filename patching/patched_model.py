"""A weak model, a module and the rule that joins them, as one network.

from patching.patched_model import load_patched_model
model = load_patched_model("patched.pth")
predictions = model(normalise(pixels, normalisation)).argmax(1)
"""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.graph import GraphNetwork
from models.names import network_of, not_named
from models.strong_model import untrained_graph
from models.trusted_code import NotTrusted
from models.weights import cpu_state
from modules.module import module_of_weights
from patching.rules import Rule, rule_saved_as
from utils.errors import UserError
from utils.files import damaged, load_checkpoint, save_checkpoint

MADE_BY = "python experiments/patch/apply_patch.py --save PATH (with the options that --help lists)"


@dataclass(frozen=True)
class Origin:
    """Which networks the two parts of a patched model are made of."""

    weak_network: str  # as `models.names` knows it
    strong_network: str
    strong_classes: int  # how many classes the strong model tells apart
    target_class: int  # of the strong model
    kernels: np.ndarray  # (K,) bool: those of the strong model that the module keeps
    image_side: int  # in pixels


class PatchedModel(nn.Module):
    """A weak model whose target class, the last one, is judged by a module of a strong model.

    Args:
        weak: the weak model, images -> logits (n, classes).
        module: the module, images -> the target class's logit (n, 1).
        rule: joins the two.
        classes: the names of the classes, the target class last.
        origin: says which networks they are of; None for a model that is not saved.
    """

    def __init__(
        self,
        weak: nn.Module,
        module: GraphNetwork,
        rule: Rule,
        classes: tuple[str, ...],
        origin: Origin | None = None,
    ) -> None:
        super().__init__()
        self.weak, self.module, self.rule = weak, module, rule
        self.classes, self.origin = classes, origin
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Scores (n, classes) of normalised images (n, 3, side, side): the largest one decides."""
        return self.rule(self.weak(images), self.module(images)[:, 0])


def save_patched_model(model: PatchedModel, path: Path) -> None:
    """Write the weights and the few plain values that say which networks they are of; `weights_only=True` loads it.

    Raises ValueError for a model without an origin.
    """
    if model.origin is None:
        raise ValueError("expected a patched model with an origin")
    state: dict[str, Any] = {
        **vars(model.origin),
        "kernels": torch.tensor(model.origin.kernels),
        "rule": model.rule.saved_as,
        "classes": list(model.classes),
        "weights": cpu_state(model),
    }
    save_checkpoint(path, state)


def load_patched_model(path: str | Path, device: str | torch.device = "cpu") -> PatchedModel:
    """A patched model that `save_patched_model` wrote, in evaluation mode. Raises UserError where it is none."""
    path = Path(path)
    state = load_checkpoint(path, MADE_BY)
    try:
        weights: dict[str, Tensor] = state["weights"]
        parts = {name: part_of(weights, name) for name in ("weak", "module", "rule")}
        side, classes, target_class = int(state["image_side"]), tuple(state["classes"]), int(state["target_class"])
        for name, count in ((state["weak_network"], len(classes)), (state["strong_network"], state["strong_classes"])):
            not_named(name, f"python scripts/inspect_network.py --network {shlex.quote(name)} --num_classes {count}")
        weak = network_of(state["weak_network"], len(classes), side)
        graph = untrained_graph(state["strong_network"], int(state["strong_classes"]), side)
        kernels = state["kernels"].numpy()
        module = module_of_weights(graph, kernels, target_class, parts["module"])
        rule = rule_saved_as(state["rule"]).from_buffers(parts["rule"])
        names = (state["weak_network"], state["strong_network"])
        model = PatchedModel(
            weak, module, rule, classes, Origin(*names, graph.num_classes, target_class, kernels, side)
        )
        model.load_state_dict(weights)
    except NotTrusted:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, UserError) as error:
        what = error if isinstance(error, UserError) else repr(error)
        raise damaged(path, MADE_BY, f"not a patched model: {what}") from None
    if not all(torch.isfinite(value).all() for value in weights.values()):
        raise UserError(f"{path} holds NaN or infinity; make it again with: {MADE_BY}")
    return model.to(device, memory_format=torch.channels_last)


def part_of(weights: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The weights of one part of a network, under the names that the part itself gives them."""
    return {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}
