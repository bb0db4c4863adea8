"""Members and the rule that joins them, as one network that is given pixels: what `patching.saving` saves."""

import zipfile
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from patching.members import Form
from utils.errors import UserError
from utils.files import load_checkpoint

ENTRIES = {"weak_network", "strong_network", "kernels", "rule"}  # that a `.pth` file has, among others


class Joined(nn.Module):
    """A classifier made of members: pixels of one or several forms -> scores (n, classes), the largest one decides."""

    kind: ClassVar[str]  # what a saved file calls it
    classes: tuple[str, ...]  # the names of the classes that are scored
    weak_answers = "logits"  # or probabilities: what an input that is no image has of a weak model

    def answers_in_words(self, count: int, classes: str) -> str:
        """What an input of `count` values of a weak model has, and in which order; classes that are added come last.

        `classes` is what a file calls the list of all classes.
        """
        order = classes if count == len(self.classes) else f"the first {count} of {classes}"
        return f"the weak model's {self.weak_answers}, in the order of {order}"

    @property
    @abstractmethod
    def forms(self) -> Mapping[str, Form]:
        """The forms of images by the inputs' names, in the order of a call."""

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """The inputs by their names, in the order of a call, and the shape of one image's."""
        return {name: (form.side, form.side, 3) for name, form in self.forms.items()}

    def examples(self) -> tuple[Tensor, ...]:
        """Inputs of the right form for two images: pixels are uint8, everything else is float32."""
        return tuple(
            torch.zeros(2, *shape, dtype=torch.uint8 if name in self.forms else torch.float32)
            for name, shape in self.inputs.items()
        )

    def write(self, path: Path) -> None:
        """Write it as `.pth`, which `read` reads. Raises UserError for kinds that have no such file."""
        raise UserError(f"{path}: expected a name that ends with .py or .onnx for a {self.kind} model")

    @staticmethod
    def read(path: Path, device: torch.device | str) -> "Joined":
        """The model that `write` wrote. Raises UserError if the file is none."""
        raise UserError(f"{path}: expected a patched model")


def is_saved_model(path: Path) -> bool:
    """Whether a file is one of `Joined.write`."""
    try:
        if not zipfile.is_zipfile(path):
            return False
        entries = load_checkpoint(path, "").keys()
    except (UserError, OSError):
        return False
    return entries >= ENTRIES


def part_of(weights: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The weights of one part of a network, under the names that the part itself gives them."""
    return {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}
