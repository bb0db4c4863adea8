"""From the name that a user gives a network to the network: our own, a library's, or the user's own code."""

import importlib
import re
import warnings
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType

from torch import nn

from models.adapted import Adapted, split_name
from models.mask_generators import MaskedNetwork
from models.own_code import OWN_CODE, network_of_file, place_of_definition
from models.rescnn import ResCNN, rescnn_tiny, rescnn_weak
from models.resnet20 import ResNet20
from models.simcnn import SimCNN, simcnn_tiny, simcnn_weak
from utils.errors import UserError, reason

FORMS = (
    "simcnn, rescnn, resnet20, one of these with a width like simcnn_x0_25, torchvision:NAME, timm:NAME, "
    "mwt: and one of these (with mask generators), or FILE.py:FUNCTION"
)
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
MASKED = "mwt:"  # before the name of a network that gets mask generators
WIDEST = 100  # times the published width; its weights would fill any memory
WIDTH_SUFFIX = re.compile(r"^(?P<base>\w+?)_x(?P<whole>\d+)_(?P<fraction>\d+)$")


def network_of(name: str, num_classes: int, image_side: int = 32) -> nn.Module:
    """A network with random weights in float32, which images are given in; nothing is downloaded.

    Args:
        name: `simcnn`, `simcnn_x0_25` (models/names.py); `torchvision:NAME`; `timm:NAME`; or `FILE.py:NAME`, a
            function or class of the user, which runs with all that its file does (models/own_code.py). In brackets
            behind it stands what is changed in the network (models/adapted.py). `mwt:NAME` is a network with mask
            generators (models/mask_generators.py).
        num_classes: logits of the network; a function of the user that has no parameter for it decides itself.
        image_side: in pixels; ours alone are made for it.

    Raises UserError, one line, for an unknown name or a network that cannot be made.
    """
    if num_classes < 2:
        raise UserError(f"network {name}: expected at least 2 classes, given {num_classes}")
    base, changes = split_name(name)
    if changes:
        if changes.groups and len(changes.groups) != num_classes:
            raise UserError(
                f"network {name}: expected outputs for each of {num_classes} classes, given for {len(changes.groups)}"
            )
        return Adapted(network_of(base, changes.num_outputs or num_classes, image_side), changes)
    if name.startswith(MASKED):
        masked = name.removeprefix(MASKED)
        if OWN_CODE.fullmatch(masked):
            raise UserError(f"network {name}: in your file, return models.mask_generators.MaskedNetwork(network, side)")
        return MaskedNetwork(network_of(masked, num_classes, image_side), image_side)
    if own := OWN_CODE.fullmatch(name):
        return network_of_file(Path(own["file"]), own["attribute"], num_classes).float()
    library, _, rest = name.partition(":")
    if name.endswith(".py"):
        raise UserError(f"network {name}: expected a function or class behind the file, as in {name}:FUNCTION")
    if library == "torchvision":
        return _of_torchvision(rest, num_classes)
    if library == "timm":
        return _of_timm(rest, num_classes)
    if is_own_network(name):
        return build_own_network(name, num_classes, image_side)
    raise _unknown(
        name, {**{model: f"torchvision:{model}" for model in torchvision_classifiers()}, **{n: n for n in NETWORKS}}
    )


def anchored(name: str) -> str:
    """The name by which a network is found from any folder: a user's file with its whole path."""
    own = OWN_CODE.fullmatch(name)
    return f"{Path(own['file']).resolve()}:{own['attribute']}{own['changes'] or ''}" if own else name


def are_same(name: str, other: str) -> bool:
    """Whether two names mean the same network; a user's file may have moved to another folder."""
    own, other_own = OWN_CODE.fullmatch(name), OWN_CODE.fullmatch(other)
    if own and other_own:
        one, another = ((Path(each["file"]).name, each["attribute"], each["changes"]) for each in (own, other_own))
        return one == another
    return name == other


def check_num_classes(name: str, found: int, expected: int) -> None:
    """Raises UserError where a network has another number of logits than it was asked for."""
    if found != expected:
        own = OWN_CODE.fullmatch(name)
        place = place_of_definition(Path(own["file"]), own["attribute"]) if own else ""
        raise UserError(
            f"network {name}: expected {expected} logits, it gives {found}{place}; {other_outputs(found, expected)}"
        )


def other_outputs(found: int, expected: int) -> str:
    """What to do where a network has another number of outputs than it is to have classes, for an error message."""
    if found < expected:
        way = f"name the {found} classes that it knows, by --set num_classes={found} --set classes=A,B,..."
    else:
        way = f"say which of the {found} are the classes, by --outputs of import_model.py or behind the network's name"
    if found == 1:
        way = "write a FILE.py:FUNCTION that makes two of the one"
    return (
        f"give --num_classes {found} to inspect_network.py; for other scripts {way}, as docs/your_network.md shows "
        "under Other outputs"
    )


def _of_torchvision(name: str, num_classes: int) -> nn.Module:
    """Without weights of a backbone either: only detectors and the like have one, and they are no classifiers."""
    known = torchvision_classifiers()
    if name.lower() not in known:
        raise _unknown(f"torchvision:{name}", {model: f"torchvision:{model}" for model in known})
    return _made(
        f"torchvision:{name}", lambda: _torchvision_models().get_model(name, weights=None, num_classes=num_classes)
    )


def _of_timm(name: str, num_classes: int) -> nn.Module:
    timm = _timm(name)
    if not timm.is_model(name):  # nor a name with a scheme, such as hf-hub:, for which timm would download
        raise _unknown(f"timm:{name}", {model: f"timm:{model}" for model in timm.list_models()})
    return _made(f"timm:{name}", lambda: timm.create_model(name, pretrained=False, num_classes=num_classes))


def _timm(name: str) -> ModuleType:
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise UserError(f"network timm:{name} needs timm ({reason(error)}); first run: pip install timm") from None


def torchvision_classifiers() -> list[str]:
    """The names of torchvision's classifiers."""
    models = _torchvision_models()
    return models.list_models(module=models)


def _torchvision_models() -> ModuleType:
    """Imported when a network of it is named: that takes as long as importing torch."""
    return importlib.import_module("torchvision.models")


def _made(name: str, make: Callable[[], nn.Module]) -> nn.Module:
    """What a library makes, without its warnings."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return make()
    except Exception as error:
        raise UserError(f"network {name} cannot be made: {type(error).__name__}: {reason(error)}") from error


def _unknown(name: str, known: dict[str, str]) -> UserError:
    """The error that offers the names that are spelled alike; `known` says what to type for each."""
    rest = name.rpartition(":")[2].lower()
    close = [rest] if rest in known else get_close_matches(rest, known, n=3)
    offer = f"; did you mean {_listed(known[match] for match in close)}?" if close else ""
    return UserError(f"unknown network {name}: expected {FORMS}{offer}")


def _listed(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last


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
