"""A weak model, a module and the rule that joins them, as one network.

from patching.patched_model import load_patched_model
model = load_patched_model("patched.pth")
predictions = model(normalise(pixels)).argmax(1)
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.cnn import CNN, cpu_state
from models.registry import architecture_of
from modules.module import module_of_weights
from patching.rules import Rule, rule_saved_as
from utils.errors import UserError
from utils.files import damaged, load_checkpoint, save_checkpoint

MADE_BY = "python experiments/patch/apply_patch.py --save PATH (with the options that --help lists)"


class PatchedModel(nn.Module):
    """A weak model whose target class, the last one, is judged by a module of a strong model.

    Args:
        weak: the weak model, images -> logits (batch, classes).
        module: the module, images -> the target class's logit (batch, 1).
        rule: joins the two.
        classes: the names of the classes, the target class last.
        weak_network, strong_network: the names that `models.registry` knows the two networks by.
    """

    def __init__(
        self, weak: CNN, module: CNN, rule: Rule, classes: tuple[str, ...], weak_network: str, strong_network: str
    ) -> None:
        super().__init__()
        self.weak, self.module, self.rule = weak, module, rule
        self.classes, self.weak_network, self.strong_network = classes, weak_network, strong_network
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Scores (batch, classes) of normalised images (batch, 3, 32, 32): the largest one decides."""
        return self.rule(self.weak(images), self.module(images)[:, 0])


def save_patched_model(model: PatchedModel, path: Path) -> None:
    """Write the weights and the few plain values that say which networks they are of; `weights_only=True` loads it."""
    state: dict[str, Any] = {
        "weak_network": model.weak_network,
        "strong_network": model.strong_network,
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
        weak = module_of_weights(architecture_of(state["weak_network"]), parts["weak"])
        module = module_of_weights(architecture_of(state["strong_network"]), parts["module"])
        rule = rule_saved_as(state["rule"]).from_json(parts["rule"])
        names = (tuple(state["classes"]), state["weak_network"], state["strong_network"])
        model = PatchedModel(weak, module, rule, *names)
        model.load_state_dict(weights)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise damaged(path, MADE_BY, f"not a patched model: {error!r}") from None
    if not all(torch.isfinite(value).all() for value in weights.values()):
        raise UserError(f"{path} holds NaN or infinity; make it again with: {MADE_BY}")
    return model.to(device, memory_format=torch.channels_last)


def part_of(weights: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The weights of one part of a network, under the names that the part itself gives them."""
    return {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}
