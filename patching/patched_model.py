"""A weak model, a module and the rule that joins them, as one network.

from patching.patched_model import load_patched_model
model = load_patched_model("patched.pth")
predictions = model(model.normalise(pixels)).argmax(1)
"""

import shlex
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn

from dataset.image_files import Resize
from dataset.images import normalise
from dataset.labelled_images import Normalisation
from models.graph import GraphNetwork
from models.graph.evaluating import one_answer
from models.names import anchored, network_of, not_named
from models.strong_model import untrained_graph
from models.trusted_code import NotTrusted
from models.weights import cpu_state
from modules.module import module_of_weights
from patching.as_reported import Answer, Reported, check_as_reported
from patching.rules import Rule, rule_saved_as
from utils.errors import UserError
from utils.files import damaged, load_checkpoint, save_checkpoint
from utils.given_places import check_place, written_aside

OPTION = "--save"
MADE_BY = "python experiments/patch/apply_patch.py --save PATH (with the options that --help lists)"


@dataclass(frozen=True)
class Origin:
    """Which networks the two parts of a patched model are made of, and which images they are given."""

    weak_network: str  # as `models.names` knows it
    strong_network: str
    strong_classes: int  # how many classes the strong model tells apart
    target_class: int  # of the strong model
    kernels: np.ndarray  # (K,) bool: those of the strong model that the module keeps
    image_side: int  # in pixels
    mean: tuple[float, ...]  # of red, green and blue between 0 and 1: subtracted
    std: tuple[float, ...]  # what they are divided by then
    resize: Resize  # how an image of another side comes to `image_side`


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
        weak = one_answer(self.weak(images), images, len(self.classes)).float()  # as they are evaluated
        return self.rule(weak, self.module(images)[:, 0])

    def normalise(self, pixels: Tensor) -> Tensor:
        """The images (n, 3, side, side) float32 that this model was made for, of pixels (n, side, side, 3) uint8.

        `origin` has the side, and how images come to it. Raises ValueError for a model without an origin.
        """
        if self.origin is None:
            raise ValueError("expected a patched model with an origin")
        return normalise(pixels, normalisation=Normalisation(self.origin.mean, self.origin.std))


def check_save_path(path: Path) -> None:
    """Raises UserError, before any work, where a patched model cannot be saved to a path."""
    check_place(OPTION, path, is_patched_model)


def is_patched_model(path: Path) -> bool:
    """Whether a file is one of `save_patched_model`."""
    try:
        named = {"weak_network", "strong_network", "kernels", "rule"}
        return zipfile.is_zipfile(path) and named <= load_checkpoint(path, MADE_BY).keys()
    except (UserError, OSError):
        return False


def save_as_reported(model: PatchedModel, path: Path, reported: Reported, device: torch.device) -> None:
    """Write a patched model, load it and run it on test images.

    Raises UserError, and leaves no file, where it does not answer as reported, or another file is there.

    Args:
        model: with an origin.
        path: of the file.
        reported: with one input, pixels (images, side, side, 3) uint8.
        device: where to run it.
    """
    check_save_path(path)
    with written_aside(path.parent) as folder:
        save_patched_model(model, folder / path.name)
        check_as_reported(path, lambda: _answer_of(load_patched_model(folder / path.name, device), device), reported)
        check_save_path(path)


def _answer_of(model: PatchedModel, device: torch.device) -> Answer:
    @torch.inference_mode()
    def answer(pixels: np.ndarray) -> np.ndarray:
        return model(model.normalise(torch.from_numpy(pixels).to(device))).float().cpu().numpy()

    return answer


def save_patched_model(model: PatchedModel, path: Path) -> None:
    """Write the weights and the plain values of its origin; `weights_only=True` loads it.

    Raises ValueError for a model without an origin.
    """
    if model.origin is None:
        raise ValueError("expected a patched model with an origin")
    state: dict[str, Any] = {
        **vars(model.origin),
        **{name: anchored(getattr(model.origin, name)) for name in ("weak_network", "strong_network")},
        "mean": list(model.origin.mean),
        "std": list(model.origin.std),
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
    if "weak_network" in state and "mean" not in state:
        raise UserError(
            f"{path} is of an earlier version, which did not save how images are normalised; make it again with: "
            f"{MADE_BY}"
        )
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
        form = _checked_form(state["mean"], state["std"], state["resize"])
        origin = Origin(*names, graph.num_classes, target_class, kernels, side, *form)
        model = PatchedModel(weak, module, rule, classes, origin)
        model.load_state_dict(weights)
    except NotTrusted:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, UserError) as error:
        what = error if isinstance(error, UserError) else repr(error)
        raise damaged(path, MADE_BY, f"not a patched model: {what}") from None
    if not all(torch.isfinite(value).all() for value in weights.values()):
        raise UserError(f"{path} holds NaN or infinity; make it again with: {MADE_BY}")
    return model.to(device, memory_format=torch.channels_last)


def _checked_form(mean: Any, std: Any, resize: Any) -> tuple[tuple[float, ...], tuple[float, ...], Resize]:
    """Raises ValueError for values that are not a form of images."""
    colours = [tuple(float(value) for value in values) for values in (mean, std)]
    fit = all(len(values) == 3 and np.isfinite(values).all() for values in colours)
    if not fit or min(colours[1]) <= 0 or resize not in get_args(Resize):
        raise ValueError("expected mean, std (above 0) and resize of its images")
    return *colours, resize


def part_of(weights: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The weights of one part of a network, under the names that the part itself gives them."""
    return {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}
