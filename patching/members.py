"""A member of a patch or of a composed model: a network, the form of its images, the classes of its outputs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn

from configures.base import Config
from dataset.image_files import Resize
from dataset.images import Normalisation
from models.evaluation import count_parameters
from models.graph import flops_of
from models.graph.evaluating import evaluating, one_answer
from utils.errors import UserError

LUMA = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601, as Pillow's mode L


@dataclass(frozen=True)
class Form:
    """How a network is given images."""

    side: int  # in pixels
    resize: Resize  # how an image of another side is resized
    normalisation: Normalisation
    is_grey: bool = False  # of one channel: the luma of RGB

    @staticmethod
    def of(config: Config) -> "Form":
        """That of a configuration's images."""
        return Form(config.image_side, config.resize, Normalisation(config.mean, config.std))

    def to_plain(self) -> dict[str, Any]:
        """Plain values, of which `of_plain` makes the form again."""
        return {**asdict(self), "normalisation": [list(values) for values in self.normalisation]}

    @staticmethod
    def of_plain(values: Mapping[str, Any]) -> "Form":
        """Raises KeyError, TypeError or ValueError for values that are not a form of images."""
        colours = [tuple(float(value) for value in each) for each in values["normalisation"]]
        fit = len(colours) == 2 and all(len(each) == 3 and np.isfinite(each).all() for each in colours)
        if not fit or min(colours[1]) <= 0 or values["resize"] not in get_args(Resize):
            raise ValueError("expected mean, std (above 0) and resize of its images")
        return Form(int(values["side"]), values["resize"], Normalisation(*colours), bool(values["is_grey"]))

    @property
    def in_grey(self) -> "Form":
        """The form of grey images, whose three channels are equal, that is nearest to this one of RGB images."""
        colours = self.normalisation
        if any(len(set(values)) > 1 for values in colours):
            shares = (sum(share * value for share, value in zip(LUMA, values, strict=True)) for values in colours)
            colours = Normalisation(*((round(value, 4),) * 3 for value in shares))
        return replace(self, normalisation=colours, is_grey=True)


class Logits(nn.Module):
    """A network of any author as the others here: it takes RGB images, and gives logits.

    Args:
        network: images -> logits, alone or in a tuple, list, dict or record.
        classes: how many logits it gives.
        is_grey: whether it takes images of one channel; they are then made of RGB by their luma.
    """

    def __init__(self, network: nn.Module, classes: int, *, is_grey: bool = False) -> None:
        super().__init__()
        self.network, self.classes, self.is_grey = network, classes, is_grey

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, classes) of images (batch, 3, side, side). Raises UserError if the answer has none."""
        if self.is_grey:
            red, green, blue = (share * images[:, n : n + 1] for n, share in enumerate(LUMA))
            images = red + green + blue
        answer: Any = self.network(images)
        if isinstance(answer, Mapping):
            answer = dict(answer)
        elif hasattr(answer, "__dict__") and not isinstance(answer, (Tensor, tuple, list)):
            answer = vars(answer)
        return one_answer(answer, images, self.classes)


class Columns(nn.Module):
    """A network's outputs of some classes alone.

    Args:
        network: images -> outputs (n, its classes).
        classes: of the outputs that are left, in this order.
    """

    index: Tensor

    def __init__(self, network: nn.Module, classes: Sequence[int]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("index", torch.tensor(classes), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Outputs (n, classes)."""
        outputs: Tensor = self.network(images)
        return outputs.index_select(1, self.index)


class Member(nn.Module):
    """A network that is given pixels.

    Args:
        network: normalised RGB images (n, 3, side, side) -> outputs (n, len(classes)).
        form: of its images.
        classes: the number, among the classes of the whole, of the class that each output stands for.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, form: Form, classes: Sequence[int]) -> None:
        super().__init__()
        self.network, self.form, self.classes = network, form, tuple(classes)
        for name, values in form.normalisation._asdict().items():
            self.register_buffer(name, torch.tensor(values) * 255, persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Outputs (n, classes) float32 of pixels (n, side, side, 3) uint8, RGB, as `predict` computes them.

        Raises ValueError for other arrays, whose answers would be wrong.
        """
        side = self.form.side
        if pixels.dtype != torch.uint8 or tuple(pixels.shape[1:]) != (side, side, 3):
            raise ValueError(
                f"expected pixels (n, {side}, {side}, 3) of torch.uint8, given {tuple(pixels.shape)} of {pixels.dtype}"
            )
        outputs: Tensor = self.network(((pixels.float() - self.mean) / self.std).permute(0, 3, 1, 2))
        return outputs.float()

    @property
    def cost(self) -> tuple[int, int]:
        """FLOPs of one image, and parameters."""
        return flops_of(self.network, (3, self.form.side, self.form.side)), count_parameters(self.network)


def takes_grey(network: nn.Module, side: int) -> bool:
    """Whether a network takes images of one channel: it runs on them, and not on RGB images.

    Raises UserError for a network of two, four or more channels.
    """
    if _runs(network, 3, side):
        return False
    if _runs(network, 1, side):
        return True
    convs = (module for module in network.modules() if isinstance(module, nn.modules.conv._ConvNd))
    first = next(convs, None)  # as they are registered, which is their order in nearly all networks
    channels = 3 if first is None else first.in_channels
    if channels not in (1, 3):
        raise UserError(
            f"the weak model takes images of {channels} channels: expected 3 (RGB) or 1 (grey); give a FILE.py:FUNCTION"
            " whose network makes its channels of RGB images"
        )
    return channels == 1


def _runs(network: nn.Module, channels: int, side: int) -> bool:
    try:
        with evaluating(network), torch.no_grad():
            network(torch.zeros(2, channels, side, side))
    except Exception:  # whatever somebody's network raises
        return False
    return True
