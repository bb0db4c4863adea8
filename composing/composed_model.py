"""Members of one or several strong models and the rule that makes them comparable, as one network given pixels.

from composing.composed_model import load_composed_model
model = load_composed_model("composed.pth")
predictions = model(*pixels).argmax(1)  # (n, side, side, 3) uint8, RGB, of each of `model.forms`
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from composing.rule import Scaled
from models.evaluation import cpu_state
from models.graph import Graph
from models.names import anchored
from models.own_code import NotTrusted, not_named
from models.strong_model import untrained_graph
from modules.module import module_of_weights
from patching.joined import Joined, part_of
from patching.members import Columns, Form, Member
from utils.errors import UserError
from utils.files import damaged, load_checkpoint, save_checkpoint

MADE_BY = "python scripts/compose.py --save PATH (with the options that --help lists)"


@dataclass(frozen=True)
class Origin:
    """The network that a member is made of."""

    network: str  # as `models.names` knows it
    num_classes: int  # of the strong model
    classes: tuple[int, ...]  # the strong model's numbers of the member's outputs
    kernels: np.ndarray | None  # (K,) bool, True = kept: those that a module keeps; None = the whole strong model

    def build(self, side: int, weights: dict[str, Tensor]) -> nn.Module:
        """The member's network, of a module with these weights. Raises many kinds of errors for what is none."""
        graph = untrained_graph(self.network, self.num_classes, side)
        if self.kernels is None:
            return whole_model(graph, self.classes)
        return module_of_weights(graph, self.kernels, self.classes[0], weights)


def whole_model(graph: Graph, classes: Sequence[int]) -> Columns:
    """A strong model with the logits of some of its classes alone; its weights are copies."""
    return Columns(graph.cut(np.ones(graph.num_units, bool)), classes)


class ComposedClassifier(Joined):
    """Modules, or whole models, of strong models as one classifier.

    Args:
        members: their outputs, one after the other, are of the classes that they name.
        rule: takes an output of each class, in the order of the classes.
        classes: their names.
        origins: of the members; empty for a model that is not saved as `.pth`.
    """

    kind = "composed"
    order: Tensor

    def __init__(
        self, members: Sequence[Member], rule: Scaled, classes: Sequence[str], origins: Sequence[Origin] = ()
    ) -> None:
        super().__init__()
        self.members, self.rule, self.classes = nn.ModuleList(members), rule, tuple(classes)
        self.origins, self.member_forms = tuple(origins), [member.form for member in members]
        self.member_classes = [member.classes for member in members]
        of_outputs = [target for member in members for target in member.classes]
        if sorted(of_outputs) != list(range(len(self.classes))) or len(rule.scale) != len(of_outputs):
            raise ValueError(f"expected one output of each of {len(self.classes)} classes, given {of_outputs}")
        self.register_buffer("order", torch.tensor(np.argsort(of_outputs)), persistent=False)
        self.eval()

    @property
    def forms(self) -> dict[str, Form]:
        """The forms of images by the inputs' names: `pixels`, or `pixels_32`, `pixels_64` of several sides.

        Members whose images have the same side and come to it in the same way share an input.
        """
        distinct = list({(form.side, form.resize): form for form in self.member_forms}.values())
        if len(distinct) == 1:
            return {"pixels": distinct[0]}
        is_ambiguous = len({form.side for form in distinct}) < len(distinct)
        return {f"pixels_{form.side}{f'_{form.resize}' if is_ambiguous else ''}": form for form in distinct}

    def forward(self, *pixels: Tensor) -> Tensor:
        """Scores (n, classes) of `inputs`: the largest one decides. Pixels are (n, side, side, 3) uint8, RGB."""
        given = {(form.side, form.resize): values for form, values in zip(self.forms.values(), pixels, strict=True)}
        forms = [(form.side, form.resize) for form in self.member_forms]
        outputs = [member(given[form]) for member, form in zip(self.members, forms, strict=True)]
        return self.rule(torch.cat(outputs, 1).index_select(1, self.order))

    def write(self, path: Path) -> None:
        """Write it as `.pth`: weights, and plain values. Raises ValueError for a model without origins."""
        if len(self.origins) != len(self.members):
            raise ValueError("expected the origin of every member")
        described = [
            {
                "network": anchored(origin.network),
                "num_classes": origin.num_classes,
                "strong_classes": list(origin.classes),
                "kernels": None if origin.kernels is None else torch.tensor(origin.kernels),
                "form": form.to_plain(),
                "classes": list(classes),
            }
            for origin, form, classes in zip(self.origins, self.member_forms, self.member_classes, strict=True)
        ]
        rule, weights = self.rule.to_json(), cpu_state(self)
        save_checkpoint(path, {"members": described, "rule": rule, "classes": list(self.classes), "weights": weights})

    @staticmethod
    def read(path: Path, device: torch.device | str) -> "ComposedClassifier":
        """The composed model in a `.pth` file. Raises UserError where the file is none."""
        return load_composed_model(path, device)


def load_composed_model(path: str | Path, device: str | torch.device = "cpu") -> ComposedClassifier:
    """A composed model that `ComposedClassifier.write` wrote, in evaluation mode. Raises UserError where it is none."""
    path = Path(path)
    state = load_checkpoint(path, MADE_BY)
    try:
        model = _model_of(state)
    except NotTrusted:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, IndexError, UserError) as error:
        what = error if isinstance(error, UserError) else repr(error)
        raise damaged(path, MADE_BY, f"not a composed model: {what}") from None
    if not all(torch.isfinite(value).all() for value in state["weights"].values()):
        raise UserError(f"{path} holds NaN or infinity; make it again with: {MADE_BY}")
    return model.to(device).to(memory_format=torch.channels_last)


def _model_of(state: Mapping[str, Any]) -> ComposedClassifier:
    """Raises many kinds of errors for what is no composed model."""
    members, origins = [], []
    for number, each in enumerate(state["members"]):
        name, count, form = each["network"], int(each["num_classes"]), Form.of_plain(each["form"])
        not_named(name, f"python scripts/inspect_network.py --network {shlex.quote(name)} --num_classes {count}")
        kernels = None if each["kernels"] is None else each["kernels"].numpy()
        origin = Origin(name, count, tuple(map(int, each["strong_classes"])), kernels)
        network = origin.build(form.side, part_of(state["weights"], f"members.{number}.network"))
        members.append(Member(network, form, [int(target) for target in each["classes"]]))
        origins.append(origin)
    model = ComposedClassifier(members, Scaled(**state["rule"]), state["classes"], origins)
    model.load_state_dict(state["weights"])
    return model
