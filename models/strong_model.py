"""The strong model: its network, what it is trained with and on, how it comes from its checkpoint, and its folder."""

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from configures.base import Config
from dataset.image_hashes import ImageOrder
from dataset.images import Images, Split, differences, record_of
from dataset.splits import load_split
from models import files as model_files
from models.checkpoints import description
from models.files import NetworkSettings
from models.foreign_files import read_foreign_file
from models.graph import Graph, NetworkRefused, trace
from models.graph.evaluating import evaluating
from models.graph.tracing import trace_plain
from models.names import check_num_classes, network_of
from models.training import TrainingSettings
from utils.artifacts import Artifacts, CheckpointFile, Role
from utils.errors import UserError
from utils.files import is_foreign_checkpoint, set_aside, sha256_of
from utils.locks import check_nobody_holds
from utils.progress import steps
from utils.tables import for_stream

# Validation images that decisions can rest on: the standard error of an accuracy is then at most 5 percentage points,
# and one image of a class is at most a tenth of it.
LEAST_VALID = 100
LEAST_VALID_OF_CLASS = 10
CHANNELS = 3  # of an image
# It may be somebody's own model, which no command of ours makes again.
NEXT_STEP_FOR_FOREIGN = (
    "it was not saved by this project: give the --model, or the class count, that it was saved with, or another file; "
    "python scripts/inspect_network.py --help tells how to look into one"
)


def strong_model_training(config: Config) -> TrainingSettings:
    """The strong model's part of the configuration, whose settings have the names of the fields."""
    names = {field.name for field in dataclasses.fields(TrainingSettings)} - {"augmented"}
    return TrainingSettings(**{name: getattr(config, name) for name in names}, augmented=True)


def build_strong_network(config: Config) -> nn.Module:
    """The strong model's network, freshly initialised. Raises UserError where it cannot be made."""
    return network_of(config.network_name, config.num_classes, config.image_side)


def graph_of(config: Config) -> Graph:
    """The strong model's graph with random weights: its units, and what a mask cuts. Raises UserError."""
    return untrained_graph(config.network_name, config.num_classes, config.image_side)


@functools.cache
def untrained_graph(network_name: str, num_classes: int, image_side: int) -> Graph:
    """The graph of a network by its name, with random weights. Raises UserError where it cannot be made or traced."""
    with torch.random.fork_rng(devices=[]):  # who asks for a structure draws no random numbers
        network = network_of(network_name, num_classes, image_side)
    return trace_classifier(network, network_name, num_classes, image_side)


def trace_classifier(network: nn.Module, name: str, num_classes: int, image_side: int) -> Graph:
    """The graph of a network, which is left as it was.

    Raises UserError where it cannot be traced, has another number of logits, or has no kernel that can be dropped.
    """
    try:
        with steps(f"following the channels of {name}", None):
            graph = trace(network, image_side, num_classes=num_classes)
    except NetworkRefused as error:
        ways = "; docs/your_network.md shows ways in, under Other outputs" if "expected logits" in str(error) else ""
        raise UserError(f"network {name}: {error}{ways}") from None
    check_num_classes(name, graph.num_classes, num_classes)
    if not graph.num_units:
        layer = graph.units.layers[0]
        raise UserError(
            f"network {name}: expected kernels that can be dropped, found none ({layer.name}: {layer.reason})"
        )
    return graph


def count_outputs(network: nn.Module, name: str, num_classes: int, image_side: int) -> int:
    """How many logits a network has; the number that it was made with, where that is one of its outputs.

    Raises UserError where it cannot be traced, or ends in a softmax or sigmoid: outputs behind that are no logits, of
    which others could be made.
    """
    try:
        with steps(f"counting the outputs of {name}", None):
            plain = trace_plain(network, image_side, CHANNELS, num_classes)
    except NetworkRefused as error:
        raise UserError(f"network {name}: {error}") from None
    if plain.ends:
        raise UserError(
            f"network {name}: outputs are selected among logits, it ends in a {plain.ends[-1].kind}: take that out of "
            "its forward"
        )
    return plain.values[-1].shape[1]


def load_strong_model(config: Config, artifacts: Artifacts, device: torch.device) -> Graph:
    """The trained strong model, channels-last, on the device.

    Raises UserError where it is missing, damaged, or of another width or class count.
    """
    check_network_settings(config, artifacts)
    network = build_strong_network(config)
    load_weights(network, model_files.entire_model(artifacts))
    return strong_graph(config, network, device)


def load_with_checksum(config: Config, artifacts: Artifacts, device: torch.device) -> tuple[Graph, str]:
    """The trained strong model as `load_strong_model` gives it, and the SHA-256 of its file.

    The checksum is taken first: if the file is replaced meanwhile, what is made of the weights counts as made of the
    old ones, which later stages refuse.
    """
    file = model_files.entire_model(artifacts)
    file.check_is_there()
    checksum = sha256_of(file.path)
    return load_strong_model(config, artifacts, device), checksum


def strong_graph(config: Config, network: nn.Module, device: torch.device) -> Graph:
    """The graph of the configuration's network with weights, channels-last, on the device."""
    graph = graph_of(config)
    with evaluating(network):  # some networks merge weights in that mode
        weights = {name: value.clone() for name, value in network.state_dict().items()}
    if graph.learned <= weights.keys():
        graph = graph.with_constants({name: weights.get(name, value) for name, value in graph.constants.items()})
    else:  # some weights are computed from those that the network has
        graph = trace_classifier(network, config.network_name, config.num_classes, config.image_side)
    return graph.to(device).channels_last()


def check_is_made_alike(config: Config, network: nn.Module) -> None:
    """Raises UserError where a freshly made network computes with other values of its code than the one made before.

    Such values are in no checkpoint, so that later stages would compute with others.
    """
    graph = graph_of(config)
    if graph.code_values:
        again = trace_classifier(network, config.network_name, config.num_classes, config.image_side)
        if NetworkSettings.of(config, graph).change_of_code(again):
            raise UserError(
                f"network {config.network_name}: made again it computes with other values; expected a network that "
                "computes with what its state_dict holds, no random or changing values: register these as buffers"
            )


def check_network_settings(config: Config, artifacts: Artifacts) -> None:
    """Raises UserError where the strong model is known to be of another network, or of images of another form."""
    file = model_files.network_settings(artifacts)
    recorded = file.load_if_there()
    if recorded is None:  # a checkpoint that was put there by hand
        return
    if different := recorded.difference_from(NetworkSettings.of(config)):
        raise UserError(
            f"the strong model in {file.path.parent} was made with other settings ({different}): use the same, "
            f"or set it aside with: {file.made_by}"
        )
    if changed := recorded.digest and recorded.change_of_code(graph_of(config)):
        raise UserError(
            f"the strong model in {file.path.parent} is of another network: {changed}; bring the code back, or set the "
            f"model aside with: {file.made_by}"
        )


def load_weights(network: nn.Module, file: CheckpointFile) -> None:
    """Load a checkpoint into a network. Raises UserError, with the first difference, where it does not fit."""
    if is_foreign_checkpoint(file.path):
        weights, next_step = read_foreign_file(file.path), NEXT_STEP_FOR_FOREIGN
    else:
        weights, next_step = file.load(), f"make it again with: {file.made_by}"
    if not isinstance(weights, dict):
        raise UserError(f"{file.path} is no state_dict: it holds a {type(weights).__name__}; {next_step}")
    own = network.state_dict()
    for name in [*own, *weights]:
        expected, found = (description(state.get(name)) for state in (own, weights))
        if expected != found:
            raise UserError(
                f"{file.path} is of another width, class count or network: expected {name} to be {expected}, "
                f"found {found}; {next_step}"
            )
    if not all(torch.isfinite(value).all() for value in weights.values()):
        raise UserError(f"{file.path} holds NaN or infinity; {next_step}")
    network.load_state_dict(weights)


def load_strong_split(config: Config, artifacts: Artifacts) -> Split:
    """The strong model's classes and images, as `load_split`. Raises UserError for others than it was trained on."""
    split = load_split(config, image_order(artifacts), say_copies=False)
    check_trained_on(split, artifacts)
    return split


def image_order(artifacts: Artifacts) -> ImageOrder | None:
    """The order of the strong model's images, where it came with one; None where it was trained here, or imported.

    Raises UserError where the files are damaged.
    """
    file, record = model_files.image_order(artifacts), model_files.trained_on(artifacts).load_if_there()
    if record is None or not file.exists():
        return None
    train, valid, test = (record.images.get(part, 0) for part in ("train", "valid", "test"))
    return ImageOrder(file.load(train + valid + test), (train, valid, test))


def check_trained_on(split: Split, artifacts: Artifacts) -> None:
    """Raises UserError where the strong model is known to be trained on other images."""
    file = model_files.trained_on(artifacts)
    expected = file.load_if_there()
    if expected is not None and (different := differences(expected, record_of(split))):
        raise UserError(
            f"the images are not those that the strong model was trained on, or imported with ({different}; they are "
            f"recorded in {file.path}): bring those back, or train on these with: {file.made_by} --fresh"
        )


def show_if_few(valid: Images, classes: Sequence[str]) -> None:
    """Print one line where decisions rest on too few validation images: which epoch, kernels and modules are best."""
    line = few_valid_images(np.bincount(valid.labels, minlength=len(classes)), classes)
    if line:
        print(for_stream(line, sys.stdout), flush=True)


def few_valid_images(counts: np.ndarray, classes: Sequence[str]) -> str:
    """What is too few about validation images, and what to do; empty where they are enough.

    Args:
        counts: (classes,) how many there are of each class.
        classes: their names.
    """
    n, least = int(counts.sum()), int(counts.argmin())
    if n >= LEAST_VALID and counts[least] >= LEAST_VALID_OF_CLASS:
        return ""
    error = 50 / max(n, 1) ** 0.5  # of a share of 1/2, where it is largest
    return (
        f"warning: decisions rest on {n} validation images, {counts[least]} of class {classes[least]} (standard error "
        f"of accuracies: up to {error:.0f} percentage points); add images, to {LEAST_VALID} and "
        f"{LEAST_VALID_OF_CLASS} of each class"
    )


def check_is_free(artifacts: Artifacts) -> None:
    """Raises UserError where a strong model is there, or a training that can go on and would write one."""
    for file, what in (
        (model_files.entire_model, "a strong model"),
        (model_files.training_state, "an interrupted training"),
    ):
        if file(artifacts).exists():
            raise UserError(f"{file(artifacts).path} is there, {what}: --fresh sets its folder aside")


def set_folder_aside(artifacts: Artifacts, *mine: Role) -> None:
    """Rename the folder, if it is there, and say so. Raises UserError while a stage that is not one of `mine` runs."""
    if artifacts.folder.exists():
        check_no_stage_runs(artifacts, "--fresh sets the folder aside", *mine)
        print(f"the old folder is now {set_aside(artifacts.folder)}", flush=True)


def set_other_model_aside(artifacts: Artifacts, weights: Mapping[str, Tensor], *mine: Role) -> None:
    """Rename the strong model's file, and say so, if one is there with other weights than these.

    Raises UserError while a stage that is not one of `mine` runs.
    """
    file = model_files.entire_model(artifacts)
    if not file.exists():
        return
    with contextlib.suppress(UserError):  # a damaged one has other weights
        there = file.load()
        if there.keys() == weights.keys() and all(torch.equal(there[name], weights[name]) for name in weights):
            return
    check_no_stage_runs(artifacts, "the training replaces the strong model", *mine)
    print(f"the old strong model is now {set_aside(file.path)}", flush=True)


def check_no_stage_runs(artifacts: Artifacts, doing: str, *mine: Role) -> None:
    """Raises UserError while a stage of this model that is not one of `mine` runs, which `doing` would disturb."""
    held_here = {role.lock for role in mine}
    check_nobody_holds((lock for lock in artifacts.locks_folder.glob("*.lock") if lock not in held_here), doing)
