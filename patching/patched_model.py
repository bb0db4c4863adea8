"""A weak model, modules and the rule that joins them, as one network that is given pixels.

from patching.patched_model import load_patched_model
model = load_patched_model("patched.pth")
predictions = model(pixels).argmax(1)  # (n, side, side, 3) uint8, RGB; `model.inputs` and `model.form` say more
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.evaluation import cpu_state
from models.names import anchored, network_of
from models.own_code import NotTrusted, not_named
from models.strong_model import untrained_graph
from modules.module import module_of_weights
from patching.joined import Joined, part_of
from patching.members import Form, Logits, Member
from patching.rules import Rule, rule_saved_as
from utils.errors import UserError
from utils.files import damaged, load_checkpoint, save_checkpoint

MADE_BY = "python experiments/patch/apply_patch.py --save PATH (with the options that --help lists)"


@dataclass(frozen=True)
class PatchOrigin:
    """Which networks the members of a patched model are made of; empty names where only logits are known."""

    weak_network: str  # as `models.names` knows it
    strong_network: str
    strong_classes: int  # how many classes the strong model tells apart
    target_classes: tuple[int, ...]  # of the strong model, one per module
    kernels: np.ndarray  # (modules, K) bool: those of the strong model that the modules keep


class PatchedModel(Joined):
    """A weak model whose target classes are decided with modules of a strong model.

    Example: `predictions = load_patched_model("patched.pth")(pixels).argmax(1)`, with pixels (n, side, side, 3) uint8.

    Args:
        weak: the weak model; None if only its logits are known.
        modules: in the order of the columns of the rule.
        rule: weak logits (n, weak classes) and module outputs (n, modules) -> scores (n, classes).
        classes: the names of the classes that are scored.
        origin: which networks they were made of; None for a model that is not saved as `.pth`.
        weak_classes: how many classes the weak model knows, if `weak` is None.
    """

    kind = "patched"

    def __init__(
        self,
        weak: Member | None,
        modules: Sequence[Member],
        rule: Rule,
        classes: Sequence[str],
        origin: PatchOrigin | None = None,
        weak_classes: int = 0,
    ) -> None:
        super().__init__()
        self.weak, self.parts, self.rule = weak, nn.ModuleList(modules), rule
        self.classes, self.origin, self.form = tuple(classes), origin, modules[0].form
        self.targets = [target for module in modules for target in module.classes]
        self.weak_classes = weak_classes if weak is None else len(weak.classes)
        if getattr(rule, "probability_floor", None) is not None:
            self.weak_answers = "probabilities"
        self.eval()

    @property
    def forms(self) -> dict[str, Form]:
        """The forms of images by the inputs' names, in the order of a call."""
        if self.weak is None or self.weak.form.side == self.form.side:
            return {"pixels": self.form}
        return {"weak_pixels": self.weak.form, "module_pixels": self.form}

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """The inputs by their names, in the order of a call, and the shape of one image's."""
        return ({} if self.weak else {"weak_logits": (self.weak_classes,)}) | super().inputs

    def forward(self, first: Tensor, second: Tensor | None = None) -> Tensor:
        """Scores (n, classes) of `inputs`: the largest one decides. Pixels are (n, side, side, 3) uint8, RGB."""
        weak = first if self.weak is None else self.weak(first)
        pixels = first if second is None else second
        scores: Tensor = self.rule(weak, torch.cat([part(pixels) for part in self.parts], 1))
        return scores

    def write(self, path: Path) -> None:
        """Write it as `.pth`. Raises ValueError for a model without an origin."""
        save_patched_model(self, path)

    @staticmethod
    def read(path: Path, device: torch.device | str) -> "PatchedModel":
        """The patched model in a `.pth` file. Raises UserError if the file is none."""
        return load_patched_model(path, device)


def save_patched_model(model: PatchedModel, path: Path) -> None:
    """Write the weights, and as plain values the origin and the members' forms; `weights_only=True` loads it.

    Raises ValueError for a model without an origin.
    """
    if model.origin is None:
        raise ValueError("expected a patched model with an origin")
    state: dict[str, Any] = {
        **vars(model.origin),
        **{name: anchored(given) for name, given in vars(model.origin).items() if name.endswith("network") and given},
        "target_classes": list(model.origin.target_classes),
        "kernels": torch.tensor(model.origin.kernels),
        "targets": model.targets,
        "weak_classes": model.weak_classes,
        "weak_form": None if model.weak is None else model.weak.form.to_plain(),
        "form": model.form.to_plain(),
        "rule": model.rule.saved_as,
        "classes": list(model.classes),
        "weights": cpu_state(model),
    }
    save_checkpoint(path, state)


def load_patched_model(path: str | Path, device: str | torch.device = "cpu") -> PatchedModel:
    """Load a patched model that was saved as `.pth`.

    Example:

        model = load_patched_model("patched.pth")
        scores = model(torch.from_numpy(pixels))  # (n, classes): the largest one decides

    Args:
        path: the file.
        device: where the model shall run.

    Returns:
        The model in evaluation mode. A call takes RGB pixels (n, side, side, 3) uint8, with `side` and resizing as in
        `model.form`; `model.inputs` has the names and shapes of its inputs, if there are several.

    Raises:
        UserError: the file is missing, damaged, or no patched model.
    """
    path = Path(path)
    state = load_checkpoint(path, MADE_BY)
    try:
        model = _model_of(state)
    except NotTrusted:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, UserError) as error:
        what = error if isinstance(error, UserError) else repr(error)
        raise damaged(path, MADE_BY, f"not a patched model: {what}") from None
    if not all(torch.isfinite(value).all() for value in state["weights"].values()):
        raise UserError(f"{path} holds NaN or infinity; make it again with: {MADE_BY}")
    return model.to(device).to(memory_format=torch.channels_last)


def _model_of(state: Mapping[str, Any]) -> PatchedModel:
    """Raises many kinds of errors for what is no patched model."""
    weights: dict[str, Tensor] = state["weights"]
    weak_name, strong_name, form = state["weak_network"], state["strong_network"], Form.of_plain(state["form"])
    strong_classes, weak_classes = int(state["strong_classes"]), int(state["weak_classes"])
    for name, count in ((weak_name, weak_classes), (strong_name, strong_classes)):
        if name:
            not_named(name, f"python scripts/inspect_network.py --network {shlex.quote(name)} --num_classes {count}")
    weak = None
    if weak_name:
        weak_form = Form.of_plain(state["weak_form"])
        network = network_of(weak_name, weak_classes, weak_form.side)
        weak = Member(Logits(network, weak_classes, is_grey=weak_form.is_grey), weak_form, range(weak_classes))
    graph, kernels = untrained_graph(strong_name, strong_classes, form.side), state["kernels"].numpy()
    strong_targets = tuple(map(int, state["target_classes"]))
    modules: list[Member] = []
    for mask, strong_class, target in zip(kernels, strong_targets, state["targets"], strict=True):
        module = module_of_weights(graph, mask, strong_class, part_of(weights, f"parts.{len(modules)}.network"))
        modules.append(Member(module, form, [target]))
    rule = rule_saved_as(state["rule"]).from_buffers(part_of(weights, "rule"))
    origin = PatchOrigin(weak_name, strong_name, strong_classes, strong_targets, kernels)
    model = PatchedModel(weak, modules, rule, state["classes"], origin, weak_classes)
    model.load_state_dict(weights)
    if rule(torch.zeros(1, weak_classes), torch.zeros(1, len(modules))).shape != (1, len(model.classes)):
        raise ValueError(f"the rule is not one of {len(model.classes)} classes")
    return model
