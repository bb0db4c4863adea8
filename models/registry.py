"""Our own networks by name: `simcnn`, and `simcnn_x0_25`, the same a quarter as wide."""

import re
from collections.abc import Callable

from torch import nn

from models.rescnn import ResCNN, rescnn_tiny, rescnn_weak
from models.resnet20 import ResNet20
from models.simcnn import SimCNN, simcnn_tiny, simcnn_weak
from utils.errors import UserError

# From (num_classes, width, image_side) to the network.
NETWORKS: dict[str, Callable[[int, float, int], nn.Module]] = {
    "rescnn": ResCNN,
    "rescnn_tiny": rescnn_tiny,
    "rescnn_weak": rescnn_weak,
    "resnet20": ResNet20,
    "simcnn": SimCNN,
    "simcnn_tiny": simcnn_tiny,
    "simcnn_weak": simcnn_weak,
}
WIDEST = 100  # times the published width; its weights would fill any memory
WIDTH_SUFFIX = re.compile(r"^(?P<base>\w+?)_x(?P<whole>\d+)_(?P<fraction>\d+)$")


def is_own_network(name: str) -> bool:
    """Whether it is in the table, a width's suffix aside."""
    return _base_and_width(name)[0] in NETWORKS


def build_own_network(name: str, num_classes: int, image_side: int) -> nn.Module:
    """One of our networks, freshly initialised; its weights come from torch's global generator.

    Raises UserError for a width of 0 and for images that are too small, KeyError for a name that is not in the table.
    """
    base, width = _base_and_width(name)
    if not 0 < width <= WIDEST:
        raise UserError(f"network {name}: expected a width above 0, up to {WIDEST}, given {width}")
    try:
        return NETWORKS[base](num_classes, width, image_side)
    except ValueError as error:
        raise UserError(f"network {name}: {error}") from None


def _base_and_width(name: str) -> tuple[str, float]:
    suffix = WIDTH_SUFFIX.match(name)
    return (suffix["base"], float(f"{suffix['whole']}.{suffix['fraction']}")) if suffix else (name, 1.0)
